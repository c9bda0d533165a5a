"""A prepared data set, as `prepare_data.py` wrote it: its photos, labels and boxes by split.

Free of torch; nothing is decoded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.config import DataConfig
from stacked_ram.errors import UserError

FORMAT = 1  # of dataset.yaml
SPLITS = ("train", "valid", "test")
BOX = ["box_left", "box_top", "box_right", "box_bottom"]
LIMIT_SEED = 0  # which photos `limit_photos` keeps never changes


@dataclass(frozen=True)
class Digits:
    """Raw digits of one size, and how their canvases are made (stacked_ram.data.canvas)."""

    images_NHW: np.ndarray
    """uint8, raw 0..255."""
    canvas: tuple[int, int]
    """(height, width) of the photos."""
    translate: bool = False
    clutter: int = 0
    clutter_size: int = 8
    seed: int = 0
    """Of the canvases that are composed once: valid and test, and train with `clutter: fixed`."""

    @property
    def composed(self) -> bool:
        """Whether images_NHW are canvases already."""
        return self.images_NHW.shape[1:] == self.canvas and not self.clutter


@dataclass(frozen=True)
class Dataset:
    """One split. Row i of names, labels, boxes and sizes belong to photo i."""

    name: str
    kind: str
    """photos or digits."""
    folder: Path
    split: str
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    """Of each channel over the training photos, 0 to 1."""
    std: tuple[float, ...]
    names: list[str]
    """File of each photo, relative to the folder."""
    labels: np.ndarray
    """int64 (N,), index in classes."""
    boxes: np.ndarray
    """float32 (N, 4), (left, top, right, bottom) in pixels of the stored photo; nan: no box."""
    sizes: np.ndarray
    """int64 (N, 2), (height, width) of the stored photo."""
    digits: Digits | None = None
    """kind digits only."""
    rows: np.ndarray | None = None
    """kind photos: each photo's row in the manifest."""

    def __len__(self) -> int:
        return len(self.names)


def open_dataset(config: DataConfig, split: str) -> Dataset:
    """Open one split (train, valid or test) of the data set in `config.dataset`.

    Honours train_on, fold and limit_photos (the same stratified choice every time).
    Raises UserError when there is no data set, it is of another format, the split or a class of
    the training split is empty, or the manifest does not agree with dataset.yaml.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {SPLITS}")
    folder = Path(config.dataset)
    facts = read_facts(folder)
    parts = {"train", "valid"} if split == "train" and config.train_on != "train" else {split}
    opened = (_open_digits if facts["kind"] == "digits" else _open_photos)(
        folder, facts, config, split, parts
    )
    _check_classes(opened)
    if config.limit_photos is None:
        return opened
    return _keep(opened, stratified(opened.labels, config.limit_photos))


def read_facts(folder: Path) -> dict[str, Any]:
    """dataset.yaml, checked. Raises UserError saying what is wrong with it."""
    import yaml

    path = folder / "dataset.yaml"
    if not path.is_file():
        raise UserError(
            f"no prepared data set at {folder}; run prepare_data.py SOURCE {folder}"
            + (" (the folder is there, dataset.yaml is not)" if folder.is_dir() else "")
        )
    again = f"run prepare_data.py SOURCE {folder} --overwrite"
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid YAML; {again}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(facts, dict) or "format" not in facts:
        raise UserError(f"{path}: format: missing; {again}")
    if facts["format"] != FORMAT:
        raise UserError(f"{path}: format: {facts['format']!r}, not {FORMAT}; {again}")
    facts.setdefault("name", folder.name)
    channels = facts.setdefault("channels", 3)
    good = {
        "kind": facts.get("kind") in ("photos", "digits"),
        "channels": channels in (1, 3),
        "classes": _all_of(facts.get("classes"), str) and len(facts["classes"]) > 0,
        "mean": _all_of(facts.get("mean"), (int, float)) and len(facts["mean"]) == channels,
        "std": _all_of(facts.get("std"), (int, float)) and len(facts["std"]) == channels,
    }
    for key, right in good.items():
        if not right:
            raise UserError(f"{path}: {key}: {facts.get(key)!r} is not valid; {again}")
    if len(set(facts["classes"])) < len(facts["classes"]):
        raise UserError(f"{path}: classes: a class is named twice; {again}")
    return facts


def stratified(labels_N: np.ndarray, count: int, seed: int = LIMIT_SEED) -> np.ndarray:
    """Sorted indices of `count` photos, every class with its share, drawn by the seed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]  # class by class, random within
    _, starts, sizes = np.unique(labels_N[order], return_index=True, return_counts=True)
    # how far along its class each photo is: the first ones of all classes come first
    along = (np.arange(len(order)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    first = np.arange(len(order)) == np.repeat(starts, sizes)
    along[first] = -1  # one of each class before a second of any
    return np.sort(order[np.argsort(along, kind="stable")[:count]])


def _open_photos(
    folder: Path, facts: dict[str, Any], config: DataConfig, split: str, parts: set[str]
) -> Dataset:
    manifest = _read_manifest(folder, facts)
    chosen = manifest["split"].isin(parts)
    if config.fold is not None and split != "test":
        if "fold" not in manifest:
            raise UserError(f"fold: {folder} was prepared without --folds")
        folds = sorted(manifest["fold"].dropna().astype(int).unique())
        if config.fold not in folds:
            raise UserError(f"fold: {config.fold} is not among {folder}'s folds {folds}")
        held_out = manifest["fold"] == config.fold
        trained_on = manifest["fold"].notna()
        if "valid" not in parts:
            trained_on &= ~held_out
        chosen = held_out if split == "valid" else trained_on
    rows = np.flatnonzero(chosen.to_numpy())
    part = manifest.iloc[rows]
    index = {name: label for label, name in enumerate(facts["classes"])}
    return Dataset(
        name=facts["name"],
        kind="photos",
        folder=folder,
        split=split,
        classes=tuple(facts["classes"]),
        channels=facts["channels"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        names=part["path"].tolist(),
        labels=part["class"].map(index).to_numpy(np.int64),
        boxes=part[BOX].to_numpy(np.float32),
        sizes=part[["height", "width"]].to_numpy(np.int64),
        rows=rows,
    )


def _read_manifest(folder: Path, facts: dict[str, Any]) -> Any:
    import pandas

    path = folder / "manifest.csv"
    again = f"run prepare_data.py SOURCE {folder} --overwrite"
    try:
        names = pandas.read_csv(path, nrows=0).columns
        text = {name: str for name in ("path", "class", "split")}
        manifest = pandas.read_csv(
            path,
            dtype=text,
            keep_default_na=False,
            na_values={name: [""] for name in names if name not in text},
            usecols=lambda name: name in {*text, "width", "height", "fold", *BOX},
        )
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {again}") from None
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({error}); {again}") from None
    missing = {"path", "class", "split", "width", "height"} - set(manifest.columns)
    if missing:
        raise UserError(f"{path}: no column {', '.join(sorted(missing))}; {again}")
    for name in BOX:
        if name not in manifest:
            manifest[name] = np.nan
    unknown = set(manifest["class"].unique()) - set(facts["classes"])
    if unknown:
        raise UserError(
            f"{path}: class `{min(unknown)}` is not among those of dataset.yaml; {again}"
        )
    return manifest


def _open_digits(
    folder: Path, facts: dict[str, Any], config: DataConfig, split: str, parts: set[str]
) -> Dataset:
    if config.fold is not None:
        raise UserError(f"fold: {folder} holds digits, which have no folds")
    loaded = [_read_arrays(folder, part) for part in SPLITS if part in parts]
    images_NHW = np.concatenate([images for images, _ in loaded])
    labels = np.concatenate([labels for _, labels in loaded])
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(facts["classes"]):
        raise UserError(
            f"{folder}: labels.npy has a label that is not among the classes of dataset.yaml"
        )
    digit_size = images_NHW.shape[1:]
    canvas = tuple(facts.get("canvas") or digit_size)
    count = len(labels)
    return Dataset(
        name=facts["name"],
        kind="digits",
        folder=folder,
        split=split,
        classes=tuple(facts["classes"]),
        channels=facts["channels"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        names=[f"{part}/{i}" for part, (_, ys) in zip(SPLITS, loaded, strict=False)
               for i in range(len(ys))],
        labels=labels,
        boxes=np.full((count, 4), np.nan, np.float32),
        sizes=np.tile(np.array(canvas, np.int64), (count, 1)),
        digits=Digits(
            images_NHW=images_NHW,
            canvas=canvas,
            translate=bool(facts.get("translate", False)),
            clutter=int(facts.get("clutter", 0)),
            clutter_size=int(facts.get("clutter_size", 8)),
            seed=int(facts.get("seed", 0)),
        ),
    )  # fmt: skip


def _read_arrays(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """images_NHW (uint8) and labels_N (int64) of one split of digits."""
    arrays = []
    for name in ("images", "labels"):
        path = folder / split / f"{name}.npy"
        try:
            arrays.append(np.load(path, allow_pickle=False))
        except FileNotFoundError:
            raise UserError(f"{path}: missing; {folder} has no {split} split") from None
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare it again") from None
    images, labels = arrays
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{folder / split}: images.npy and labels.npy do not belong together")
    return images, labels.astype(np.int64)


def _check_classes(dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise UserError(
            f"{dataset.folder}: the {dataset.split} split is empty; prepare the data set with one"
        )
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if dataset.split == "train" and not counts.all():
        name = dataset.classes[int(counts.argmin())]
        raise UserError(
            f"{dataset.folder}: class `{name}` has no training photo; add some or leave it out"
        )


def _keep(dataset: Dataset, rows: np.ndarray) -> Dataset:
    import dataclasses

    digits = dataset.digits
    return dataclasses.replace(
        dataset,
        names=[dataset.names[row] for row in rows],
        labels=dataset.labels[rows],
        boxes=dataset.boxes[rows],
        sizes=dataset.sizes[rows],
        rows=None if dataset.rows is None else dataset.rows[rows],
        digits=digits and dataclasses.replace(digits, images_NHW=digits.images_NHW[rows]),
    )


def _all_of(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, kind) for one in values)

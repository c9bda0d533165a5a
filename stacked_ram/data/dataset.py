"""Open a prepared data set: the photos, labels and boxes of a split.

Decodes no photo and does not import torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.arrays import check_canvas, read_arrays, read_pieces
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset_info import read_dataset_info
from stacked_ram.data.manifest import BOX, fold_numbers, multi_hot, read_manifest, read_objects
from stacked_ram.data.remote import dataset_folder
from stacked_ram.data.scenes import SceneShape
from stacked_ram.data.shard_files import ShardNames, Shards, is_sharded
from stacked_ram.runtime.errors import UserError

SPLITS = ("train", "valid", "test")
ROWS = ("labels", "boxes", "objects", "sizes")  # arrays with a row for each photo
LIMIT_SEED = 0  # fixed, so that `limit_photos` always keeps the same photos


@dataclass(frozen=True)
class Digits:
    """Digits of one size, and the settings of their canvases (stacked_ram.data.canvas)."""

    images_NHW: np.ndarray
    """uint8, 0..255: finished canvases, or digits that still need one; with `pieces_NP3`, the
    patterns of all canvases."""
    composed: bool
    """Whether images_NHW are finished canvases."""
    canvas: tuple[int, int]
    """(height, width) of the photos."""
    translate: bool = False
    clutter: int = 0
    clutter_size: int = 8
    seed: int = 0
    """Seed of the training canvases if they are composed once (`clutter: fixed`)."""
    pieces_NP3: np.ndarray | None = None
    """int32, the (pattern, row, column) of each piece in the order of drawing, if canvases are
    stored as their pieces."""

    def digest(self) -> list[Any]:
        """Return values that identify these digits and the settings of their canvases."""
        made = self.canvas, self.translate, self.clutter, self.clutter_size, self.seed
        pixels = np.ascontiguousarray(self.images_NHW)
        found = [*made, pixels.shape, hashlib.sha256(pixels.data).hexdigest()]
        if self.pieces_NP3 is not None:
            found.append(hashlib.sha256(np.ascontiguousarray(self.pieces_NP3).data).hexdigest())
        return found

    def only(self, rows: np.ndarray) -> Digits:
        """Return these digits (or canvases) only."""
        if self.pieces_NP3 is not None:
            return dataclasses.replace(self, pieces_NP3=self.pieces_NP3[rows])
        return dataclasses.replace(self, images_NHW=self.images_NHW[rows])


@dataclass(frozen=True)
class Manifest:
    """The manifest of the whole data set, which holds all splits."""

    sizes_M2: np.ndarray
    """int64, (height, width) of every stored photo."""
    rows: np.ndarray
    """The row of each photo of the split in the manifest."""
    sha256: str
    """SHA-256 of the file."""


@dataclass(frozen=True)
class Dataset:
    """One split. Entry i of names, labels, boxes and sizes belongs to photo i."""

    kind: ClassVar[str]
    """photos or digits."""
    name: str
    folder: Path
    split: str
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    """Mean of each channel over the training photos, 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training photos, 0 to 1."""
    names: Sequence[str]
    """Path of each photo, relative to the folder."""
    labels: np.ndarray
    """int64 (N,), index in classes; or uint8 (N, C), 1 for each class that the photo has, where it
    may have several or none."""
    boxes: np.ndarray
    """float32 (N, 4): left, top, right, bottom in pixels of the stored photo; nan: no box."""
    objects: np.ndarray
    """float32 (N, O, 4): the boxes of all objects of the photo's class; nan where there are
    fewer than O."""
    sizes: np.ndarray
    """int64 (N, 2): height and width of the stored photo."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several classes, or none."""
        return self.labels.ndim == 2

    def targets(self, rows: Any) -> np.ndarray:
        """Return the labels of these rows as training takes them: int64 (B,), or float32 (B, C)."""
        labels = self.labels[rows]
        return labels.astype(np.float32) if self.multi_label else labels

    def class_counts(self) -> list[int]:
        """Return the number of photos of each class."""
        if self.multi_label:
            return self.labels.sum(0, dtype=np.int64).tolist()
        return np.bincount(self.labels, minlength=len(self.classes)).tolist()

    def digest(self) -> str:
        """Return a hash that identifies these photos and labels, wherever their folder is."""
        content = [self.kind, self.classes, self.mean, self.std, self.names, self.labels.tolist()]
        return hashlib.sha256(repr([*content, self._content()]).encode()).hexdigest()

    def _content(self) -> object:
        """Return what identifies the pixels."""
        raise NotImplementedError


@dataclass(frozen=True)
class PhotoDataset(Dataset):
    """One split of photos in files."""

    kind: ClassVar[str] = "photos"
    manifest: Manifest
    scene: SceneShape | None
    """The settings of the scenes, if the photos are scenes."""
    shards: Shards | None = None
    """Where the photos lie, if not in files of their names."""
    number_N: np.ndarray | None = None
    """The number of each photo in the shards."""

    def content(self, row: int) -> bytes | None:
        """Return the file of a photo in shards; None where it lies in a file of its name."""
        if self.shards is None or self.number_N is None:
            return None
        return self.shards.read(int(self.number_N[row]))

    def numbered(self, rows: Rows) -> Rows:
        """Return rows by the numbers on which random draws depend."""
        if self.number_N is None:
            return rows
        return Rows(self.number_N[rows.index_B], rows.copy_B)

    def _content(self) -> str:
        return self.manifest.sha256


@dataclass(frozen=True)
class StreamedDataset(Dataset):
    """The training photos of a sharded data set, of which there is no list: `labels`, `boxes` and
    `objects` are empty, and `sizes` are those of the first shard."""

    kind: ClassVar[str] = "photos"
    shards: Shards

    def __len__(self) -> int:
        return len(self.shards)

    def class_counts(self) -> list[int]:
        return [self.shards.counts.get(name, 0) for name in self.classes]

    def digest(self) -> str:
        content = [self.kind, self.classes, self.mean, self.std, self.shards.digest()]
        return hashlib.sha256(repr(content).encode()).hexdigest()


@dataclass(frozen=True)
class DigitDataset(Dataset):
    """One split of digits in arrays."""

    kind: ClassVar[str] = "digits"
    digits: Digits

    def _content(self) -> list[Any]:
        return self.digits.digest()


OneSplit = TypeVar("OneSplit", bound=Dataset)


def open_dataset(config: DataConfig, split: str, stream: bool = False) -> Dataset:
    """Open one split (train, valid or test) of the data set in `config.dataset`.

    `config` also gives train_on, fold and limit_photos (always the same stratified choice).
    stream: of a sharded data set, do not list the photos; for training on them.

    Raises UserError if the data set is missing, damaged or of another format, if the split has no
    photos, or if a class has no training photo.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {SPLITS}")
    folder = dataset_folder(config.dataset)
    info = read_dataset_info(folder)
    parts = {"train", "valid"} if split == "train" and config.train_on != "train" else {split}
    open_kind = _open_digits if info["kind"] == "digits" else _open_photos
    opened: Dataset
    if is_sharded(folder):
        opened = _open_shards(folder, info, config, split, parts, stream)
    else:
        opened = open_kind(folder, info, config, split, parts)
    _check_classes(opened)
    if config.limit_photos is None:
        return opened
    return only(opened, stratified(opened.labels, config.limit_photos))


def is_uneven(counts: Sequence[int], times: float) -> bool:
    """Return whether the largest class has `times` the photos of the smallest that has any."""
    present = [count for count in counts if count]
    return bool(present) and max(present) >= times * min(present)


def stratified(labels_N: np.ndarray, count: int, seed: int = LIMIT_SEED) -> np.ndarray:
    """Draw `count` photos in the proportions of the classes; return their sorted indices.

    labels_N: the class of each photo; or N x C, and photos with the same classes count as one.
    """
    if labels_N.ndim == 2:
        labels_N = np.unique(labels_N, axis=0, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]  # class by class, random within
    _, starts, sizes = np.unique(labels_N[order], return_index=True, return_counts=True)
    # The position of each photo within its class, 0 to 1: the lowest positions are kept.
    along = (np.arange(len(order)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    first = np.arange(len(order)) == np.repeat(starts, sizes)
    along[first] = -1  # every class gets a photo before any class gets two
    return np.sort(order[np.argsort(along, kind="stable")[:count]])


def _common_fields(folder: Path, info: dict[str, Any], split: str) -> dict[str, Any]:
    """Return the fields of a Dataset that come from dataset.yaml."""
    return {
        "folder": folder,
        "split": split,
        "name": info["name"],
        "channels": info["channels"],
        **{name: tuple(info[name]) for name in ("classes", "mean", "std")},
    }


def _open_photos(
    folder: Path, info: dict[str, Any], config: DataConfig, split: str, parts: set[str]
) -> PhotoDataset:
    manifest = read_manifest(folder, info)
    chosen = manifest["split"].isin(parts)
    if config.fold is not None and split != "test":
        folds = fold_numbers(manifest, folder)
        if config.fold not in folds:
            raise UserError(f"fold: {config.fold} is not among {folder}'s folds {folds}")
        held_out = manifest["fold"] == config.fold
        trained_on = manifest["fold"].notna()
        if "valid" not in parts:
            trained_on &= ~held_out
        chosen = held_out if split == "valid" else trained_on
    with open(folder / "manifest.csv", "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    rows = np.flatnonzero(chosen.to_numpy())
    part = manifest.iloc[rows]
    if info.get("labels") == "several":
        labels = multi_hot(part["labels"].tolist(), info["classes"])
    else:
        label = {name: label for label, name in enumerate(info["classes"])}
        classes = part["class"].cat
        labels = np.array([label[name] for name in classes.categories], np.int64)[classes.codes]
    return PhotoDataset(
        **_common_fields(folder, info, split),
        names=part["path"].tolist(),
        labels=labels,
        boxes=part[BOX].to_numpy(np.float32),
        objects=read_objects(folder, part),
        sizes=part[["height", "width"]].to_numpy(np.int64),
        manifest=Manifest(
            sizes_M2=manifest[["height", "width"]].to_numpy(np.int64),
            rows=rows,
            sha256=sha256,
        ),
        scene=SceneShape.from_info(info["scene"]) if info.get("scene") else None,
    )


def _open_shards(
    folder: Path,
    info: dict[str, Any],
    config: DataConfig,
    split: str,
    parts: set[str],
    stream: bool,
) -> PhotoDataset | StreamedDataset:
    if config.fold is not None:
        raise UserError(f"fold: {folder} holds shards, which have no folds; use the folder")
    shards = Shards(folder, [part for part in SPLITS if part in parts], config.cache_limit)
    common = _common_fields(folder, info, split)
    if not stream:
        return photos_in_shards(common, shards, np.arange(len(shards)))
    if config.limit_photos is not None:
        raise UserError(
            f"limit_photos: {folder} holds shards, which are trained on as a whole; use the folder"
        )
    some = np.arange(shards.starts_S[1] if len(shards) else 0)
    sizes = shards.table(some).size if len(some) else np.empty((0, 2), np.int64)
    several = (len(info["classes"]),) if info.get("labels") == "several" else ()
    return StreamedDataset(
        **common,
        names=ShardNames(shards),
        labels=np.empty((0, *several), np.int64),
        boxes=np.empty((0, 4), np.float32),
        objects=np.empty((0, 1, 4), np.float32),
        sizes=sizes,
        shards=shards,
    )


def photos_in_shards(
    common: dict[str, Any] | Dataset, shards: Shards, numbers_N: np.ndarray
) -> PhotoDataset:
    """Return some photos of shards as a data set. common: fields that all photos share, or a data
    set that has them."""
    if isinstance(common, Dataset):
        names = ("folder", "split", "name", "channels", "classes", "mean", "std")
        common = {name: getattr(common, name) for name in names}
    table = shards.table(numbers_N)
    return PhotoDataset(
        **common,
        names=table.name.tolist(),
        labels=table.label,
        boxes=table.box,
        objects=table.objects,
        sizes=table.size,
        manifest=Manifest(table.size, np.arange(len(numbers_N)), shards.digest()),
        scene=None,
        shards=shards,
        number_N=numbers_N,
    )


def folds_of(config: DataConfig) -> list[int]:
    """Return the numbers of the folds of a data set. Raises UserError if it has none."""
    folder = dataset_folder(config.dataset)
    info = read_dataset_info(folder)
    if is_sharded(folder):
        raise UserError(f"fold: {folder} holds shards, which have no folds; use the folder")
    if info["kind"] == "digits":
        raise UserError(f"fold: {folder} holds digits, which have no folds")
    return fold_numbers(read_manifest(folder, info), folder)


def _open_digits(
    folder: Path, info: dict[str, Any], config: DataConfig, split: str, parts: set[str]
) -> DigitDataset:
    if config.fold is not None:
        raise UserError(f"fold: {folder} holds digits, which have no folds")
    check_canvas(folder, info)
    clutter = int(info.get("clutter", 0))
    training = split == "train"
    loaded = {part: read_arrays(folder, part, training) for part in SPLITS if part in parts}
    images_NHW, labels, objects = map(np.concatenate, zip(*loaded.values(), strict=True))
    pieces_NP3 = read_pieces(folder, [(part, len(loaded[part][0])) for part in loaded])
    canvas = tuple(info.get("canvas") or images_NHW.shape[1:])
    if not training and pieces_NP3 is None and images_NHW.shape[1:] != canvas:
        raise UserError(
            f"{folder / split / 'images.npy'}: photos of {images_NHW.shape[1:]}, but dataset.yaml "
            f"says {canvas}; prepare the data set again"
        )
    count = len(info["classes"])
    several = info.get("labels") == "several"
    shape, limit = ((len(labels), count), 2) if several else ((len(labels),), count)
    if labels.shape != shape or (len(labels) and not 0 <= labels.min() <= labels.max() < limit):
        raise UserError(
            f"{folder}: labels.npy has a label that is not among the classes of dataset.yaml;"
            " prepare the data set again"
        )
    return DigitDataset(
        **_common_fields(folder, info, split),
        names=[
            f"{part}/images.npy:{i}" for part, (_, ys, _) in loaded.items() for i in range(len(ys))
        ],
        labels=labels.astype(np.uint8) if several else labels,
        boxes=objects[:, 0],
        objects=objects,
        sizes=np.tile(np.array(canvas, np.int64), (len(labels), 1)),
        digits=Digits(
            images_NHW=images_NHW,
            composed=not training or (images_NHW.shape[1:] == canvas and not clutter),
            canvas=canvas,
            translate=bool(info.get("translate", False)),
            clutter=clutter,
            clutter_size=int(info.get("clutter_size", 8)),
            seed=int(info.get("seed", 0)),
            pieces_NP3=pieces_NP3,
        ),
    )


def _check_classes(dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise UserError(
            f"{dataset.folder}: the {dataset.split} split is empty; prepare the data set with one"
        )
    counts = dataset.class_counts()
    if dataset.split == "train" and not all(counts):
        name = dataset.classes[counts.index(0)]
        raise UserError(
            f"{dataset.folder}: class `{name}` has no training photo; add some or remove the class"
        )


def only(dataset: OneSplit, rows: np.ndarray) -> OneSplit:
    """Return a split with only these rows."""
    kept: dict[str, Any] = {name: getattr(dataset, name)[rows] for name in ROWS}
    if isinstance(dataset, PhotoDataset):
        manifest = dataset.manifest
        kept["manifest"] = dataclasses.replace(manifest, rows=manifest.rows[rows])
        if dataset.number_N is not None:
            kept["number_N"] = dataset.number_N[rows]
    elif isinstance(dataset, DigitDataset):
        kept["digits"] = dataset.digits.only(rows)
    return dataclasses.replace(dataset, names=[dataset.names[row] for row in rows], **kept)

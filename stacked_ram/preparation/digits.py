"""Prepare MNIST, Fashion-MNIST or KMNIST, plain or as the paper's translated and cluttered tasks.

DEST holds `{train,valid,test}/images.npy` (uint8, 0..255) and `labels.npy` (int64), dataset.yaml
(`kind: digits`), report.html, and report.csv with a row per digit. The validation split is drawn
from the training files; the official test split is kept.

With a canvas, the photos of valid and test are composed here, once, from the seed, so that everyone
measures on the same photos. Their images.npy holds the canvases, boxes.npy the boxes of the digits
(int64; left, top, right, bottom) and digits.npy the digits alone. dataset.yaml records the SHA-256
of the pixels of each images.npy. Training digits are stored without a canvas: stacked_ram.data
composes new canvases in every epoch. Clutter is cut from other digits of the same split.
"""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path

import numpy as np

from stacked_ram.images.names import path_text
from stacked_ram.preparation.digit_report import write_digit_reports
from stacked_ram.preparation.idx import PARTS, find_idx, read_idx
from stacked_ram.preparation.megapixel import CANVASES, DIGITS, SAME, SEEDS, draw_canvases
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.workdir import (
    origin_of,
    publish,
    remove_tree,
    working_folder,
    write_info,
)
from stacked_ram.runtime.errors import UserError

PAPER_CANVAS = (60, 60)  # default size of the canvas for translated or cluttered digits
VALID_RATIO = 1 / 12  # default --valid-ratio: 5,000 of the 60,000 training digits
MEGAPIXEL_VALID_RATIO = 0.1
PARTS_OF_SPLITS = {"train": "train", "valid": "train", "test": "t10k"}
CHUNK = 1000  # canvases composed at a time; another value gives other canvases for a seed
FASHION = (
    "T-shirt or top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
Arrays = dict[str, dict[str, np.ndarray]]  # split -> name of a file -> its content


def prepare_digits(options: PrepareOptions, folder: Path) -> Path:
    """Make DEST from the IDX files in `folder`; return DEST.

    The caller must check that DEST may be written.

    Raises:
        UserError: files are missing or damaged, or an option does not apply to digits.
    """
    options.refuse_unused("digits")
    if options.megapixel is not None:
        return _prepare_megapixel(options, options.megapixel, folder)
    if options.multi_label:
        raise UserError(
            "--multi-label: a digit has one class; several are on a canvas of --megapixel SIDE"
        )
    clutter = options.clutter or 0
    canvas = options.canvas_size or (PAPER_CANVAS if options.translate or clutter else None)
    splits, classes, sources = _read_splits(options, folder)
    digit_size = splits["train"][0].shape[1:]
    if canvas is not None and (canvas[0] < digit_size[0] or canvas[1] < digit_size[1]):
        raise UserError(
            f"--canvas {options.canvas}: smaller than the digits ({digit_size[1]}x{digit_size[0]});"
            " give a larger one"
        )
    if clutter and options.clutter_size > min(digit_size):
        raise UserError(
            f"--clutter-size {options.clutter_size}: clutter is cut from digits of "
            f"{digit_size[1]}x{digit_size[0]}; give a smaller one"
        )
    arrays: Arrays = {}
    for split, (images_NHW, labels_N) in splits.items():
        arrays[split] = {"images": images_NHW, "labels": labels_N}
        if canvas is not None and split != "train" and len(labels_N):
            arrays[split]["digits"] = images_NHW
            arrays[split]["images"], arrays[split]["boxes"] = compose_split(
                images_NHW, split, canvas, options.translate, clutter, options.clutter_size,
                options.seed,
            )  # fmt: skip
    return _write(
        options,
        arrays,
        classes,
        sources,
        canvas=list(canvas or digit_size),
        translate=options.translate,
        clutter=clutter,
        clutter_size=options.clutter_size,
        rule=f"the official test; {len(splits['valid'][1]):,} of the "
        f"{len(splits['valid'][1]) + len(splits['train'][1]):,} training digits drawn, "
        "stratified by class, for validation",
    )


def _prepare_megapixel(options: PrepareOptions, side: int, folder: Path) -> Path:
    """Make Megapixel MNIST (megapixel.py); with --multi-label, for its task "multi"."""
    several = options.multi_label
    official = _read_files(folder)
    drawn = {
        part: draw_canvases(*official[part], CANVASES[part], side, options.scribbles, SEEDS[part])
        for part in PARTS_OF_SPLITS.values()
    }
    valid_N = _draw(drawn["train"].labels_N, options, MEGAPIXEL_VALID_RATIO)
    arrays: Arrays = {}
    sources = {}
    for split, part in PARTS_OF_SPLITS.items():
        canvases, count = drawn[part], CANVASES[part]
        kept_N = {"train": ~valid_N, "valid": valid_N}.get(split, np.ones(count, bool))
        arrays[split] = {
            "images": canvases.patterns,
            "pieces": canvases.pieces_NP3[kept_N],
            "labels": (canvases.labels_NC if several else canvases.labels_N)[kept_N],
            "boxes": canvases.boxes(DIGITS if several else SAME)[kept_N],
        }
        sources[split] = f"{part}-canvas", np.flatnonzero(kept_N)
    return _write(
        options,
        arrays,
        tuple(map(str, range(10))),
        sources,
        canvas=[side, side],
        scribbles=options.scribbles,
        **({"labels": "several"} if several else {}),
        rule=f"Megapixel MNIST's own test; {valid_N.sum():,} of its {len(valid_N):,} training "
        "canvases drawn, stratified by class, for validation",
    )


def _write(
    options: PrepareOptions,
    arrays: Arrays,
    classes: tuple[str, ...],
    sources: dict[str, tuple[str, np.ndarray]],
    rule: str,
    **more: object,
) -> Path:
    """Write the data set; return DEST. sources: as for `write_digit_reports`. more: entries of
    dataset.yaml."""
    tree = working_folder(options.dest) / "dataset"
    remove_tree(tree)
    hashes, counts, photos = {}, {}, {}
    for split, content in arrays.items():
        hashed = hashlib.sha256(content["images"].tobytes())
        hashed.update(content.get("pieces", np.empty(0)).tobytes())
        hashes[split] = hashed.hexdigest()
        labels = content["labels"]
        several = labels.ndim == 2
        count_N = labels.sum(0) if several else np.bincount(labels, minlength=len(classes))
        counts[split] = dict(zip(classes, count_N.tolist(), strict=True))
        photos[split] = len(labels)
        _save(tree / split, content)
    info = {
        "format": 1,
        "kind": "digits",
        "name": options.dest.name,
        "classes": list(classes),
        "counts": counts,
        **({"photos": photos} if more.get("labels") else {}),
        "mean": [0.0],  # the model sees 0..1 with the background exactly 0
        "std": [1.0],
        "channels": 1,
        **more,
        "seed": options.seed,
        "layout": "mnist",
        "left_out": {},
        "repaired": {},
        "notes": [],
        "rule": rule,
        "sha256": hashes,
        "options": options.recorded(),
        **origin_of(
            options.dest, options.source, numpy=np.__version__, torch=metadata.version("torch")
        ),
    }
    write_info(tree, info)
    write_digit_reports(tree, info, sources)
    publish(tree, options.dest)
    return options.dest


def compose_split(
    images_NHW: np.ndarray,
    split: str,
    canvas: tuple[int, int],
    translate: bool,
    clutter: int,
    clutter_size: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed canvases of one split (N H W) and the boxes of their digits (N 4)."""
    import torch

    from stacked_ram.data.canvas import compose

    generator = torch.Generator().manual_seed(len(SPLITS) * seed + SPLITS.index(split))
    pool_NHW = torch.from_numpy(images_NHW)
    composed = [
        compose(
            pool_NHW[index_B], canvas, translate=translate, clutter=clutter,
            clutter_size=clutter_size, generator=generator, pool_NHW=pool_NHW, index_B=index_B,
        )
        for index_B in torch.arange(len(pool_NHW)).split(CHUNK)
    ]  # fmt: skip
    pixels_NHW = torch.cat([pixels_B1HW[:, 0] for pixels_B1HW, _ in composed])
    return pixels_NHW.numpy(), torch.cat([boxes_B4 for _, boxes_B4 in composed]).numpy()


def _read_splits(
    options: PrepareOptions, folder: Path
) -> tuple[
    dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...], dict[str, tuple[str, np.ndarray]]
]:
    """Read the IDX files and split them.

    Returns:
        split -> (images_NHW, labels_N); the class names in the order of the labels; and
        split -> (name of the file that its digits come from, their numbers in that file).
    """
    official = _read_files(folder)
    classes = _class_names(
        options, folder, 1 + int(max(ys.max(initial=0) for _, ys in official.values()))
    )
    numbers = {part: np.arange(len(labels_N)) for part, (_, labels_N) in official.items()}
    if options.class_list:
        official, numbers, classes = _keep_classes(official, classes, options.class_list)
    images_NHW, labels_N = official["train"]
    valid_N = _draw(labels_N, options, VALID_RATIO)
    files = find_idx(folder)
    train_name, test_name = (path_text(files[f"{part}-images"].name) for part in ("train", "t10k"))
    return (
        {
            "train": (images_NHW[~valid_N], labels_N[~valid_N]),
            "valid": (images_NHW[valid_N], labels_N[valid_N]),
            "test": official["t10k"],
        },
        classes,
        {
            "train": (train_name, numbers["train"][~valid_N]),
            "valid": (train_name, numbers["train"][valid_N]),
            "test": (test_name, numbers["t10k"]),
        },
    )


def _read_files(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the digits and labels of both parts, train and t10k. Raises UserError."""
    files = find_idx(folder)
    missing = [part for part in PARTS if part not in files]
    if missing:
        raise UserError(
            f"{folder}: {missing[0]}-idx{'3' if 'images' in missing[0] else '1'}-ubyte "
            "(or .gz) is missing; put the four files of the data set in one folder"
        )
    official = {}
    for part in ("train", "t10k"):
        images_NHW, labels_N = read_idx(files[f"{part}-images"]), read_idx(files[f"{part}-labels"])
        if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
            raise UserError(
                f"{files[f'{part}-labels']}: {labels_N.shape} labels for images of shape "
                f"{images_NHW.shape}: the two files do not belong together"
            )
        official[part] = images_NHW, labels_N.astype(np.int64)
    if official["t10k"][0].shape[1:] != official["train"][0].shape[1:]:
        raise UserError(f"{folder}: training and test digits differ in size")
    return official


def _class_names(options: PrepareOptions, folder: Path, count: int) -> tuple[str, ...]:
    """Return the class names, by the folder's name: all three sets have the same file names."""
    name = f"{options.download or ''} {folder.resolve().name} {options.dest.name}".lower()
    if count == len(FASHION) and "fashion" in name:
        return FASHION
    if count == len(KUZUSHIJI) and ("kmnist" in name or "kuzushiji" in name):
        return KUZUSHIJI
    return tuple(str(label) for label in range(count))


def _keep_classes(
    official: dict[str, tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], names: list[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray], tuple[str, ...]]:
    """Select the digits of some classes.

    Returns:
        The digits with new labels, their numbers in the files, and the names of the classes.
    """
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise UserError(f"--classes: no class {unknown[0]!r}; known: {', '.join(classes)}")
    kept = [label for label, name in enumerate(classes) if name in names]
    number = np.full(len(classes), -1)
    number[kept] = np.arange(len(kept))
    chosen, numbers = {}, {}
    for part, (images_NHW, labels_N) in official.items():
        numbers[part] = np.flatnonzero(number[labels_N] >= 0)
        chosen[part] = images_NHW[numbers[part]], number[labels_N[numbers[part]]]
    return chosen, numbers, tuple(classes[label] for label in kept)


def _draw(labels_N: np.ndarray, options: PrepareOptions, default: float) -> np.ndarray:
    """Draw the validation digits, stratified by class, from the seed; return a mask (bool)."""
    drawn_N = np.zeros(len(labels_N), bool)
    ratio = default if options.valid_ratio is None else options.valid_ratio
    count = round(ratio * len(labels_N))
    if count:
        from sklearn.model_selection import train_test_split

        try:
            _, valid = train_test_split(
                np.arange(len(labels_N)), test_size=count, stratify=labels_N,
                random_state=options.seed,
            )  # fmt: skip
        except ValueError as error:  # too few of a class
            raise UserError(f"--valid-ratio {ratio}: {error}") from error
        drawn_N[valid] = True
    return drawn_N


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())

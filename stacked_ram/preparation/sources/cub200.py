"""Read CUB-200-2011: photos of birds with an official split and a box per photo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Record
from stacked_ram.preparation.sources.common import Source, inside, read_lines
from stacked_ram.runtime.errors import UserError

_NEEDED = ("images.txt", "image_class_labels.txt", "classes.txt")


def fits(root: Path) -> bool:
    """Return whether the lists of CUB-200-2011 exist."""
    return all((root / name).is_file() for name in _NEEDED[:2])


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos, with the split and the boxes if their lists exist.

    Class names lose their number ("Black_footed_Albatross").
    """
    for name in _NEEDED:
        if not (root / name).is_file():
            raise UserError(f"{root}: not CUB-200-2011: {name} is missing")
    has_split = (root / "train_test_split.txt").is_file()
    return Source("cub200", _records(root, has_split), "the official split" if has_split else "")


def _records(root: Path, has_split: bool) -> Iterator[Record]:
    classes = {key: name.split(".", 1)[-1] for key, name in _pairs(root / "classes.txt")}
    labels = dict(_pairs(root / "image_class_labels.txt"))
    in_train = dict(_pairs(root / "train_test_split.txt")) if has_split else {}
    boxes_file = root / "bounding_boxes.txt"
    boxes = dict(_pairs(boxes_file)) if boxes_file.is_file() else {}
    for key, name in sorted(_pairs(root / "images.txt"), key=lambda pair: pair[1]):
        where = f"{root / 'images.txt'}: image {key}"
        if labels.get(key) not in classes:
            raise UserError(f"{where}: its class is not in image_class_labels.txt and classes.txt")
        split = {"1": "train", "0": "test"}.get(in_train.get(key, ""))
        box = None
        if key in boxes:
            try:
                left, top, width, height = (float(number) for number in boxes[key].split())
            except ValueError:
                raise UserError(f"{boxes_file}: image {key}: needs x y width height") from None
            box = (left, top, left + width, top + height)
        yield Record(inside(root / "images", name, where), classes[labels[key]], split, "", box)


def _pairs(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        key, _, value = line.strip().partition(" ")
        if not value.strip():
            raise UserError(f"{path}: line {number}: needs a number and a value")
        pairs.append((key, value.strip()))
    return pairs

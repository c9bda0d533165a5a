"""Read Stanford Dogs: Images/, and lists/*.mat and Annotation/ if they exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stacked_ram.images.names import path_text
from stacked_ram.preparation.boxes import largest_box
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, entries, read_mat, walk
from stacked_ram.preparation.sources.voc import read_annotation
from stacked_ram.runtime.errors import UserError


def fits(root: Path) -> bool:
    """Return whether Images/ holds folders named like n02085620-Chihuahua."""
    images = root / "Images"
    return images.is_dir() and any(
        folder.name.startswith("n0") and "-" in folder.name for folder in entries(images)[0]
    )


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos by breed, with the official split and the boxes if they exist."""
    if not fits(root):
        raise UserError(f"{root}: not Stanford Dogs: Images/n02085620-Chihuahua/ ... is missing")
    splits: dict[str, str] = {}
    lists = {"train": root / "lists/train_list.mat", "test": root / "lists/test_list.mat"}
    if all(path.is_file() for path in lists.values()):
        for split, path in lists.items():
            for name in read_mat(path, ["file_list"])["file_list"].ravel():
                splits[str(name.item()).strip()] = split
    source = Source("stanford_dogs", [], "the official split" if splits else "")
    source.records = _records(root, splits, source)
    return source


def _records(root: Path, splits: dict[str, str], source: Source) -> Iterator[Record]:
    annotations = root / "Annotation"
    has_boxes = annotations.is_dir()
    unreadable = 0
    for folder in entries(root / "Images")[0]:
        breed = path_text(folder.name.split("-", 1)[-1])
        for file in walk(folder):
            boxes: tuple[tuple[str, Box], ...] = ()
            size = None
            path = annotations / folder.name / file.stem
            if has_boxes and path.is_file():
                try:
                    found = read_annotation(path)
                    boxes, size = tuple((breed, box) for _, box in found.boxes), found.size
                except ValueError:
                    pass
                unreadable += not boxes
            split = splits.get(f"{folder.name}/{file.name}")
            yield Record(file, breed, split, "", largest_box(boxes), size, boxes)
    if unreadable:
        source.notes.append(f"{unreadable} annotations could not be read: their photos have no box")

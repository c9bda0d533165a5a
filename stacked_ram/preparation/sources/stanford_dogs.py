"""Read Stanford Dogs: Images/, and lists/*.mat and Annotation/ if they exist."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from stacked_ram.images.names import path_text
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, entries, read_mat, walk
from stacked_ram.runtime.errors import UserError

_MOST_BYTES = 2**20


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
    boxes = root / "Annotation"
    has_boxes = boxes.is_dir()
    unreadable = 0
    for folder in entries(root / "Images")[0]:
        breed = path_text(folder.name.split("-", 1)[-1])
        for file in walk(folder):
            box = size = None
            annotation = boxes / folder.name / file.stem
            if has_boxes and annotation.is_file():
                try:
                    box, size = read_annotation(annotation)
                except ValueError:
                    unreadable += 1
            split = splits.get(f"{folder.name}/{file.name}")
            yield Record(file, breed, split, "", box, size)
    if unreadable:
        source.notes.append(f"{unreadable} annotations could not be read: their photos have no box")


def read_annotation(path: Path) -> tuple[Box, tuple[int, int] | None]:
    """Read a PASCAL VOC annotation: the box of its largest object, and the photo's (width, height).

    Raises:
        ValueError: the file is not such an annotation.
    """
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    # Annotations need no entities, which malicious files use to expand without end.
    if len(text) > _MOST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("not an annotation")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    boxes = []
    for found in tree.iter("bndbox"):
        left, top, right, bottom = (
            float(found.findtext(name) or "nan") for name in ("xmin", "ymin", "xmax", "ymax")
        )
        if left < right and top < bottom:
            boxes.append((left, top, right, bottom))
    if not boxes:
        raise ValueError("no box")
    width, height = (int(tree.findtext(f"size/{name}") or 0) for name in ("width", "height"))
    largest = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    return largest, (width, height) if width and height else None

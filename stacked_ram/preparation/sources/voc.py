"""Read PASCAL VOC annotations: an XML file for each photo, with the boxes of its objects."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stacked_ram.images.names import printable
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, entries, read_lines, split_of, walk
from stacked_ram.preparation.sources.objects import ObjectRecords, split_in_path
from stacked_ram.preparation.sources.photo_names import PhotoFinder
from stacked_ram.runtime.errors import UserError

_MOST_BYTES = 2**20
_FOLDERS = ("Annotations", "annotations", "xmls")
_LISTS = {"train": "train.txt", "valid": "val.txt", "test": "test.txt"}


@dataclass(frozen=True)
class Annotation:
    """The boxes of a photo. size: its (width, height) if given; photo: its name, "" if not."""

    boxes: tuple[tuple[str, Box], ...]
    size: tuple[int, int] | None
    photo: str


def fits(root: Path) -> bool:
    """Return whether the first XML file where annotations usually are is one."""
    inner = [folder for folder in entries(root)[0] if split_of(folder.name)]
    for base in (root, *inner):
        for folder in (base, *(base / name for name in _FOLDERS)):
            files = entries(folder)[1] if folder.is_dir() else []
            first = next((file for file in files if file.suffix.lower() == ".xml"), None)
            if first is not None:
                try:
                    read_annotation(first)
                except ValueError:
                    return False
                return True
    return False


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos that have an annotation; the class is that of the largest object.

    The split is that of ImageSets/Main/ or, if there is none, of folders called train, val, test.
    """
    if not fits(root):
        raise UserError(f"{root}: no VOC annotations (Annotations/*.xml, or beside the photos)")
    annotations = [file for file in walk(root) if file.suffix.lower() == ".xml"]
    lists = {split: root / "ImageSets/Main" / name for split, name in _LISTS.items()}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    splits = {line.split()[0]: split for split in lists for line in read_lines(lists[split])}
    split_name = ""
    if splits:
        split_name = "ImageSets/Main"
    else:
        named = {split_in_path(file.relative_to(root).parts[:-1]) for file in annotations}
        split_name = "the folders' own split" if len(named - {None}) > 1 else ""
    source = Source("voc", [], split_name)
    source.records = _records(root, annotations, splits, source, options)
    return source


def _records(
    root: Path,
    annotations: list[Path],
    splits: dict[str, str],
    source: Source,
    options: PrepareOptions,
) -> Iterator[Record]:
    photos, objects = PhotoFinder(root, root), ObjectRecords(options)
    for file in annotations:
        try:
            annotation = read_annotation(file)
        except ValueError as error:
            raise UserError(f"{file}: not a VOC annotation ({error})") from error
        parts = file.relative_to(root).parts[:-1]
        split = splits.get(file.stem) if splits else split_in_path(parts)
        photo = photos.find(file.stem, str(file), near=file.parent, other=annotation.photo)
        record = objects.record(photo, annotation.boxes, split, annotation.size)
        if record is not None:
            yield record
    photos.check()
    objects.add_notes(source, photos.count() - photos.found, "an annotation")


def read_annotation(path: Path) -> Annotation:
    """Read a PASCAL VOC annotation.

    Raises:
        ValueError: the file is not such an annotation.
    """
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    # Annotations need no entities, which malicious files use to expand without end.
    if len(text) > _MOST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("too large, or has a DOCTYPE")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if tree.tag != "annotation":
        raise ValueError(f"<{tree.tag}> instead of <annotation>")
    boxes = []
    for found in tree.iter("object"):
        sides = (found.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = (float(side or "nan") for side in sides)
        if left < right and top < bottom:
            name = printable((found.findtext("name") or "").strip())
            boxes.append((name, (left, top, right, bottom)))
    width, height = (float(tree.findtext(f"size/{n}") or 0) for n in ("width", "height"))
    known = 0 < width < math.inf and 0 < height < math.inf
    size = (int(width), int(height)) if known else None
    return Annotation(tuple(boxes), size, (tree.findtext("filename") or "").strip())

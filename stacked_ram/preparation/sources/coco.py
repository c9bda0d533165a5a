"""Read COCO annotations: JSON files that list photos and the boxes of their objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stacked_ram.images.names import printable
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, entries, read_text, split_of
from stacked_ram.preparation.sources.objects import ObjectRecords, split_in_path
from stacked_ram.preparation.sources.photo_names import PhotoFinder
from stacked_ram.runtime.errors import UserError

_KEYS = ("images", "annotations", "categories")
_FIRST_KEY = re.compile(r'\s*\{\s*"(images|annotations|categories|info|licenses|type)"')
_PEEK = 4096
_MOST_TO_TRY = 2**26  # bytes; a larger file is taken for COCO by its first key


def fits(root: Path) -> bool:
    """Return whether there are COCO files here, in annotations/, or in the folders of splits."""
    return bool(_files(root))


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos with objects; the class is that of the largest object.

    Files whose names or folders say train, val or test give the split.
    """
    files = _given(root, options.labels) if options.labels is not None else _files(root)
    if not files:
        raise UserError(f"{root}: no COCO annotations (annotations/*.json) found")
    splits = [_split(root, file) for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{root}: several files with annotations ({names}): choose one with --labels, or let "
            "their names say train, val and test"
        )
    split_name = f"the files {', '.join(file.name for file in files)}" if len(files) > 1 else ""
    source = Source("coco", [], split_name)
    pairs = [
        (file, split if split_name else None) for file, split in zip(files, splits, strict=True)
    ]
    source.records = _records(root, pairs, source, options)
    return source


def _files(root: Path) -> list[Path]:
    """Return the files with boxes. Beside instances_*.json, others hold the same photos again."""
    folders, files = entries(root)
    for folder in folders:
        if folder.name.lower() == "annotations" or split_of(folder.name):
            files += entries(folder)[1]
    found = [file for file in files if file.suffix.lower() == ".json" and _is_coco(file)]
    instances = [file for file in found if file.name.startswith("instances")]
    return instances or found


def _given(root: Path, labels: Path) -> list[Path]:
    path = next((path for path in (labels, root / labels) if path.is_file()), None)
    if path is None:
        raise UserError(f"--labels {labels}: no such file, neither here nor in {root}")
    return [path]


def _is_coco(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8") as opened:
            if not _FIRST_KEY.match(opened.read(_PEEK)):
                return False
        if file.stat().st_size > _MOST_TO_TRY:
            return True
        _load(file)
    except (OSError, UnicodeDecodeError, UserError):
        return False
    return True


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _KEYS):
        raise UserError(f"{file}: not COCO annotations: needs the lists {', '.join(_KEYS)}")
    return content


def _split(root: Path, file: Path) -> str | None:
    words = re.split(r"[-_. ]", file.stem)
    within = file.absolute().relative_to(root).parts[:-1] if root in file.absolute().parents else ()
    return split_in_path(words) or split_in_path(within)


def _records(
    root: Path,
    files: list[tuple[Path, str | None]],
    source: Source,
    options: PrepareOptions,
) -> Iterator[Record]:
    objects = ObjectRecords(options)
    photos_found = count = 0
    for file, split in files:
        photos = PhotoFinder(root, file)
        content = _load(file)
        try:
            names = {entry["id"]: printable(str(entry["name"])) for entry in content["categories"]}
            boxes: dict[Any, list[tuple[str, Box]]] = {}
            labels: dict[Any, set[str]] = {}
            for entry in content["annotations"]:
                if options.multi_label:  # also without a box
                    labels.setdefault(entry["image_id"], set()).add(names[entry["category_id"]])
                if entry.get("iscrowd") or "bbox" not in entry:
                    continue
                left, top, width, height = map(float, entry["bbox"])
                if width > 0 and height > 0:
                    box = names[entry["category_id"]], (left, top, left + width, top + height)
                    boxes.setdefault(entry["image_id"], []).append(box)
            for image in sorted(content["images"], key=lambda image: str(image["file_name"])):
                size = int(image.get("width") or 0), int(image.get("height") or 0)
                photo = photos.find(str(image["file_name"]), str(file), split)
                found = boxes.get(image["id"], ())
                record = objects.record(
                    photo,
                    found,
                    split,
                    size if all(size) else None,
                    labels=labels.get(image["id"], ()),
                )
                if record is not None:
                    yield record
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{file}: not COCO annotations ({type(error).__name__}: {error})"
            ) from error
        photos.check()
        photos_found += photos.found
        count = photos.count()
    objects.add_notes(source, count - photos_found, "an entry in the annotations")

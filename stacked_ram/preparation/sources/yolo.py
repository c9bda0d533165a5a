"""Read YOLO labels: a text file for each photo, with the classes and boxes of its objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from stacked_ram.images.formats import SUFFIXES
from stacked_ram.images.names import printable
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import FRACTIONS, Box, Record
from stacked_ram.preparation.sources.common import Source, entries, read_lines, read_text, walk
from stacked_ram.preparation.sources.objects import ObjectRecords, split_in_path
from stacked_ram.runtime.errors import UserError

_PHOTO_SUFFIXES = frozenset().union(*SUFFIXES.values())
_NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt")
_TOLERANCE = 1e-3  # beyond 0 to 1, from rounding


def fits(root: Path) -> bool:
    """Return whether there are labels/ beside images/, or labels beside photos with class names."""
    for base in (root, *entries(root)[0]):
        labels = base / "labels"
        if labels.is_dir() and (base / "images").is_dir() and _has_labels(walk(labels)):
            return True
    named = any((root / name).is_file() for name in _NAME_FILES) or _settings(root) is not None
    return named and _has_labels(walk(root))


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos with objects; the class is that of the largest object.

    Folders called train, val and test give the split. Boxes are fractions of the upright photo.
    """
    if not fits(root):
        raise UserError(f"{root}: no YOLO labels: needs images/ and labels/ with a .txt per photo")
    named = {_split(root, photo) for photo in _photos(root)} - {None}
    source = Source("yolo", [], "the folders' own split" if len(named) > 1 else "")
    settings = _settings(root) or {}
    for part in ("train", "val", "test"):
        if str(settings.get(part) or "").endswith(".txt"):
            raise UserError(
                f"{root}: {part} of the YAML file is a list of photos, which is not read: put the "
                "photos of each part in a folder of this name"
            )
    names = _names(root, settings)
    if not names:
        source.notes.append("no names of classes found (data.yaml, classes.txt): numbers are used")
    points = 4 if settings.get("kpt_shape") else None
    source.records = _records(root, names, points, source, options)
    return source


def _photos(root: Path) -> Iterator[Path]:
    return (file for file in walk(root) if file.suffix.lower() in _PHOTO_SUFFIXES)


def _split(root: Path, photo: Path) -> str | None:
    return split_in_path(photo.relative_to(root).parts[:-1])


def _records(
    root: Path,
    names: dict[int, str],
    numbers: int | None,
    source: Source,
    options: PrepareOptions,
) -> Iterator[Record]:
    objects = ObjectRecords(options)
    unlabelled = 0
    for photo in _photos(root):
        labels = _labels_of(root, photo)
        if labels is None:
            unlabelled += 1
            continue
        boxes = [
            _box(line, names, numbers, f"{labels}: line {number}")
            for number, line in enumerate(read_lines(labels), start=1)
        ]
        split = _split(root, photo) if source.split_name else None
        record = objects.record(photo, boxes, split, FRACTIONS)
        if record is not None:
            yield record
    objects.add_notes(source, unlabelled, "a file of labels")


def _labels_of(root: Path, photo: Path) -> Path | None:
    """Return the file of labels: in labels/ instead of images/, or beside the photo."""
    parts = list(photo.relative_to(root).with_suffix(".txt").parts)
    paths = [root.joinpath(*parts)]
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            paths.insert(0, root.joinpath(*parts[:place], "labels", *parts[place + 1 :]))
            break
    return next((path for path in paths if path.is_file()), None)


def _box(line: str, names: dict[int, str], numbers: int | None, where: str) -> tuple[str, Box]:
    """Read a box, or the box around a polygon.

    Args:
        numbers: how many numbers of a line are the box, if other points follow.
    """
    try:
        label, *values = line.split()
        key = int(label)
        found = [float(value) for value in values[:numbers]]
    except ValueError:
        raise UserError(f"{where}: {line.strip()!r} is not a class and numbers") from None
    if len(found) == 4:
        x, y, width, height = found
        xs, ys = [x - width / 2, x + width / 2], [y - height / 2, y + height / 2]
    elif len(found) >= 6 and len(found) % 2 == 0:
        xs, ys = found[0::2], found[1::2]
    else:
        raise UserError(f"{where}: {len(found)} numbers are neither a box nor a polygon")
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in found):
        raise UserError(f"{where}: {line.strip()!r} must be fractions of the photo, 0 to 1")
    if not (min(xs) < max(xs) and min(ys) < max(ys)):
        raise UserError(f"{where}: {line.strip()!r} has no inside")
    if names and key not in names:
        raise UserError(f"{where}: class {key} has no name (there are {len(names)})")
    return names.get(key, str(key)), (min(xs), min(ys), max(xs), max(ys))


def _has_labels(files: Iterator[Path]) -> bool:
    """Return whether the first text file that is not a list of names holds labels."""
    for file in files:
        if file.suffix.lower() != ".txt" or file.name in _NAME_FILES:
            continue
        try:
            lines = read_lines(file)
            if lines:
                _box(lines[0], {}, None, "")
                return True
        except UserError:
            return False
    return False


def _settings(root: Path) -> dict | None:
    """Return the content of the YAML file that names the classes, if there is one."""
    for file in entries(root)[1]:
        if file.suffix.lower() in (".yaml", ".yml"):
            try:
                content = yaml.safe_load(read_text(file))
            except (yaml.YAMLError, UserError):
                continue
            if isinstance(content, dict) and isinstance(content.get("names"), list | dict):
                return content
    return None


def _names(root: Path, settings: dict) -> dict[int, str]:
    names = settings.get("names")
    if names is None:
        file = next((root / name for name in _NAME_FILES if (root / name).is_file()), None)
        names = [] if file is None else [line.strip() for line in read_lines(file)]
    pairs = dict(names if isinstance(names, dict) else enumerate(names))
    if not all(isinstance(k, int) and isinstance(name, str | int) for k, name in pairs.items()):
        raise UserError(f"{root}: `names` of the YAML file must be a list of names of classes")
    return {key: printable(str(name)) for key, name in pairs.items()}

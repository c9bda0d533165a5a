"""Read photos anywhere below a folder, with a CSV that gives the label of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stacked_ram.images.names import printable
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, entries, inside, read_table, split_of
from stacked_ram.runtime.errors import UserError

BOX = ("box_left", "box_top", "box_right", "box_bottom")
_NAMES = {
    "file": ("file", "filename", "file_name", "path", "image", "photo"),
    "label": ("label", "class", "class_name"),
    "split": ("split", "set", "part"),
    "group": ("group",),
    **{name: (name,) for name in BOX},
}


def labels_csv_fits(root: Path) -> bool:
    """Return whether there is exactly one CSV with the columns file and label."""
    return _own_table(root) is not None


def read_labels_csv(root: Path, options: PrepareOptions) -> Source:
    """Read the columns file and label, and if they exist split, group, and the object's box."""
    table = _given_table(root, options.labels) if options.labels else _own_table(root)
    if table is None:
        raise UserError(f"{root}: no CSV with the columns file and label: give --labels labels.csv")
    columns = _columns(table)
    for wanted in ("file", "label"):
        if wanted not in columns:
            raise UserError(
                f"{table}: has no column {wanted!r}: its first line must name the columns"
            )
    found = [name for name in BOX if name in columns]
    if 0 < len(found) < len(BOX):
        raise UserError(f"{table}: has a column {found[0]!r}, but not all of {', '.join(BOX)}")
    split_name = f"the column {columns['split']!r} of {table.name}" if "split" in columns else ""
    return Source("labels_csv", _records(root, table, columns), split_name)


def _records(root: Path, table: Path, columns: dict[str, str]) -> Iterator[Record]:
    for line, row in read_table(table):
        where = f"{table}: line {line}"
        name, label = row.get(columns["file"], ""), row.get(columns["label"], "")
        if not name and not label:
            continue
        if not name or not label:
            raise UserError(f"{where}: {'label' if name else 'file'} is empty: fill it in")
        split = None
        text = row.get(columns["split"], "") if "split" in columns else ""
        if text:
            split = split_of(text)
            if split is None:
                raise UserError(f"{where}: split {text!r}: must be train, valid or test")
        group = row.get(columns["group"], "") if "group" in columns else ""
        box = None
        if "box_left" in columns:
            box = _box([row.get(columns[side], "") for side in BOX], where)
        yield Record(inside(root, name, where), printable(label), split, printable(group), box)


def _box(texts: list[str], where: str) -> Box | None:
    """The object's box, in pixels of the photo as it is stored; None where all four are empty."""
    if not any(texts):
        return None
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        raise UserError(f"{where}: the box {', '.join(texts)} is not four numbers") from None
    if not (left < right and top < bottom):
        raise UserError(
            f"{where}: the box {', '.join(texts)} has no inside: left, top, right, bottom"
        )
    return left, top, right, bottom


def _given_table(root: Path, labels: Path) -> Path:
    for path in (labels, root / labels):
        if path.is_file():
            return path
    raise UserError(f"--labels {labels}: no such file, neither here nor in {root}")


def _own_table(root: Path) -> Path | None:
    tables = [file for file in entries(root)[1] if file.suffix.lower() in (".csv", ".tsv")]
    fitting = [table for table in tables if {"file", "label"} <= _columns(table).keys()]
    if len(fitting) > 1:
        raise UserError(
            f"{root}: several CSVs could hold the labels ({', '.join(t.name for t in fitting)}): "
            "choose one with --labels"
        )
    return fitting[0] if fitting else None


def _columns(table: Path) -> dict[str, str]:
    """Return key of `_NAMES` -> name of its column in the header, for the columns that exist."""
    try:
        with open(table, encoding="utf-8-sig") as file:
            header = file.readline(10_000)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read as UTF-8 text ({error})") from error
    delimiter = max(",;\t", key=header.count)
    found = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    columns = {}
    for wanted, names in _NAMES.items():
        match = next((name for name in names if name in found), None)
        if match is not None:
            columns[wanted] = match
    return columns

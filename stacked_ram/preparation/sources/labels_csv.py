"""Read photos anywhere below a folder, with a CSV that gives the label of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from stacked_ram.images.names import printable
from stacked_ram.preparation.boxes import largest_box
from stacked_ram.preparation.multi_label import join_labels, split_labels
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, read_table, split_of
from stacked_ram.preparation.sources.objects import ObjectRecords
from stacked_ram.preparation.sources.photo_names import PhotoFinder
from stacked_ram.preparation.sources.tables import (
    BOX,
    Table,
    find_tables,
    hot_columns,
    read_columns,
)
from stacked_ram.runtime.errors import UserError


def labels_csv_fits(root: Path, *, multi_label: bool = False) -> bool:
    """Return whether a CSV gives photos and labels, or one for each split."""
    return bool(find_tables(root, multi_label=multi_label)[0])


def read_labels_csv(root: Path, options: PrepareOptions) -> Source:
    """Read the photos and labels, and if they exist splits, groups, and the objects' boxes."""
    several = options.multi_label
    if options.labels:
        tables, others = _given_table(root, options.labels, several)
    else:
        tables, others = find_tables(root, multi_label=several)
    if not tables:
        if not others:
            raise UserError(
                f"{root}: no CSV with the columns file and label: give --labels labels.csv"
            )
        raise not_understood(others)
    source = read_tables(root, tables, "labels_csv", options)
    source.notes += [f"{table.describe()} is not used: it has no labels" for table in others]
    return source


def read_tables(root: Path, tables: list[Table], layout: str, options: PrepareOptions) -> Source:
    """Read the photos and labels of tables; the names of the photos are below `root` or beside.

    Raises:
        UserError: a box lacks a column.
    """
    for table in tables:
        found = [table.columns[name] for name in BOX if name in table.columns]
        if 0 < len(found) < len(BOX):
            raise UserError(
                f"{table.path}: has a column {found[0]!r}, but not all of {', '.join(BOX)}"
            )
    with_split = next((table for table in tables if "split" in table.columns), None)
    split_name = ""
    if with_split is not None:
        split_name = f"the column {with_split.columns['split']!r} of {with_split.path.name}"
    elif any(table.split for table in tables):
        names = ", ".join(table.path.name for table in tables)
        split_name = f"the files {names}" if layout == "labels_csv" else "the folders' own split"
    source = Source(layout, [], split_name)
    source.records = (r for table in tables for r in _records(root, table, source, options))
    return source


def not_understood(tables: list[Table]) -> UserError:
    """Return the error for CSVs whose columns are not known."""
    table = tables[0]
    missing = " and ".join(name for name in ("file", "label") if name not in table.columns)
    return UserError(
        f"{table.path.parent}: {table.describe()} has none for {missing}: call them so in its "
        "first line, or give each class a column of 0 and 1"
    )


def _records(root: Path, table: Table, source: Source, options: PrepareOptions) -> Iterator[Record]:
    photos = PhotoFinder(root, table.path)
    separator = options.label_separator if options.multi_label else None
    rows = (
        _record(row, f"{table.path}: line {line}", table, photos, separator)
        for line, row in read_table(table.path)
    )
    records: Iterator[Record] = (record for record in rows if record is not None)
    if options.multi_label or "box_left" in table.columns:
        records = _joined(records, table.path, source, options)
    yield from records
    photos.check()


def _record(
    row: dict[str, str], where: str, table: Table, photos: PhotoFinder, separator: str | None
) -> Record | None:
    """Read one row; None if it is empty.

    Args:
        separator: of several labels; None if a photo has one label.
    """
    columns = table.columns
    name = row.get(columns["file"], "")
    label = _label(row, where, table, separator)
    if not name and not label:
        return None
    if not name or (not label and separator is None):
        raise UserError(f"{where}: {'label' if name else 'file'} is empty: fill it in")
    split = table.split
    text = row.get(columns["split"], "") if "split" in columns else ""
    if text:
        split = split_of(text)
        if split is None:
            raise UserError(f"{where}: split {text!r}: must be train, valid or test")
    group = row.get(columns["group"], "") if "group" in columns else ""
    box = None
    if "box_left" in columns:
        box = _box([row.get(columns[side], "") for side in BOX], where)
    path = photos.find(name, where, table.split or table.path.stem)
    label = printable(label)
    return Record(path, label, split, printable(group), box, boxes=((label, box),) if box else ())


def _label(row: dict[str, str], where: str, table: Table, separator: str | None) -> str:
    if table.one_hot:
        return _hot_label(row, where, table, separator is not None)
    text = row.get(table.columns["label"], "")
    if table.path.suffix.lower() == ".jsonl" and text.startswith("["):  # a list of JSON
        if separator is None:
            raise UserError(f"{where}: a list of labels: give --multi-label")
        return join_labels((printable(str(label)) for label in json.loads(text)), where)
    if separator is None:
        return text
    return join_labels(map(printable, text.split(separator)), where)


def _hot_label(row: dict[str, str], where: str, table: Table, multi_label: bool) -> str:
    if not any(row.values()):
        return ""
    hot = hot_columns(row, table.one_hot)
    if hot is None:
        raise UserError(f"{where}: a column of a class holds something other than 0 and 1")
    names = [printable(name) for name in table.header if name.lower() in hot]
    if multi_label:
        return join_labels(names, where)
    if len(hot) != 1:
        which = f"two labels ({hot[0]}, {hot[1]})" if hot else "no label"
        raise UserError(f"{where}: {which}: a photo needs exactly one 1, or give --multi-label")
    return names[0]


def _joined(
    records: Iterable[Record], table: Path, source: Source, options: PrepareOptions
) -> Iterator[Record]:
    """Join the rows of each photo, which are one object each. Holds all records in memory.

    A photo with two labels for one box, or for none, keeps both: they are a conflict, unless
    photos may have several labels.
    """
    photos: dict[Path, list[Record]] = {}
    for record in records:
        rows = photos.setdefault(record.source, [])
        rows.append(record)
        if (rows[0].split, rows[0].group) != (record.split, record.group):
            raise UserError(
                f"{table}: {record.source.name} has several rows with different splits or groups"
            )
    objects = ObjectRecords(options)
    for path, rows in photos.items():
        boxes = dict.fromkeys(found for row in rows for found in row.boxes)
        if options.multi_label:
            name = join_labels(label for row in rows for label in split_labels(row.class_name))
            split, group, own = rows[0].split, rows[0].group, tuple(boxes)
            yield Record(path, name, split, group, largest_box(own), boxes=own)
            continue
        labels = dict.fromkeys(row.class_name for row in rows)
        distinct = len({box for _, box in boxes}) == len(boxes) and all(row.boxes for row in rows)
        if len(labels) > 1 and distinct:
            joined = objects.record(path, boxes, rows[0].split, None, rows[0].group)
            assert joined is not None  # there are boxes
            yield joined
            continue
        for label in labels:
            own = tuple(found for found in boxes if found[0] == label)
            split, group = rows[0].split, rows[0].group
            yield Record(path, label, split, group, largest_box(own), boxes=own)
    objects.add_notes(source)


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


def _given_table(root: Path, labels: Path, multi_label: bool) -> tuple[list[Table], list[Table]]:
    path = next((path for path in (labels, root / labels) if path.is_file()), None)
    if path is None:
        raise UserError(f"--labels {labels}: no such file, neither here nor in {root}")
    table = read_columns(path, multi_label=multi_label)
    return ([table], []) if table.has_labels else ([], [table])

"""Read image folders as those of Hugging Face: metadata.jsonl or metadata.csv beside the photos.

Shards (stacked_ram.preparation.shards) are unpacked to this layout, too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources.common import Source, entries, split_of
from stacked_ram.preparation.sources.labels_csv import not_understood, read_tables
from stacked_ram.preparation.sources.tables import Table, read_columns
from stacked_ram.runtime.errors import UserError

_NAMES = ("metadata.jsonl", "metadata.csv")


def fits(root: Path, *, multi_label: bool = False) -> bool:
    """Return whether a metadata file gives photos and labels, below `root` or as JSON lines."""
    return any(table.has_labels for table in _tables(root, multi_label))


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the photos that the metadata files name; folders called train, test ... are splits."""
    tables = _tables(root, options.multi_label)
    if not tables:
        raise UserError(f"{root}: no {' or '.join(_NAMES)} found, in it or in its folders")
    labelled = [table for table in tables if table.has_labels]
    if not labelled:
        raise not_understood(tables)
    source = read_tables(root, labelled, "metadata", options)
    for table in tables:
        if not table.has_labels:
            source.notes.append(f"{table.path.parent.name}/{table.describe()} has no labels")
    return source


def _tables(root: Path, multi_label: bool) -> list[Table]:
    folders = entries(root)[0]
    files = [root / _NAMES[0], *(folder / name for folder in folders for name in _NAMES)]
    return [
        replace(read_columns(file, multi_label=multi_label), split=_split(root, file))
        for file in files
        if file.is_file()
    ]


def _split(root: Path, file: Path) -> str | None:
    """Return the split that a folder's name says, such as `train` or `data-test-00000-of-00002`."""
    words = [] if file.parent == root else re.split(r"[-_. ]", file.parent.name)
    splits = {split_of(word) for word in words} - {None}
    return splits.pop() if len(splits) == 1 else None

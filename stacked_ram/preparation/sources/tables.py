"""Understand the columns of a CSV that gives the labels of photos."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stacked_ram.preparation.sources.common import entries, read_header, read_table, split_of
from stacked_ram.runtime.errors import UserError

BOX = ("box_left", "box_top", "box_right", "box_bottom")
# Meaning -> names of the column, the clearest first. Compared in lower case, "-" and " " as "_".
COLUMN_NAMES = {
    "file": (
        "file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_name",
        "image_path", "image_file", "photo", "img", "fname", "image_id", "id_code", "id",
    ),
    "label": (
        "label", "class", "class_name", "label_name", "category", "category_name", "breed",
        "species", "target", "diagnosis",
    ),
    "split": ("split", "set", "part"),
    "group": ("group",),
    "box_left": ("box_left", "xmin", "x_min"),
    "box_top": ("box_top", "ymin", "y_min"),
    "box_right": ("box_right", "xmax", "x_max"),
    "box_bottom": ("box_bottom", "ymax", "y_max"),
}  # fmt: skip
_PEEK = 100  # rows that must be one-hot


@dataclass(frozen=True)
class Table:
    """A CSV that gives the labels of photos.

    Attributes:
        path: of the file.
        columns: meaning, a key of `COLUMN_NAMES` -> name of the column. Has `file`.
        one_hot: the names of the columns of the classes, if there is no column `label`.
        header: all columns as written, for messages.
        split: train, valid or test for a file of this name beside others, else None.
    """

    path: Path
    columns: dict[str, str]
    one_hot: tuple[str, ...]
    header: tuple[str, ...]
    split: str | None = None

    @property
    def has_labels(self) -> bool:
        """Whether it says both photos and labels."""
        return "file" in self.columns and ("label" in self.columns or bool(self.one_hot))

    def describe(self) -> str:
        """Return its name and columns, for messages."""
        shown = ", ".join(self.header[:8]) + (", ..." if len(self.header) > 8 else "")
        return f"{self.path.name} with the columns {shown}"


def read_columns(path: Path, *, multi_label: bool = False) -> Table:
    """Read the header of a CSV, and its first rows where it may be one-hot.

    Args:
        multi_label: whether a photo may have several labels, or none.

    Raises:
        UserError: the file cannot be read.
    """
    header = tuple(read_header(path))
    names = [name.lower() for name in header]
    by_name = {re.sub(r"[- ]", "_", name): name for name in reversed(names) if name}
    columns = {}
    for meaning, known in COLUMN_NAMES.items():
        match = next((name for name in known if name in by_name), None)
        if match is not None:
            columns[meaning] = by_name[match]
    if multi_label and "label" not in columns:
        match = next((name for name in ("labels", "tags") if name in by_name), None)
        if match is not None:
            columns["label"] = by_name[match]
    one_hot: tuple[str, ...] = ()
    if "label" not in columns and "file" in columns:
        others = tuple(name for name in names if name and name not in columns.values())
        if len(others) > 1 and _is_one_hot(path, others, multi_label):
            one_hot = others
    return Table(path, columns, one_hot, header)


def find_tables(root: Path, *, multi_label: bool = False) -> tuple[list[Table], list[Table]]:
    """Return the CSVs in a folder (with labels, without), read by their columns.

    Several with labels are returned only if their names say a split each, as train.csv, test.csv.

    Raises:
        UserError: several CSVs could give the labels.
    """
    found = []
    for file in entries(root)[1]:
        example = "submission" in file.stem.lower()  # Kaggle's form for answers, without truth
        if file.suffix.lower() in (".csv", ".tsv") and not example:
            found.append(read_columns(file, multi_label=multi_label))
    fitting = [table for table in found if table.has_labels]
    others = [table for table in found if not table.has_labels]
    if len(fitting) > 1:
        splits = [_split_in_name(table.path) for table in fitting]
        if None in splits or len(set(splits)) < len(splits):
            raise UserError(
                f"{root}: several CSVs could hold the labels "
                f"({', '.join(table.path.name for table in fitting)}): choose one with --labels"
            )
        fitting = [
            Table(table.path, table.columns, table.one_hot, table.header, split)
            for table, split in zip(fitting, splits, strict=True)
        ]
    return fitting, others


def _is_one_hot(path: Path, columns: tuple[str, ...], multi_label: bool) -> bool:
    try:
        rows = [row for _, row in islice(read_table(path), _PEEK)]
    except UserError:  # it may be a list of something else
        return False
    hot = [hot_columns(row, columns) for row in rows]
    return bool(rows) and all(
        names is not None and (multi_label or len(names) == 1) for names in hot
    )


def hot_columns(row: dict[str, str], columns: tuple[str, ...]) -> list[str] | None:
    """Return the columns with a 1; None if there is anything but 0 and 1."""
    values = {name: row.get(name, "") for name in columns}
    if not set(values.values()) <= {"0", "1", "0.0", "1.0"}:
        return None
    return [name for name, value in values.items() if value in ("1", "1.0")]


def _split_in_name(path: Path) -> str | None:
    """Return the split that a file's name says, such as test for `test_labels.csv`."""
    splits = {split_of(word) for word in re.split(r"[-_. ]", path.stem)} - {None}
    return splits.pop() if len(splits) == 1 else None

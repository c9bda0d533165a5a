"""Photos with several labels, or none.

In the catalogue and in the manifest, the labels of a photo are one text: the names, sorted and
joined by "|".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stacked_ram.data.manifest import SEPARATOR, split_labels
from stacked_ram.preparation.records import SPLITS
from stacked_ram.runtime.errors import UserError

FOLDER = "photos"  # in each split, in place of the folders of the classes


def join_labels(labels: Iterable[str], where: str = "") -> str:
    """Return the text of some labels.

    Args:
        where: the file and line that give them, for the message.

    Raises:
        UserError: a name has the separator in it.
    """
    names = sorted({name.strip() for name in labels} - {""})
    if wrong := next((name for name in names if SEPARATOR in name), None):
        raise UserError(
            f"{where}: the label {wrong!r} has a {SEPARATOR!r} in it, which separates labels here: "
            "rename it"
        )
    return SEPARATOR.join(names)


def count_labels(counts: Mapping[str, int]) -> dict[str, int]:
    """Count the photos of each label. counts: text of `join_labels` -> number of photos."""
    found: dict[str, int] = {}
    for text, count in counts.items():
        for name in split_labels(text):
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items()))


def has_label(column: str) -> str:
    """Return the SQL condition that a text of `join_labels` in a column has the label `?`."""
    return f"instr('{SEPARATOR}' || {column} || '{SEPARATOR}', '{SEPARATOR}' || ? || '{SEPARATOR}')"


def photo_counts(info: Mapping[str, Any]) -> dict[str, int]:
    """Return split -> number of photos (or digits). info: the content of dataset.yaml."""
    if info.get("labels") == "several":
        return dict(info["photos"])
    return {split: sum(info["counts"][split].values()) for split in SPLITS}

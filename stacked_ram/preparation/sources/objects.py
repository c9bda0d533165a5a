"""Make one record of a photo in which several objects have boxes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stacked_ram.preparation.boxes import largest_box
from stacked_ram.preparation.multi_label import join_labels
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Box, Record
from stacked_ram.preparation.sources.common import Source, split_of
from stacked_ram.runtime.errors import UserError


class ObjectRecords:
    """Make records, in which the largest object decides the class, and count special cases."""

    def __init__(self, options: PrepareOptions) -> None:
        self._multi_label = options.multi_label
        self._chosen = {name.casefold() for name in options.class_list}
        self._empty = 0
        self._several = 0

    def record(
        self,
        photo: Path,
        boxes: Iterable[tuple[str, Box]],
        split: str | None,
        box_of: tuple[int, int] | None,
        group: str = "",
        labels: Iterable[str] = (),
    ) -> Record | None:
        """Return the record of a photo; None if it has no object.

        Of the classes that --classes names, if any is there, the largest object is chosen. With
        --multi-label, the photo has the labels of all objects, and those in `labels`; perhaps none.

        Raises:
            UserError: an object has no class name.
        """
        boxes = tuple(boxes)
        if not all(name for name, _ in boxes):
            raise UserError(f"the annotation of {photo}: an object has no class name")
        if self._multi_label:
            name = join_labels((*labels, *(label for label, _ in boxes)), str(photo))
            return Record(photo, name, split, group, largest_box(boxes), box_of, boxes)
        if not boxes:
            self._empty += 1
            return None
        wanted = [found for found in boxes if found[0].casefold() in self._chosen] or boxes
        self._several += len({name for name, _ in wanted}) > 1
        box = largest_box(wanted)
        name = next(name for name, found in wanted if found == box)
        return Record(photo, name, split, group, box, box_of, boxes)

    def add_notes(self, source: Source, unnamed: int = 0, unit: str = "") -> None:
        """Add what the user should know, once all records are made.

        Args:
            unnamed: photos that are not named; unit: what they lack.
        """
        if self._several:
            source.notes.append(
                f"{self._several} photos show objects of several classes: the largest decides"
            )
        if self._empty:
            source.notes.append(f"{self._empty} photos without an object are not used")
        if unnamed > 0:
            source.notes.append(f"{unnamed} photos without {unit} are not used")


def split_in_path(parts: Iterable[str]) -> str | None:
    """Return the split that a folder of a path says, such as train for `train2017`."""
    splits = (split_of(part.rstrip("0123456789")) for part in parts)
    return next((split for split in splits if split), None)

"""Apply the fixes that a person wrote down in a CSV: drop photos, correct labels and splits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources.common import read_table, split_of
from stacked_ram.runtime.errors import UserError

FILE = "fixes.csv"  # in a data set: the fixes that it was made with
COLUMNS = ("file", "action")
_ACTIONS = "drop, relabel to CLASS, or move to SPLIT"


@dataclass(frozen=True)
class Fix:
    """One row of the CSV.

    Attributes:
        line: its number.
        file: path of the photo in the source, as in report.csv.
        kind: what to do.
        value: the new class or split, "" to drop the photo.
    """

    line: int
    file: str
    kind: Literal["drop", "relabel", "move"]
    value: str = ""

    @property
    def action(self) -> str:
        """The fix as text, as in the CSV."""
        return f"{self.kind} to {self.value}" if self.value else self.kind


def read_fixes(path: Path) -> list[Fix]:
    """Read a CSV with the columns `file` and `action`. Rows without an action are skipped.

    Raises:
        UserError: the CSV cannot be read, an action is not known, or two contradict each other.
    """
    fixes: dict[tuple[str, str], Fix] = {}
    for line, row in read_table(path):
        if not set(COLUMNS) <= row.keys():
            names = ", ".join(row) or "none"
            raise UserError(f"{path}: needs the columns file and action, and has: {names}")
        if not row["action"]:
            continue
        where = f"{path}: line {line}"
        if not row["file"]:
            raise UserError(f"{where}: names no file")
        fix = _parse(line, row["file"], row["action"], where)
        for kind in ("drop", "relabel", "move"):
            other = fixes.get((fix.file, kind))
            if other is None or other.action == fix.action:
                continue
            if kind == fix.kind or "drop" in (kind, fix.kind):
                raise UserError(
                    f"{where}: {fix.action!r} contradicts {other.action!r} in line {other.line}: "
                    f"remove one of the two fixes of {fix.file}"
                )
        fixes.setdefault((fix.file, fix.kind), fix)
    return list(fixes.values())


def _parse(line: int, file: str, action: str, where: str) -> Fix:
    words = action.split(None, 2)
    start = [word.lower() for word in words[:2]]
    if start == ["drop"]:
        return Fix(line, file, "drop")
    if len(words) == 3 and start == ["relabel", "to"]:
        return Fix(line, file, "relabel", words[2])
    if len(words) == 3 and start == ["move", "to"]:
        split = split_of(words[2])
        if split is None:
            raise UserError(f"{where}: no split {words[2]!r}: use train, valid or test")
        return Fix(line, file, "move", split)
    raise UserError(f"{where}: unknown action {action!r}: use {_ACTIONS}")


def apply_fixes(catalogue: Catalogue, options: PrepareOptions, root: Path) -> str:
    """Apply the fixes of --fixes to the photos of a catalogue; return how many, in words.

    Raises:
        UserError: a fix names a photo or a class that does not exist; nothing is changed then.
    """
    assert options.fixes is not None
    fixes = read_fixes(options.fixes)
    classes = catalogue.class_counts()
    numbers = catalogue.find({fix.file for fix in fixes})
    todo = []
    for fix in fixes:
        where = f"{options.fixes}: line {fix.line}"
        if fix.file not in numbers:
            raise UserError(
                f"{where}: no photo {fix.file!r} in {root}: give its path as in the column "
                "`source` of report.csv"
            )
        value = fix.value
        if fix.kind == "relabel":
            match = match_class(value, classes)
            if match is None:
                shown = ", ".join(list(classes)[:30]) + (" ..." if len(classes) > 30 else "")
                raise UserError(f"{where}: no class {value!r}; the classes are: {shown}")
            value = match
        if fix.kind == "move" and value == "valid" and options.folds is not None:
            raise UserError(
                f"{where}: 'move to valid' with --folds, where fold 0 is valid: move the photo to "
                "train (any fold) or test"
            )
        todo.append((fix, numbers[fix.file], value))
    counts = {"drop": 0, "relabel": 0, "move": 0}
    for fix, photos, value in todo:
        counts[fix.kind] += 1
        if fix.kind == "drop":
            catalogue.drop(photos, f"line {fix.line} of {options.fixes.name}")
        elif fix.kind == "relabel":
            catalogue.relabel(photos, value)
        else:
            catalogue.move(photos, value)
    return (
        f"fixes of {options.fixes.name}: {counts['drop']} photos dropped, {counts['relabel']} "
        f"relabelled, {counts['move']} moved"
    )


def match_class(name: str, classes: Collection[str]) -> str | None:
    """Return the class of this name, whose case may differ if there is no such class."""
    if name in classes:
        return name
    return {other.lower(): other for other in classes}.get(name.lower())

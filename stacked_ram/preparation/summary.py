"""The result of a preparation, as an object that can be printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stacked_ram.preparation.assign_splits import plan_splits
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.download import OFFICIAL, download_folder
from stacked_ram.preparation.multi_label import photo_counts
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources.common import Source
from stacked_ram.runtime.errors import UserError

DUPLICATES_NOTE = "{} exact and {} near duplicates"


@dataclass(frozen=True)
class PrepareSummary:
    """The result of `prepare`, or its plan for a dry run. `str()` gives the text for the terminal.

    Attributes:
        dest: folder of the data set.
        classes: class names; the index is the label.
        photos: split -> number of photos (or digits); empty for a dry run.
        left_out: reason ("truncated", "duplicate", ...) -> photos that are not in the data set.
        repaired: repair ("exif_rotation", "cmyk", ...) -> photos that needed it.
        exact_duplicates, near_duplicates: number of pairs found in the source.
        layout: the layout as which the source was read; rule: how the split was made, in words.
        notes: remarks about the source and the split.
        report: report.html; report.csv beside it lists every photo. None for a dry run.
        unchanged: whether the data set already existed, so that nothing was done.
        quarantine: where quarantined files were copied, and how many, in words.
        reused: photos of the data set of before that were not decoded again.
    """

    dest: Path
    classes: tuple[str, ...] = ()
    photos: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    exact_duplicates: int = 0
    near_duplicates: int = 0
    layout: str = ""
    rule: str = ""
    notes: tuple[str, ...] = ()
    report: Path | None = None
    kind: str = "photos"
    unchanged: bool = False
    quarantine: str = ""
    reused: int = 0
    inspected: dict[str, int] | None = None
    """Problem -> number of findings of the inspection, where it was asked for."""
    shards: Path | None = None
    """The folder of the shards, where they were asked for."""
    plan: tuple[str, ...] = ()
    """The lines that describe a dry run."""
    problem: UserError | None = None
    """Why a dry run foresees a failure."""

    @property
    def dry_run(self) -> bool:
        """Whether nothing was written."""
        return bool(self.plan)

    def __str__(self) -> str:
        if self.dry_run:
            return "\n".join(self.plan)
        if self.unchanged:
            lines = [f"{self.dest}: already prepared, nothing to do", *self._more()]
            return "\n".join([*lines, self.quarantine] if self.quarantine else lines)
        totals = ", ".join(f"{count} {split}" for split, count in self.photos.items())
        lines = [
            f"{self.dest}: {len(self.classes)} classes; {totals}",
            f"read as {self.layout}; split: {self.rule}",
        ]
        for title, counts in [("repaired", self.repaired), ("not in the data set", self.left_out)]:
            if counts:
                lines.append(f"{title}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
        if self.quarantine:
            lines.append(self.quarantine)
        lines += [f"note: {note}" for note in self.notes]
        if self.reused:
            lines.append(f"{self.reused} photos were in {self.dest} before and not decoded again")
        lines += self._more()
        item = "digit" if self.kind == "digits" else "photo"
        lines.append(f"see {self.report}; report.csv has a row per {item}")
        return "\n".join(lines)

    def _more(self) -> list[str]:
        """Return a line for each thing that was done besides."""
        lines = []
        if self.inspected is not None:
            found = ", ".join(f"{count} {problem}" for problem, count in self.inspected.items())
            lines.append(
                f"inspection: {found or 'nothing found'}; see {self.dest / 'inspection.html'}"
            )
        if self.shards is not None:
            lines.append(f"shards: {self.shards}")
        return lines


def summary_of(dest: Path, info: Mapping[str, Any], *, unchanged: bool = False) -> PrepareSummary:
    """Return the summary of a prepared data set. `info`: the content of its dataset.yaml."""
    pattern = re.escape(DUPLICATES_NOTE).replace(r"\{\}", r"(\d+)")
    pairs = next(filter(None, (re.match(pattern, note) for note in info["notes"])), None)
    exact, near = map(int, pairs.groups()) if pairs else (0, 0)
    return PrepareSummary(
        dest=dest,
        classes=tuple(info["classes"]),
        photos=photo_counts(info),
        left_out=dict(info["left_out"]),
        repaired=dict(info["repaired"]),
        exact_duplicates=exact,
        near_duplicates=near,
        layout=info["layout"],
        rule=info["rule"],
        notes=tuple(info["notes"]),
        report=dest / "report.html",
        kind=info["kind"],
        unchanged=unchanged,
    )


def read_summary(dest: Path) -> PrepareSummary:
    """Return the summary of the data set just written to `dest`."""
    return summary_of(dest, yaml.safe_load((dest / "dataset.yaml").read_text(encoding="utf-8")))


def plan_of_download(name: str, dest: Path) -> PrepareSummary:
    """Return the summary of a dry run that would download an official data set."""
    folder = download_folder(name, dest)
    lines = []
    for file in OFFICIAL[name]:
        here = "is there" if (folder / file.name).exists() else "would be fetched"
        lines.append(f"{file.url}: {here} ({folder / file.name})")
    lines.append(f"then {dest} would be made of them")
    return PrepareSummary(dest, layout=name, plan=tuple(lines))


def plan_of_photos(catalogue: Catalogue, source: Source, options: PrepareOptions) -> PrepareSummary:
    """Return the summary of a dry run on the photos of a catalogue."""
    counts = catalogue.class_counts()
    total, todo = catalogue.photo_count(), catalogue.to_check()
    lines = [
        f"read as {source.layout}: {total} photos in {len(counts)} classes",
        *(f"  {name}: {count}" for name, count in counts.items()),
        *(f"note: {note}" for note in source.notes),
    ]
    rule, problem = "", None
    try:
        rule = plan_splits(catalogue, source, options).rule
        lines += [
            f"split: {rule}",
            f"{todo} photos would be checked, {total - todo} have been already",
            f"would write {options.dest}; nothing was written",
        ]
    except UserError as error:
        problem = error
    return PrepareSummary(
        options.dest,
        classes=tuple(sorted(counts)),
        layout=source.layout,
        rule=rule,
        notes=tuple(source.notes),
        plan=tuple(lines),
        problem=problem,
    )

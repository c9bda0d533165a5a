"""The table of predictions: CSV or JSON lines, written while the photos are read.

    path, class, probability, class_2, probability_2, ..., unknown, glimpses, locations, error

The column `unknown` is there where a coverage was wanted. Where a photo may have several classes,
the columns are

    path, labels, probabilities, unknown, glimpses, locations, error

with the classes whose probability reaches their threshold, separated by `|`, and their
probabilities, separated by spaces.

Locations share one column, `x y; x y`. Under torchrun each process writes a part of its own; the
main one joins the parts in the order of the photos.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch

from stacked_ram.data.manifest import SEPARATOR
from stacked_ram.evaluation.predict import Row
from stacked_ram.images.names import as_utf8
from stacked_ram.runs.folder import check_folder
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import NotWritten, UserError, discard_output

ENDINGS = (".csv", ".jsonl")


def check_out(out: Path) -> None:
    """Raises UserError where no table can be written at this path."""
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; name a file in it, such as {out / 'table.csv'}")
    if out.suffix not in ENDINGS:
        raise UserError(f"--out: {out} is neither .csv nor .jsonl")
    check_folder(out.parent)


def write_table(
    rows: Iterable[Row],
    out: Path | None,
    classes: int,
    world: World | None = None,
    *,
    unknown: bool = False,
    multi_label: bool = False,
) -> tuple[int, int]:
    """Write rows as they come, to stdout where `out` is None; returns how many rows there were,
    and how many had an error, over all processes.

    classes: columns of classes in a CSV; unknown: whether it has a column `unknown`; multi_label:
    whether a photo may have several classes, in one column. A run that is
    stopped, and one without rows, leave no table. Raises UserError or NotWritten naming a file that
    cannot be written.
    """
    world = world or World()
    try:
        counts = write_part(rows, out, columns(classes, unknown, multi_label), world)
    except BaseException as error:
        if out is not None:
            part(out, world.rank).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            if out is None:
                discard_output()
            where = out or "standard output"
            raise NotWritten(f"{where}: cannot be written ({error.strerror})") from None
        raise
    photos, errors = world.sum(torch.tensor(counts)).tolist()
    if out is not None and world.is_main:
        join_parts(out, world.size, keep=photos > 0)
    return photos, errors


def write_part(
    rows: Iterable[Row], out: Path | None, header: list[str], world: World
) -> tuple[int, int]:
    """Write the rows of this process; returns how many, and how many with an error."""
    photos = errors = 0
    as_json = out is not None and out.suffix == ".jsonl"
    with ExitStack() as stack:
        file: IO[str] = sys.stdout
        if out is not None:
            path = part(out, world.rank)
            for old in out.parent.glob(f"{glob.escape(part(out, 0).name[:-1])}*"):
                number = old.name.removeprefix(part(out, 0).name[:-1])
                if number.isdigit() and int(number) >= world.size:  # of a command that was killed
                    old.unlink(missing_ok=True)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(path, "w", newline="", encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        table = csv.DictWriter(Lines(file), header)
        for row in rows:
            if not photos and not as_json and world.is_main:
                table.writeheader()
            photos += 1
            errors += bool(row.error)
            if as_json:
                file.write(json.dumps(as_object(row), ensure_ascii=False) + "\n")
            else:
                table.writerow(as_cells(row))
            if out is None:
                file.flush()
    return photos, errors


class Lines:
    """A file to which csv writes rows that end in carriage return and newline; they are written
    with a newline alone. So csv quotes a cell with either of them."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


def columns(classes: int, unknown: bool = False, multi_label: bool = False) -> list[str]:
    """The header of a CSV with this many classes a photo, or with all labels in one column."""
    if multi_label:
        answers = ["labels", "probabilities", *(["unknown"] if unknown else [])]
        return ["path", *answers, "glimpses", "locations", "error"]
    numbers = ["", *(f"_{number}" for number in range(2, classes + 1))]
    named = [name + number for number in numbers for name in ("class", "probability")]
    return ["path", *named, *(["unknown"] if unknown else []), "glimpses", "locations", "error"]


def as_cells(row: Row) -> dict[str, Any]:
    """The cells of a row of a CSV."""
    if row.error:
        return {"path": as_utf8(row.path), "error": as_utf8(row.error)}
    if row.labels is None:
        best = [value for pair in row.top for value in pair]
        answers: dict[str, Any] = dict(zip(columns(len(row.top))[1:], best, strict=False))
    else:
        answers = {
            "labels": SEPARATOR.join(name for name, _ in row.labels),
            "probabilities": " ".join(str(probability) for _, probability in row.labels),
        }
    return {
        "path": as_utf8(row.path),
        **answers,
        **({} if row.unknown is None else {"unknown": row.unknown}),
        "glimpses": row.glimpses,
        "locations": "; ".join(f"{x} {y}" for x, y in row.locations),
    }


def as_object(row: Row) -> dict[str, Any]:
    """The object of a row in JSON lines."""
    if row.error:
        return {"path": as_utf8(row.path), "error": as_utf8(row.error)}
    if row.labels is None:
        answers = {"class": row.top[0][0], "probability": row.top[0][1]}
    else:
        answers = {"labels": row.labels}
    return {
        "path": as_utf8(row.path),
        **answers,
        **({} if row.unknown is None else {"unknown": row.unknown}),
        "glimpses": row.glimpses,
        "top": row.top,
        "locations": row.locations,
    }


def part(out: Path, rank: int) -> Path:
    """The file that a process writes until all is done."""
    return out.with_name(f".{out.name}.part{rank}")


def join_parts(out: Path, size: int, keep: bool) -> None:
    """Join the rows of all processes in the order of the photos; without `keep`, only remove the
    parts."""
    paths = [part(out, rank) for rank in range(size)]
    if keep and size == 1:
        os.replace(paths[0], out)
        return
    if keep:
        with ExitStack() as stack:
            files = [
                stack.enter_context(open(path, newline="", encoding="utf-8")) for path in paths
            ]
            joined = stack.enter_context(open(part(out, size), "w", newline="", encoding="utf-8"))
            put: Callable[[Any], object]
            if out.suffix == ".csv":
                readers: list[Iterator[Any]] = [csv.reader(file) for file in files]
                put = csv.writer(Lines(joined)).writerow
                put(next(readers[0]))
            else:
                readers, put = list(files), joined.write
            left = True
            while left:
                left = False
                for reader in readers:
                    row = next(reader, None)
                    if row is not None:
                        put(row)
                        left = True
        os.replace(part(out, size), out)
    for path in paths:
        path.unlink()

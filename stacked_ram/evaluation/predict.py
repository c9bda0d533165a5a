"""The predict command: photos in, a table of classes and locations out, as a stream.

Names are read, photos decoded (by threads, a bounded number ahead), looked at and written one
batch after the other. Under torchrun each process takes every n-th photo into a part of the
table; the main one joins the parts in the photos' order.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from stacked_ram.cli.main import Predict
from stacked_ram.evaluation.early_exit import check_criterion, look_until
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.names import as_utf8
from stacked_ram.images.opening import open_photo, photo_endings
from stacked_ram.images.read_ahead import read_ahead
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import check_folder
from stacked_ram.runtime.devices import autocast, set_switches
from stacked_ram.runtime.distributed import World, join_world, leave_world
from stacked_ram.runtime.errors import NotWritten, UserError, check

AHEAD = 2  # batches of photos decoded ahead,
MAX_AHEAD = 96_000_000  # until those that wait have so many pixels
MAX_PADDED = 48_000_000  # pixels of a padded batch: large photos come in smaller batches
COLUMNS = ("path", "class", "probability", "glimpses", "top", "locations", "error")

Row = dict[str, Any]
Opened = np.ndarray | LazyPhoto | str  # pixels_CHW, a large photo's file, or what was wrong
Named = tuple[str, Opened]


def predict(options: Predict) -> None:
    if options.out is not None and options.out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--out: {options.out} is neither .csv nor .jsonl")
    if options.stop_by == "stop" and options.stop_at is None:
        raise UserError("--stop-by stop: give with --stop-at the probability that is enough")
    check(options.top >= 1, f"--top: {options.top} is below 1")
    check(options.batch_size >= 1, f"--batch-size: {options.batch_size} is below 1")
    check(0 <= (options.stop_at or 0) <= 1, f"--stop-at: {options.stop_at} is not in 0 to 1")
    if options.out is not None:
        check_folder(options.out.parent)
    world = join_world()
    try:
        if world.size > 1 and (options.out is None or "-" in options.photos):
            raise UserError("under torchrun predict needs --out, and photos by name, not `-`")
        loaded = load_run(options.run, options.device)
        check_criterion(loaded.model, options.stop_by)
        set_switches(loaded.config.training, loaded.device)
        rows = predict_names(loaded, shard(photo_names(options.photos), world), options)
        if world.size == 1 and "-" not in options.photos:
            rows = at_least_one(rows)
        counts = write(rows, options.out, world)
        world.wait()
        if world.is_main and world.size > 1:
            join_parts(options.out, world.size)
        print(f"{counts[0]} photos, {counts[1]} of them could not be read", file=sys.stderr)
    finally:
        leave_world()


# ---------------------------------------------------------------------- names


def photo_names(given: Iterable[str]) -> Iterator[str]:
    """Names of photo files, one after the other, from what was typed."""
    for one in given:
        if one == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # as names that were typed
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        elif os.path.isdir(one):
            yield from photos_below(one)
        elif one.lower().endswith(".csv"):
            yield from photos_in_csv(Path(one))
        elif glob.has_magic(one) and not os.path.exists(one):
            found = sorted(glob.iglob(one, recursive=True))
            yield from found or [one]  # a pattern that matches nothing becomes a row that says so
        else:
            yield one


def photos_below(folder: str) -> Iterator[str]:
    """Photos in a folder and the folders in it, in order."""
    endings, found = photo_endings(), False
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in endings:
                found = True
                yield os.path.join(parent, name)
    if not found:
        print(f"{folder}: no photos in this folder", file=sys.stderr)


def photos_in_csv(path: Path) -> Iterator[str]:
    """The column `path` of a CSV; names are relative to the CSV's folder, or as they stand."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "path" not in (reader.fieldnames or []):
                raise UserError(f"{path}: has no column `path`")
            for row in reader:
                name = (row["path"] or "").strip()
                if not name:
                    print(f"{path}: no path in line {reader.line_num}", file=sys.stderr)
                    continue
                beside = path.parent / name
                yield str(beside) if beside.exists() else name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def shard(names: Iterator[str], world: World) -> Iterator[str]:
    return islice(names, world.rank, None, world.size)


# ---------------------------------------------------------------------- photos


def predict_names(loaded: LoadedRun, names: Iterable[str], options: Predict) -> Iterator[Row]:
    """A row for each photo, in order."""
    for batch in batches(opened(loaded, names, options.batch_size), options.batch_size):
        yield from predict_batch(loaded, batch, options)


def opened(loaded: LoadedRun, names: Iterable[str], batch_size: int) -> Iterator[Named]:
    """Each name with its photo, or with what was wrong."""
    config, channels = loaded.config, loaded.card.channels

    def read(name: str) -> Opened:
        try:
            return open_photo(name, config, channels)
        except UserError as error:
            return str(error)

    def pixels(photo: Opened) -> int:
        return photo[0].size if isinstance(photo, np.ndarray) else 0

    return read_ahead(names, read, pixels, most=AHEAD * batch_size, most_pixels=MAX_AHEAD)


def batches(photos: Iterable[Named], batch_size: int) -> Iterator[list[Named]]:
    """Photos in order, as many together as batch_size and MAX_PADDED allow; one that is read
    piece by piece stands alone, since what is wrong with it may show only then."""
    batch: list[Named] = []
    height = width = 0
    for name, photo in photos:
        if isinstance(photo, LazyPhoto):
            if batch:
                yield batch
            yield [(name, photo)]
            batch, height, width = [], 0, 0
            continue
        if not isinstance(photo, str):
            taller, wider = max(height, photo.shape[1]), max(width, photo.shape[2])
            if batch and (len(batch) + 1) * taller * wider > MAX_PADDED:
                yield batch
                batch, (taller, wider) = [], photo.shape[1:]
            height, width = taller, wider
        batch.append((name, photo))
        if len(batch) == batch_size:
            yield batch
            batch, height, width = [], 0, 0
    if batch:
        yield batch


def predict_batch(loaded: LoadedRun, batch: list[Named], options: Predict) -> Iterator[Row]:
    good = [photo for _, photo in batch if not isinstance(photo, str)]
    if good and isinstance(good[0], LazyPhoto):
        yield {"path": batch[0][0], **look_at_large(loaded, good[0], options)}
        return
    answers = iter(look(loaded, pixels_and_sizes(good), options) if good else [])
    for name, photo in batch:
        yield {"path": name, **({"error": photo} if isinstance(photo, str) else next(answers))}


def look_at_large(loaded: LoadedRun, photo: LazyPhoto, options: Predict) -> Row:
    """Its answer, or what was found wrong with its file on the way."""
    try:
        return next(look(loaded, (LazyPhotos([photo]), None), options))
    except UserError as error:
        return {"error": str(error)}


def pixels_and_sizes(photos: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (pixels_CHW of any sizes) as one batch, pixels_BCHW and sizes_B2."""
    sizes_B2 = torch.tensor([photo.shape[1:] for photo in photos])
    height, width = sizes_B2.amax(0).tolist()
    pixels_BCHW = torch.zeros(len(photos), len(photos[0]), height, width, dtype=torch.uint8)
    for pixels_CHW, photo in zip(pixels_BCHW, photos, strict=True):
        pixels_CHW[:, : photo.shape[1], : photo.shape[2]] = torch.from_numpy(photo.copy())
    return pixels_BCHW, sizes_B2


def look(
    loaded: LoadedRun,
    batch: tuple[torch.Tensor | LazyPhotos, torch.Tensor | None],
    options: Predict,
) -> Iterator[Row]:
    """What the model says of these photos: pixels_BCHW with sizes_B2, or LazyPhotos."""
    model, device = loaded.model, loaded.device
    pixels_BCHW, sizes_B2 = batch
    with autocast(device, loaded.config.training.precision):
        seen = model.photos(
            pixels_BCHW.to(device), None if sizes_B2 is None else sizes_B2.to(device)
        )
        answers = look_until(model, seen, options.stop_at, options.stop_by)
    best = answers.beliefs_BN.topk(min(options.top, len(loaded.classes)))
    rows = zip(
        best.values.tolist(), best.indices.tolist(),
        answers.glimpses_B.tolist(), answers.locations_BT2.tolist(), strict=True,
    )  # fmt: skip
    for probabilities, indices, glimpses, locations in rows:
        named = [loaded.classes[index] for index in indices]
        yield {
            "class": named[0],
            "probability": round(probabilities[0], 6),
            "glimpses": glimpses,
            "top": [[name, round(p, 6)] for name, p in zip(named, probabilities, strict=True)],
            "locations": [[round(x, 4), round(y, 4)] for x, y in locations[:glimpses]],
        }


# ---------------------------------------------------------------------- the table


def at_least_one(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. Raises UserError if there are none."""
    first = next(rows, None)
    if first is None:
        raise UserError("no photos: name files, folders, globs, CSV files, or - for standard input")
    yield first
    yield from rows


def write(rows: Iterable[Row], out: Path | None, world: World) -> tuple[int, int]:
    """Write rows as they come; returns how many there were, and how many had an error. What was
    stopped leaves no table."""
    try:
        counts = write_part(rows, out, world)
    except BaseException as error:
        if out is not None:
            part(out, world.rank).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise NotWritten(f"{out}: cannot be written ({error.strerror})") from None
        raise
    if out is not None and world.size == 1:
        os.replace(part(out, 0), out)
    return counts


def write_part(rows: Iterable[Row], out: Path | None, world: World) -> tuple[int, int]:
    photos = errors = 0
    as_json = out is not None and out.suffix == ".jsonl"
    with ExitStack() as stack:
        file: IO[str] = sys.stdout
        if out is not None:
            path = part(out, world.rank)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(path, "w", newline="", encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not as_json and world.is_main:
            table.writeheader()
        for row in rows:
            photos += 1
            errors += "error" in row
            row |= {name: as_utf8(row[name]) for name in ("path", "error") if name in row}
            if as_json:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                table.writerow(flat(row))
            if out is None:
                file.flush()
    return photos, errors


def flat(row: Row) -> Row:
    """Lists as text for a CSV: `daisy 0.91; tulip 0.05` and `0.1 -0.2; 0.3 0.4`."""
    lists = {"top", "locations"} & row.keys()
    return row | {name: "; ".join(f"{a} {b}" for a, b in row[name]) for name in lists}


def part(out: Path, rank: int) -> Path:
    """Where a process writes until all is done."""
    return out.with_name(f".{out.name}.part{rank}")


def join_parts(out: Path, size: int) -> None:
    """Put the rows of all processes together in the photos' order."""
    paths = [part(out, rank) for rank in range(size)]
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, newline="", encoding="utf-8")) for path in paths]
        joined = stack.enter_context(open(part(out, size), "w", newline="", encoding="utf-8"))
        if out.suffix == ".csv":
            readers: list[Iterator[Any]] = [csv.reader(file) for file in files]
            put = csv.writer(joined, lineterminator="\n").writerow
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

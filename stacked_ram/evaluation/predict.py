"""Predict single photos: a class and a scan path for each, as a stream.

Photos are decoded by threads, a bounded number ahead, and looked at one batch after the other:
memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import itertools
import math
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stacked_ram.data.dataset import SPLITS
from stacked_ram.data.photo_batches import open_as_trained
from stacked_ram.data.remote import dataset_folder, url_of
from stacked_ram.data.shard_files import Shards, is_sharded
from stacked_ram.evaluation.calibration import least_confidence
from stacked_ram.evaluation.early_exit import Criterion, check_criterion, look_until
from stacked_ram.images.in_tar import photos_in_tar
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.opening import photo_endings
from stacked_ram.images.read_ahead import read_ahead
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast, set_switches
from stacked_ram.runtime.errors import UserError, check

AHEAD = 2  # batches of photos decoded ahead,
MAX_AHEAD = 96_000_000  # pixels of all photos that wait
csv.field_size_limit(2**31 - 1)  # a CSV may have other columns, of any length
MAX_PADDED = 48_000_000  # pixels of a padded batch: large photos come in smaller batches

Opened = np.ndarray | LazyPhoto | str  # pixels_CHW, a large photo's file, or the error
Named = tuple[str, Opened]


@dataclass(frozen=True)
class Row:
    """The prediction for one photo, or the reason why there is none."""

    path: str
    error: str = ""
    """Empty where the photo could be read; all other fields are empty where it could not."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest classes with their probabilities, 0 to 1, the likeliest first."""
    labels: tuple[tuple[str, float], ...] | None = None
    """Where a photo may have several classes: those whose probability reaches their threshold, the
    likeliest first; perhaps none."""
    unknown: bool | None = None
    """Whether the model is too unsure to answer; None where `coverage` was not given."""
    locations: tuple[tuple[float, float], ...] = ()
    """(x, y) of each glimpse, in [-1, 1]; none where the glance was enough."""
    boxes: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """For each glimpse, (left, top, right, bottom) of its patches, in fractions of the photo's
    width and height; they may reach outside it."""

    @property
    def glimpses(self) -> int:
        return len(self.locations)


def predict_stream(
    loaded: LoadedRun,
    names: Iterable[str],
    *,
    batch_size: int = 32,
    top: int = 5,
    stop_at: float | None = None,
    stop_by: Criterion = "belief",
    coverage: float | None = None,
) -> Generator[Row, None, None]:
    """Predict photo files in order, a row each; a photo that cannot be read gives a row with its
    error.

    names: paths of photos; they are read as they are needed. top: classes named for each photo.
    stop_at: look at a photo no longer once the likeliest class has this probability, 0 to 1
    (stop_by `belief`; with several labels, once every class's probability lies at least this
    fraction of the way from its threshold to 0 or 1), or the stopping head this one (`stop`).
    coverage: the fraction of photos,
    0 to 1, that get an answer, if they are like those of the validation split; the others are
    `unknown`. Raises UserError for values out of range, for `stop` where the model has no stopping
    head, and for `coverage` where it is not calibrated.
    """
    check_options(batch_size, top, stop_at, stop_by)
    check_criterion(loaded.model, stop_by)
    set_switches(loaded.config.training, loaded.device)
    least = None if coverage is None else least_confidence(loaded, coverage)
    how = {"top": top, "stop_at": stop_at, "stop_by": stop_by, "least": least}
    decoded = batches(opened(loaded, names, batch_size), batch_size)
    return answered(loaded, decoded, how)


def check_options(batch_size: int, top: int, stop_at: float | None, stop_by: Criterion) -> None:
    """Raises UserError for values out of range, before a model is loaded."""
    check(top >= 1, f"top: {top} is below 1")
    check(batch_size >= 1, f"batch_size: {batch_size} is below 1")
    check(0 <= (stop_at or 0) <= 1, f"stop_at: {stop_at} is not in 0 to 1")
    check(stop_by == "belief" or stop_at is not None, "stop_by stop: give the stop_at to compare")


# ---------------------------------------------------------------------- names


def photo_names(given: Iterable[str]) -> Iterator[str]:
    """Names of photo files, name after the other, from what was typed."""
    for name in given:
        if url_of(name) or is_sharded(Path(name)):
            yield from photos_in_shards(name)
        elif os.path.isdir(name):
            yield from photos_below(name)
        elif name.lower().endswith(".tar"):
            yield from photos_in_tar(name)
        elif name.lower().endswith(".csv"):
            yield from photos_in_csv(Path(name))
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(glob.iglob(name, recursive=True))
            for file in found:
                yield from photos_in_tar(file) if file.lower().endswith(".tar") else [file]
            if not found:
                yield name  # a pattern that matches nothing becomes a row that says so
        else:
            yield name


def photos_in_shards(dataset: str) -> Iterator[str]:
    """Photos of all splits of a sharded data set, in a folder or at a URL; of a URL that ends in
    .tar, those of this shard."""
    home, _, tar = dataset.rpartition("/") if dataset.endswith(".tar") else (dataset, "", "")
    for path in Shards(dataset_folder(home), SPLITS, math.inf).tars():
        if path.name.endswith(tar):
            yield from photos_in_tar(path)


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
                yield str(beside) if os.path.exists(beside) else name  # False for an odd name
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


# ---------------------------------------------------------------------- photos


def opened(loaded: LoadedRun, names: Iterable[str], batch_size: int) -> Iterator[Named]:
    """Each name with its photo, or with what was wrong."""
    config, channels = loaded.config, loaded.metadata.channels

    def read(name: str) -> Opened:
        try:
            return open_as_trained(name, config, channels)
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


def answered(
    loaded: LoadedRun, decoded: Iterator[list[Named]], how: dict[str, Any]
) -> Generator[Row, None, None]:
    """The rows of all batches, in order. On a CPU two batches are looked at at the same time, each
    by half of the threads, which wait for each other less (benchmarks/README.md)."""
    threads = torch.get_num_threads()
    begun = list(itertools.islice(decoded, 2))
    decoded = itertools.chain(begun, decoded)
    if threads == 1 or len(begun) < 2 or loaded.device.type != "cpu":
        for batch in decoded:
            yield from predict_batch(loaded, batch, **how)
        return

    def rows(batch: list[Named]) -> list[Row]:
        torch.set_num_threads(threads // 2)
        return list(predict_batch(loaded, batch, **how))

    # one more than are looked at, so that no thread has to wait
    found = read_ahead(decoded, rows, lambda _: 0, most=3, most_pixels=0, threads=2)
    try:
        with contextlib.closing(found):
            for _, batch_rows in found:
                yield from batch_rows
    finally:
        torch.set_num_threads(threads)  # setting it in a thread sets it for threads to come


def predict_batch(loaded: LoadedRun, batch: list[Named], **how: Any) -> Iterator[Row]:
    """The rows of a batch of opened photos. how: as `predict_stream`, without batch_size."""
    name, first = batch[0]
    if isinstance(first, LazyPhoto):
        yield predict_large(loaded, name, first, **how)
        return
    names = [name for name, photo in batch if not isinstance(photo, str)]
    photos = [photo for _, photo in batch if isinstance(photo, np.ndarray)]
    rows = look(loaded, names, *padded(photos), **how) if photos else iter(())
    for name, photo in batch:
        yield Row(name, error=photo) if isinstance(photo, str) else next(rows)


def predict_large(loaded: LoadedRun, name: str, photo: LazyPhoto, **how: Any) -> Row:
    """The row of a photo that is read by region, where an error may show only on the way."""
    try:
        return next(look(loaded, [name], LazyPhotos([photo]), None, **how))
    except UserError as error:
        return Row(name, error=str(error))


def padded(photos: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (pixels_CHW of any sizes) as one batch, pixels_BCHW and sizes_B2."""
    sizes = [photo.shape[1:] for photo in photos]
    sizes_B2 = torch.tensor(sizes)
    height, width = sizes_B2.amax(0).tolist()
    make = torch.empty if len(set(sizes)) == 1 else torch.zeros
    pixels_BCHW = make(len(photos), len(photos[0]), height, width, dtype=torch.uint8)
    for pixels_CHW, photo in zip(pixels_BCHW, photos, strict=True):
        pixels_CHW[:, : photo.shape[1], : photo.shape[2]] = torch.from_numpy(photo)
    return pixels_BCHW, sizes_B2


def look(
    loaded: LoadedRun,
    names: list[str],
    pixels_BCHW: torch.Tensor | LazyPhotos,
    sizes_B2: torch.Tensor | None,
    *,
    top: int,
    stop_at: float | None,
    stop_by: Criterion,
    least: float | None,
) -> Iterator[Row]:
    """The rows of photos in memory (with their sizes), or of LazyPhotos."""
    model, device = loaded.model, loaded.device
    with autocast(device, loaded.config.training.precision):
        photos = model.photos(
            pixels_BCHW.to(device), None if sizes_B2 is None else sizes_B2.to(device)
        )
        answers = look_until(model, photos, stop_at, stop_by)
        sides_B4 = photos.sizes_B2.flip(1).repeat(1, 2)  # width, height, width, height
        boxes_BTK4 = answers.boxes_BTK4 / sides_B4[:, None, None]
    best = answers.beliefs_BN.topk(min(top, len(loaded.classes)))
    finite_B = answers.beliefs_BN.isfinite().all(1).tolist()
    sure_B = model.sureness(answers.beliefs_BN).tolist()
    for name, finite, sure, belief_N, probabilities, indices, glimpses, locations, boxes in zip(
        names, finite_B, sure_B, answers.beliefs_BN.cpu(), best.values.tolist(),
        best.indices.tolist(), answers.glimpses_B.tolist(), answers.locations_BT2.tolist(),
        boxes_BTK4.tolist(), strict=True,
    ):  # fmt: skip
        if not finite:
            yield Row(name, error=f"{name}: the model's answer is not finite")
            continue
        yield Row(
            name,
            top=tuple(
                (loaded.classes[index], round(probability, 6))
                for index, probability in zip(indices, probabilities, strict=True)
            ),
            labels=labels_of(loaded, belief_N) if model.multi_label else None,
            unknown=None if least is None else sure < least,
            locations=tuple((round(x, 4), round(y, 4)) for x, y in locations[:glimpses]),
            boxes=tuple(tuple(map(tuple, patches)) for patches in boxes[:glimpses]),
        )


def labels_of(loaded: LoadedRun, belief_N: torch.Tensor) -> tuple[tuple[str, float], ...]:
    """The classes whose probability reaches their threshold, with it, the likeliest first."""
    said = (belief_N >= loaded.model.thresholds_N).nonzero()[:, 0].tolist()
    said.sort(key=lambda label: -belief_N[label].item())
    return tuple((loaded.classes[label], round(belief_N[label].item(), 6)) for label in said)

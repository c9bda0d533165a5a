"""Make a data set of scenes: each photo, small, somewhere on a canvas of other photos.

stacked_ram.data.scenes draws a scene. This module chooses its background photos and writes the data
set. The background photos come from the folder `--background`. They are checked and repaired like
all others, and each is used in only one split. The content of a scene depends only on the seed and
the photo's name, so it is the same for any number of workers.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stacked_ram.data.scenes import PIECES, Box, SceneShape, choose_others, draw_scene
from stacked_ram.images.formats import SUFFIXES
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.fingerprint import SourceFingerprint
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pool import Workers, check_all
from stacked_ram.preparation.progress import progress_bar
from stacked_ram.preparation.records import SPLITS, CheckedRecord, EncodedPhoto
from stacked_ram.preparation.sources.common import walk
from stacked_ram.preparation.time_limit import limit_for
from stacked_ram.preparation.workdir import working_folder
from stacked_ram.preparation.writing import DatasetWriter, encode_photo
from stacked_ram.runtime.errors import UserError

CLUTTER = 4  # default --clutter


@dataclass(frozen=True)
class Backgrounds:
    """Checked background photos: files by split, and the number of files left out."""

    files: dict[str, list[Path]]
    left_out: int


@dataclass(frozen=True)
class SceneTask:
    """One scene to make: the files of its photo and of its background photos, and the whole numbers
    that seed its random choices."""

    file: Path
    others: tuple[Path, ...]
    entropy: tuple[int, ...]


def prepare_scenes(
    options: PrepareOptions,
    records: Iterable[CheckedRecord],
    *,
    rule: str = "",
    layout: str = "",
    notes: Sequence[str] = (),
    record_more: Callable[[DatasetWriter], None] = lambda writer: None,
) -> Path:
    """Make DEST: one scene per record, or `--scenes-per-photo` for training.

    Args:
        records: checked photos with their splits; iterated several times, never all in memory.
        rule, layout, notes: for dataset.yaml and the report.
        record_more: adds earlier left-out photos to the writer.

    Returns:
        DEST.

    Raises:
        UserError: the --background folder does not exist or has too few photos.
    """
    size, folder = options.scene_size, options.background
    assert size is not None and folder is not None  # PrepareOptions needs both or neither
    shape = SceneShape(
        height=size[0],
        width=size[1],
        object_shares=options.object_shares,
        clutter=CLUTTER if options.clutter is None else options.clutter,
        clutter_shares=options.clutter_shares,
    )
    counts = Counter(record.split for record in records)
    backgrounds = find_backgrounds(options, folder, counts, shape)
    turns = dict.fromkeys(SPLITS, 1) | {"train": options.scenes_per_photo}
    classes = list({record.class_name for record in records})

    def scenes() -> Iterator[tuple[CheckedRecord, int]]:
        return ((record, turn) for record in records for turn in range(turns[record.split]))

    tasks = (
        scene_task(options.seed, record, turn, backgrounds.files[record.split], shape)
        for record, turn in scenes()
    )
    work = partial(make_scene, shape=shape, quality=options.quality)
    with (
        Workers(options.worker_count) as workers,
        DatasetWriter(options, kind="photos", channels=3, classes=classes) as writer,
        open(
            working_folder(options.dest) / "photos.csv", "w", encoding="utf-8", newline=""
        ) as table,
        progress_bar(
            total=sum(turns[split] * count for split, count in counts.items()),
            desc="composing scenes", unit="scene",
        ) as progress,
    ):  # fmt: skip
        # Training composes new scenes from the photos of the stored ones.
        pieces = csv.writer(table, lineterminator="\n")
        pieces.writerow(["path", "piece"])
        made = workers.in_order(work, tasks, name=lambda task: task.file.name)
        for (record, _), (photo, box) in zip(scenes(), made, strict=True):
            path = writer.add(
                photo,
                class_name=record.class_name,
                split=record.split,
                source=record.source,
                group=record.group or record.source,
                box=box,
                repairs=record.repairs,
            )
            if record.split == "train":
                piece = f"{PIECES}/photos/{record.file.name}"  # named by the hash of its content
                writer.add_piece(record.file, piece)
                pieces.writerow([path, piece])
            progress.update()
        table.flush()
        writer.add_piece(Path(table.name), f"{PIECES}/photos.csv")
        for number, file in enumerate(backgrounds.files["train"]):
            writer.add_piece(file, f"{PIECES}/background/{number:06d}{file.suffix}")
        record_more(writer)
        used = {split: len(files) for split, files in backgrounds.files.items()}
        return writer.finish(
            rule=rule,
            layout=layout,
            notes=[
                *notes,
                f"scenes before {sum(used.values()):,} photos of {folder}, each in "
                f"one split only; {backgrounds.left_out:,} left out (broken or duplicate)",
            ],
            details={"scene": shape.info(), "background_photos": used},
        )


def background_files(folder: Path) -> list[Path]:
    """Return the files of the --background folder that have the suffix of a photo.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"--background {folder}: no such folder")
    suffixes = set().union(*SUFFIXES.values())
    return [path for path in walk(folder) if path.suffix.lower() in suffixes]


def background_fingerprint(folder: Path) -> SourceFingerprint:
    """Return a fingerprint of the photos of the --background folder."""
    fingerprint = SourceFingerprint(folder.resolve())
    for path in background_files(folder):
        status = path.stat() if path.exists() else None  # a link may be broken
        state = (status.st_size, status.st_mtime_ns) if status else None
        name = os.fsencode(path.relative_to(folder))
        fingerprint.add(name, path, (name, state))
    return fingerprint


def find_backgrounds(
    options: PrepareOptions, folder: Path, counts: Counter[str], shape: SceneShape
) -> Backgrounds:
    """Check the photos of `folder` and divide them among the splits that have photos.

    Each split gets at least as many as one scene needs, and the rest is divided in proportion to
    the splits' photos. Files with equal bytes are used once.
    """
    paths = background_files(folder)
    needed = 1 + shape.clutter
    plan = CheckPlan(
        folder=working_folder(options.dest) / "background",
        short_side=max(shape.height, shape.width),
        quality=95,
        max_pixels=int(options.max_megapixels * 1e6),
        keep_damaged=options.keep_damaged,
        white=options.sixteen_bit_max or 0,
        seconds=limit_for(options.max_megapixels),
    )
    found: dict[str, Path] = {}
    with (
        Workers(options.worker_count) as workers,
        progress_bar(total=len(paths), desc="checking backgrounds", unit="photo") as progress,
    ):
        for chunk in check_all(enumerate(paths), plan, workers):
            for _, checked in chunk:
                if not checked.problem:
                    found[checked.source_sha256] = plan.folder / checked.file
                progress.update()
    splits = [split for split in SPLITS if counts[split]]
    if len(found) < needed * len(splits):
        raise UserError(
            f"--background {folder}: {len(found)} different photos that can be used; "
            f"scenes of {len(splits)} splits, {needed} photos each, need {needed * len(splits)}"
        )
    files = [found[digest] for digest in sorted(found)]
    order = np.random.default_rng(options.seed).permutation(len(files))
    spare = len(files) - needed * len(splits)
    shares = np.cumsum([counts[split] for split in splits]) / sum(counts.values())
    ends = [needed * (i + 1) + round(spare * share) for i, share in enumerate(shares)]
    parts = np.split(order, ends[:-1])
    return Backgrounds(
        {split: [files[i] for i in part] for split, part in zip(splits, parts, strict=True)},
        left_out=len(paths) - len(found),
    )


def scene_task(
    seed: int, record: CheckedRecord, turn: int, backgrounds: Sequence[Path], shape: SceneShape
) -> SceneTask:
    """Choose the photos of one scene, from the seed, the photo's name and the turn."""
    name = hashlib.sha256(record.source.encode()).digest()
    entropy = (seed, turn, *np.frombuffer(name, "<u4").tolist())
    return SceneTask(record.file, choose_others(entropy, backgrounds, shape), entropy)


def make_scene(task: SceneTask, shape: SceneShape, quality: int) -> tuple[EncodedPhoto, Box]:
    """Draw and encode one scene. Runs in a worker process."""
    scene, box = draw_scene(task.entropy, shape, task.file, task.others)
    return encode_photo(scene, ".jpg", quality), box

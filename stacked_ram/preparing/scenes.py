"""Making scenes of a data set: each photo, small, somewhere in a canvas of other photos.

How one scene is drawn: stacked_ram.data.scenes. Here: which photos stand behind and around it,
and the data set that comes of it. Photos of other things come from the folder `--background`,
checked and repaired like any others, and shared out to the splits: none serves two of them. What
a scene holds is drawn by the seed and the photo's name, so it is the same for any number of
workers.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stacked_ram.data.scenes import PIECES, Box, SceneShape, choose_others, draw_scene
from stacked_ram.errors import UserError
from stacked_ram.preparing.checks import SUFFIXES, CheckPlan
from stacked_ram.preparing.options import PrepareOptions
from stacked_ram.preparing.pool import check_all, in_order
from stacked_ram.preparing.records import SPLITS, CheckedRecord, EncodedPhoto
from stacked_ram.preparing.sources.common import walk
from stacked_ram.preparing.working import working_folder
from stacked_ram.preparing.writing import DatasetWriter, encode_photo

CLUTTER = 4  # pieces a scene, where --clutter is not given


@dataclass(frozen=True)
class Backgrounds:
    """Photos of other things, checked: files by split, and how many files were left out."""

    files: dict[str, list[Path]]
    left_out: int


@dataclass(frozen=True)
class SceneTask:
    """One scene to make: the photo's file, those of the photos behind and around it, and the
    numbers that decide how it is drawn."""

    file: Path
    others: tuple[Path, ...]
    entropy: tuple[int, ...]


def prepare_scenes(
    options: PrepareOptions,
    records: Sequence[CheckedRecord],
    *,
    rule: str = "",
    layout: str = "",
    notes: Sequence[str] = (),
    tell_more: Callable[[DatasetWriter], None] = lambda writer: None,
) -> Path:
    """Make DEST: a scene of every record, `--scenes-per-photo` of one for training.

    Args:
        records: checked photos with their splits.
        rule, layout, notes: of the records' split and source, for dataset.yaml and the report.
        tell_more: tells the writer what was left out before.

    Returns:
        DEST.

    Raises:
        UserError: the --background folder is not there, or holds too few photos.
    """
    from tqdm import tqdm

    shape = scene_shape(options)
    counts = Counter(record.split for record in records)
    backgrounds = find_backgrounds(options, counts, 1 + shape.clutter)

    def scenes() -> Iterator[tuple[CheckedRecord, int]]:
        for record in records:
            for turn in range(options.scenes_per_photo if record.split == "train" else 1):
                yield record, turn

    made = in_order(
        partial(make_scene, shape=shape, quality=options.quality),
        (
            scene_task(options.seed, record, turn, backgrounds.files[record.split], shape)
            for record, turn in scenes()
        ),
        options.worker_count,
        name=lambda task: task.file.name,
    )
    with (
        DatasetWriter(
            options, kind="photos", channels=3, classes={record.class_name for record in records}
        ) as writer,
        tqdm(total=sum(1 for _ in scenes()), desc="composing scenes", unit="scene") as progress,
    ):
        photo_of = {}
        for (record, _), (photo, box) in zip(scenes(), made, strict=True):
            path = writer.add(
                photo,
                class_name=record.class_name,
                split=record.split,
                source=record.source,
                group=record.group or record.source,
                box=box,
                fold=record.fold,
                repairs=record.repairs,
            )
            if record.split == "train":
                photo_of[path] = record.file
            progress.update()
        table = working_folder(options.dest) / "photos.csv"
        store_pieces(writer, table, photo_of, backgrounds.files["train"])
        tell_more(writer)
        used = {split: len(files) for split, files in backgrounds.files.items()}
        return writer.finish(
            rule=rule,
            layout=layout,
            notes=[
                *notes,
                f"scenes before {sum(used.values()):,} photos of {options.background}, each in "
                f"one split only; {backgrounds.left_out:,} left out (broken, or twice there)",
            ],
            details={"scene": shape.facts(), "background_photos": used},
        )


def store_pieces(
    writer: DatasetWriter,
    table: Path,
    photo_of: dict[str, Path],
    backgrounds: Sequence[Path],
) -> None:
    """Store what the training scenes are made of, so that SceneMaker can make them anew.

    table: a file to write on the way; photo_of: a scene's path -> the photo that is in it.
    """
    piece_of: dict[Path, str] = {}
    with open(table, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "piece"])
        for path, photo in photo_of.items():
            if photo not in piece_of:
                piece_of[photo] = f"{PIECES}/photos/{len(piece_of):06d}{photo.suffix}"
                writer.add_piece(photo, piece_of[photo])
            rows.writerow([path, piece_of[photo]])
    writer.add_piece(table, f"{PIECES}/photos.csv")
    for number, photo in enumerate(backgrounds):
        writer.add_piece(photo, f"{PIECES}/background/{number:06d}{photo.suffix}")


def scene_shape(options: PrepareOptions) -> SceneShape:
    """What the options ask for; sizes as (height, width)."""
    height, width = options.scene_size
    return SceneShape(
        height=height,
        width=width,
        object_shares=options.object_shares,
        clutter=CLUTTER if options.clutter is None else options.clutter,
        clutter_shares=options.clutter_shares,
    )


def find_backgrounds(options: PrepareOptions, counts: Counter[str], needed: int) -> Backgrounds:
    """Check the photos of --background and share them out to the splits that have photos.

    In proportion to the splits' photos, at least `needed` to each; of files with the same bytes
    only one is used.
    """
    from tqdm import tqdm

    folder = options.background
    if not folder.is_dir():
        raise UserError(f"--background {folder}: no such folder")
    suffixes = set().union(*SUFFIXES.values())
    paths = [path for path in walk(folder) if path.suffix.lower() in suffixes]
    plan = CheckPlan(
        folder=working_folder(options.dest) / "background",
        short_side=max(options.scene_size),
        quality=95,
        max_pixels=int(options.max_megapixels * 1e6),
    )
    found: dict[str, Path] = {}
    with tqdm(total=len(paths), desc="checking backgrounds", unit="photo") as progress:
        for chunk in check_all(enumerate(paths), plan, options.worker_count):
            for _, checked in chunk:
                if not checked.problem:
                    found[checked.source_sha256] = plan.folder / checked.file
                progress.update()
    splits = [split for split in SPLITS if counts[split]]
    if len(found) < needed * len(splits):
        raise UserError(
            f"--background {folder}: {len(found)} different photos that can be used; scenes of "
            f"{len(splits)} splits, {needed} photos each, need {needed * len(splits)}"
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
    """Draw what stands in one scene, by the seed, the photo's name and the turn."""
    name = hashlib.sha256(record.source.encode()).digest()
    entropy = (seed, turn, *np.frombuffer(name, "<u4").tolist())
    return SceneTask(record.file, choose_others(entropy, backgrounds, shape), entropy)


def make_scene(task: SceneTask, shape: SceneShape, quality: int) -> tuple[EncodedPhoto, Box]:
    """Draw and encode one scene; in a worker process."""
    scene, box = draw_scene(task.entropy, shape, task.file, task.others)
    return encode_photo(scene, ".jpg", quality), box

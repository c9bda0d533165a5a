"""Define the options of a preparation: each field is a flag of `prepare_data.py`.

Fields hold values as typed, and are checked when the object is built. Properties hold the parsed
values: sizes as `(height, width)`, fractions as pairs of floats.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program

Layout = Literal[
    "auto", "class_folders", "split_folders", "labels_csv", "flowers17", "flowers102",
    "stanford_dogs", "cub200", "bach", "metadata", "coco", "yolo", "voc", "mnist",
]  # fmt: skip
Download = Literal[
    "flowers17", "flowers102", "stanford_dogs", "cub200", "bach", "mnist", "fashion_mnist", "kmnist"
]

_NOT_GIVEN = Path()  # a DEST that --download may shift to the place of SOURCE

# Options that do not change the content of DEST.
RUN_ONLY = frozenset(
    {
        "source",
        "dest",
        "download",
        "dry_run",
        "overwrite",
        "workers",
        "dask",
        "strict",
        "inspect",
        "quarantine",
        "shards",
        "shard_size",
    }
)

# Kind or layout of a data set -> the options for it alone. All other options apply to every kind.
ONLY_FOR = {
    "photos": (
        "labels", "multi_label", "label_separator", "group_pattern", "join_classes",
        "max_per_class", "split", "test_ratio", "folds",
        "near_duplicates", "keep_conflicts", "drop_near_conflicts", "drop_duplicates",
        "drop_leaks", "fixes", "quarantine",
        "keep_damaged", "short_side", "keep_size", "quality", "sixteen_bit_max",
        "max_megapixels", "scene", "shards", "shard_size",
        "dask",
    ),
    "scenes": ("background", "object_share", "clutter_share", "scenes_per_photo", "clutter"),
    "digits": (
        "canvas", "translate", "clutter", "clutter_size", "megapixel", "scribbles", "multi_label",
    ),
    "flowers17": ("official_split",),
}  # fmt: skip


@dataclass(frozen=True)
class PrepareOptions:
    """Turn raw photos into a data set that trains without surprises. SOURCE is never changed.

    SOURCE is a folder, an archive (.zip, .tar, .tar.gz, .tgz) or a Parquet file, or a folder of
    shards. DEST must not exist yet, or be the same data set. Run the same command again to continue
    a run that was stopped.

      prepare_data.py photos/ datasets/mine
      prepare_data.py --download flowers17 datasets/flowers17
    """

    source: Positional[Annotated[Path | None, arg(metavar="SOURCE")]] = None
    """Folder or archive to prepare; omit it with --download."""
    dest: Positional[Annotated[Path, arg(metavar="DEST", help_behavior_hint="")]] = _NOT_GIVEN
    """Folder to make."""

    download: Download | None = None
    """Download this official data set to the folder downloads/ beside DEST first; omit SOURCE."""
    layout: Layout = "auto"
    """Layout of SOURCE; auto detects it."""
    labels: Path | None = None
    """CSV with the columns file and label, and optionally split, group and the object's box; or a
    JSON file of COCO annotations."""
    multi_label: bool = False
    """Photos may have several labels: in the column label, as --label-separator separates them; in
    several rows; in a column of 0 and 1 for each label; or all classes of its objects. With
    --megapixel: all classes of the digits on a canvas."""
    label_separator: str = "|"
    """With --multi-label: what separates the labels in the column label."""
    group_pattern: str | None = None
    """Regular expression on a photo's path in SOURCE: photos with the same bracketed part (without
    brackets: the same match) stay in one split."""

    join_classes: bool = False
    """Join classes whose names differ only in case or Unicode form."""
    classes: str | None = None
    """Keep only these classes: a,b,c."""
    max_per_class: int | None = None
    """Keep at most this many photos a class, drawn by the seed."""

    split: Literal["auto", "ratio"] = "auto"
    """auto: use the official split if the source has one (a ratio for a part that it has is
    refused); ratio: always draw a split by the ratios."""
    official_split: int = 1
    """Which official split to use if there are several (flowers17: 1, 2 or 3)."""
    valid_ratio: float | None = None
    """Fraction of the photos for validation (default 0.2; digits: 1/12, which is 5,000 of MNIST's
    60,000); with an official split that has no validation part, fraction of its training photos."""
    test_ratio: float | None = None
    """Fraction of the photos for the test (default 0.2); with an official split that has no test
    part, fraction of its training photos."""
    folds: int | None = None
    """Number the photos outside the test split 0 to FOLDS-1 in the manifest's column `fold`;
    fold 0 is written as valid. Not for scenes."""
    seed: int = 0
    """Seed of all random choices."""
    near_duplicates: int = 8
    """Two photos look alike if their 64-bit perceptual hashes differ in at most this many bits;
    -1 finds exact duplicates only."""
    keep_conflicts: bool = False
    """Keep photos of equal pixels that have two labels (they are left out otherwise)."""
    drop_near_conflicts: bool = False
    """Leave out photos that look alike but have two labels (they are kept otherwise)."""
    drop_duplicates: bool = False
    """Keep one of several photos with equal pixels and the same label: that of the test part of an
    official split, if there is one."""
    drop_leaks: bool = False
    """Leave out photos of the training part of an official split that are copies of its test or
    validation photos, or look like them."""
    fixes: Path | None = None
    """CSV with the columns file and action: drop, relabel to CLASS, or move to SPLIT. The buttons
    of report.html write it."""
    quarantine: Path | None = None
    """Copy the quarantined files into this folder, which holds nothing else."""

    keep_damaged: bool = False
    """Keep photos whose data are damaged, as far as they can be decoded (they are quarantined
    otherwise)."""

    short_side: int = 512
    """Reduce photos to this short side (pixels); smaller ones are never enlarged."""
    keep_size: bool = False
    """Keep the size of every photo. A tiled TIFF that is a pyramid or has more than 32 megapixels
    is kept byte for byte, also above --max-megapixels (needs pyvips: requirements-large.txt)."""
    quality: int = 92
    """JPEG quality of photos that must be encoded again."""
    sixteen_bit_max: int | None = None
    """White of 16-bit photos that declare none, such as 4095 for a camera of 12 bits (default: the
    smallest of 1023, 4095, 16383 and 65535 that no photo exceeds)."""
    max_megapixels: float = 200.0
    """Refuse photos with more pixels than this, before they are decoded."""
    strict: bool = False
    """Stop with an error at the first photo that needs a repair or cannot be read."""

    scene: str | None = None
    """Make scenes of this size (WIDTHxHEIGHT, such as 1024x768), each with a small photo in it."""
    object_share: str = "0.12:0.3"
    """In scenes: the photo's longer side, as a fraction of the scene's longer side, from:to."""
    clutter_share: str = "0.08:0.2"
    """In scenes: side of the distracting crops, as a fraction of the scene's width, from:to."""
    scenes_per_photo: int = 1
    """In scenes: number of scenes made from each training photo."""
    clutter: int | None = None
    """Distracting crops per scene (default 4), or pieces of other digits per canvas (default 0)."""
    clutter_size: int = 8
    """Side (pixels) of the pieces of other digits."""
    background: Path | None = None
    """In scenes: folder with photos of other things, for the background and the crops."""
    canvas: str | None = None
    """Digits: size (WIDTHxHEIGHT, such as 60x60) of the canvas."""
    translate: bool = False
    """Digits: put the digit at a random place of the canvas."""
    megapixel: int | None = None
    """MNIST: make Megapixel MNIST of this side (1500 is the public benchmark): five digits on a
    canvas among scribbles; the class is the one that three of them have."""
    scribbles: int = 50
    """With --megapixel: scribbles on each canvas."""

    shards: bool = False
    """Also write the photos as shards into the folder DEST-shards: tars in WebDataset's format,
    which train, test and predict read, also at a URL."""
    shard_size: float = 100
    """Megabytes of a shard."""
    workers: int = 0
    """Number of processes; 0: one per core."""
    dask: str | None = None
    """Address of a Dask scheduler (tcp://HOST:8786) whose workers decode and check the photos; they
    see SOURCE and DEST under the same paths (needs requirements-dask.txt)."""
    inspect: bool = False
    """Also look for photos that a person should look at: dark, blurred, likely mislabelled, copies
    and the like. Writes DEST/inspection.html and .csv."""
    dry_run: bool = False
    """Show what would be done; write nothing."""
    overwrite: bool = False
    """Make DEST again, also if it was made with other options or from another source."""

    def __post_init__(self) -> None:
        for name in (
            "source",
            "dest",
            "labels",
            "background",
            "fixes",
            "quarantine",
        ):  # text, where Python calls
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))
        if self.download is not None and self.dest == _NOT_GIVEN and self.source is not None:
            object.__setattr__(self, "dest", self.source)
            object.__setattr__(self, "source", None)
        self._check()

    def _check(self) -> None:
        if self.dest == _NOT_GIVEN:
            raise UserError(
                f"DEST is missing, or the current folder: {program('prepare')} SOURCE DEST"
            )
        if self.source is None and self.download is None:
            raise UserError(f"SOURCE is missing: {program('prepare')} SOURCE DEST")
        if self.source is not None and self.download is not None:
            raise UserError(
                f"with --download there is no SOURCE: {program('prepare')} --download NAME DEST"
            )
        for name, low, high in [
            ("valid_ratio", 0, 0.9), ("test_ratio", 0, 0.9), ("quality", 1, 100),
            ("short_side", 8, 100_000), ("near_duplicates", -1, 16), ("workers", 0, 1024),
            ("official_split", 1, 3), ("clutter_size", 1, 1000),
            ("sixteen_bit_max", 1, 65535), ("max_megapixels", 0.0001, 4000),
            ("shard_size", 0.001, 100_000),
        ]:  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{flag(name)} {value}: must be between {low} and {high}")
        for name, low in [
            ("max_per_class", 1), ("folds", 2), ("clutter", 0), ("scenes_per_photo", 1),
            ("seed", 0), ("scribbles", 0),
        ]:  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{flag(name)} {value}: must be at least {low}")
        if self.valid_fraction + self.test_fraction >= 1:
            raise UserError(
                f"--valid-ratio {self.valid_fraction} and --test-ratio {self.test_fraction} leave "
                "nothing to train on: their sum must be below 1"
            )
        self._check_together()
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise UserError(f"--group-pattern {self.group_pattern!r}: {error}") from error
        # Each of these raises UserError where the text makes no sense.
        _ = (self.scene_size, self.canvas_size, self.object_shares, self.clutter_shares)
        if self.classes is not None and not self.class_list:
            raise UserError("--classes is empty: name the classes to keep, as --classes a,b,c")

    def _check_together(self) -> None:
        """Refuse options that exclude each other, or that need another option."""
        given, scene = self._given(), self.scene is not None
        for_scenes = [
            name for name in given if name in ONLY_FOR["scenes"] and name not in ONLY_FOR["digits"]
        ]
        if for_scenes and not scene:
            raise UserError(f"{flag(for_scenes[0])} is for scenes: give --scene WIDTHxHEIGHT too")
        for wrong, message in [
            ("folds" in given and "valid_ratio" in given,
             "--folds uses fold 0 as valid, --valid-ratio draws it: not both"),
            ("official_split" in given and self.split == "ratio",
             "--official-split follows the source's split, --split ratio draws another: not both"),
            ("labels" in given and self.layout not in ("auto", "labels_csv", "coco"),
             f"--labels is for photos that a CSV or COCO file names, not --layout {self.layout}: "
             "not both"),
            ("label_separator" in given and not self.multi_label,
             "--label-separator separates several labels of a photo: give --multi-label too"),
            (not self.label_separator, "--label-separator is empty: give a character, as ;"),
            (self.multi_label and scene,
             "--scene is for photos with one label each, not --multi-label: not both"),
            (self.multi_label and bool({"max_per_class", "fixes", "inspect"} & set(given)),
             "--multi-label does not go with --max-per-class, --fixes or --inspect yet: leave them "
             "out"),
            (self.drop_leaks and self.split == "ratio",
             "--drop-leaks is for an official split, --split ratio draws another, which keeps "
             "copies together: not both"),
            (self.keep_conflicts and self.drop_near_conflicts,
             "--keep-conflicts keeps photos with two labels, --drop-near-conflicts leaves them "
             "out: not both"),
            ("keep_size" in given and "short_side" in given,
             "--keep-size keeps every photo's size, --short-side reduces it: not both"),
            (scene and ("canvas" in given or "translate" in given),
             "--scene is for photos, --canvas and --translate for digits: not both"),
            (scene and "background" not in given,
             "--scene needs photos of other things: give --background FOLDER too"),
            (scene and "folds" in given,
             "--folds does not work with scenes, whose folds would share background photos: remove "
             "--folds or --scene"),
            ("dask" in given and "workers" in given,
             "--dask uses the workers of its scheduler, --workers processes of this machine: not "
             "both"),
            ("shard_size" in given and not self.shards,
             "--shard-size is the size of shards: give --shards too"),
            ("clutter_size" in given and not self.clutter,
             "--clutter-size is the size of pieces of other digits: give --clutter NUMBER too"),
            (self.megapixel is not None
             and bool({"canvas", "translate", "clutter", "classes"} & set(given)),
             "--megapixel makes the benchmark's own canvases: leave out --canvas, --translate, "
             "--clutter and --classes"),
            ("scribbles" in given and self.megapixel is None,
             "--scribbles are those of Megapixel MNIST: give --megapixel SIDE too"),
            ("clutter_share" in given and self.clutter == 0,
             "--clutter-share is the size of distracting crops, --clutter 0 has none: not both"),
        ]:  # fmt: skip
            if wrong:
                raise UserError(message)

    def _given(self) -> list[str]:
        """Return the names of the options that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

    def refuse_unused(self, *kinds: str) -> None:
        """Refuse options that would have no effect on this kind of data set.

        Args:
            kinds: the keys of `ONLY_FOR` that fit the data set; the first names it in the message.

        Raises:
            UserError: an option would have no effect; the message names each and its purpose.
        """
        unused = []
        for name in self._given():
            takers = [kind for kind, names in ONLY_FOR.items() if name in names]
            if takers and not set(takers) & set(kinds):
                unused.append(f"{flag(name)} (for {' or '.join(takers)})")
        if unused:
            raise UserError(
                f"{self.download or self.source}: {kinds[0]} do not take {', '.join(unused)}: "
                f"leave {'it' if len(unused) == 1 else 'them'} out"
            )

    @property
    def class_list(self) -> list[str]:
        """The names given to --classes; empty: all classes."""
        return [name.strip() for name in (self.classes or "").split(",") if name.strip()]

    @property
    def valid_fraction(self) -> float:
        """Fraction of the photos for validation (digits have another default)."""
        return 0.2 if self.valid_ratio is None else self.valid_ratio

    @property
    def test_fraction(self) -> float:
        """Fraction of the photos for the test."""
        return 0.2 if self.test_ratio is None else self.test_ratio

    @property
    def scene_size(self) -> tuple[int, int] | None:
        """`(height, width)` in pixels, or None without --scene."""
        return _size("--scene", self.scene)

    @property
    def canvas_size(self) -> tuple[int, int] | None:
        """`(height, width)` in pixels, or None for the digits' own size."""
        return _size("--canvas", self.canvas)

    @property
    def object_shares(self) -> tuple[float, float]:
        """Smallest and largest fraction of the scene's longer side, each in (0, 1]."""
        return _shares("--object-share", self.object_share)

    @property
    def clutter_shares(self) -> tuple[float, float]:
        """Smallest and largest fraction of the scene's width, each in (0, 1]."""
        return _shares("--clutter-share", self.clutter_share)

    @property
    def worker_count(self) -> int:
        """Number of processes, at least 1."""
        if self.workers:
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return max(1, len(os.sched_getaffinity(0)))
        return os.cpu_count() or 1

    @cached_property
    def fixes_content(self) -> bytes | None:
        """The bytes of --fixes, read once.

        Raises:
            UserError: the file cannot be read.
        """
        if self.fixes is None:
            return None
        try:
            return self.fixes.read_bytes()
        except OSError as error:
            raise UserError(f"--fixes {self.fixes}: {error.strerror}") from error

    def recorded(self) -> dict[str, object]:
        """Return the options that decide the content of DEST, as plain YAML values.

        The value of `fixes` is the SHA-256 of its content.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in RUN_ONLY}
        values["test_ratio"] = self.test_fraction  # the same whether typed or by default
        if self.fixes_content is not None:
            values["fixes"] = hashlib.sha256(self.fixes_content).hexdigest()
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def flag(name: str) -> str:
    """The flag of a field's name: `valid_ratio` -> `--valid-ratio`."""
    return "--" + name.replace("_", "-")


def _size(flag_name: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if not match or not int(match[1]) or not int(match[2]):
        raise UserError(f"{flag_name} {text!r}: give WIDTHxHEIGHT in pixels, as 1024x768")
    return int(match[2]), int(match[1])


def _shares(flag_name: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"{flag_name} {text!r}: give FROM:TO, as 0.12:0.3") from None
    if not 0 < low <= high <= 1:
        raise UserError(f"{flag_name} {text!r}: needs 0 < FROM <= TO <= 1")
    return low, high

"""Write a prepared data set, which appears under its name only when it is complete.

    with DatasetWriter(options, kind="digits", channels=1, classes=names) as writer:
        for ...:
            encoded = encode_photo(image, ".png")  # may be done in a worker process
            writer.add(encoded, class_name="7", split="train", source="train-images:17")
        writer.finish(rule="the official split", layout="mnist")

All files are written to the working folder beside DEST (`.NAME.partial`), which is renamed to DEST
when it is complete. `leave_out` records a photo that is not in the data set; report.csv lists it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import PIL
from PIL import Image

from stacked_ram.images.names import folder_names, safe_name
from stacked_ram.preparation.boxes import clip_box
from stacked_ram.preparation.encoding import encode_image
from stacked_ram.preparation.kept_checks import write_checks
from stacked_ram.preparation.multi_label import FOLDER, split_labels
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.perceptual import fingerprint
from stacked_ram.preparation.records import SPLITS, Box, EncodedPhoto
from stacked_ram.preparation.report import LISTS, REPORT_COLUMNS, write_report
from stacked_ram.preparation.workdir import (
    origin_of,
    place_file,
    publish,
    remove_tree,
    working_folder,
    write_info,
    write_table,
)

MANIFEST_COLUMNS = (
    "path", "class", "split", "width", "height", "sha256", "phash", "group",
    "box_left", "box_top", "box_right", "box_bottom", "source", "repairs", "fold",
)  # fmt: skip
BOXES_COLUMNS = ("path", "class", "box_left", "box_top", "box_right", "box_bottom")
FORMAT = 1

_TABLES = f"""
{LISTS}
CREATE TABLE stored (path TEXT PRIMARY KEY, path_key TEXT UNIQUE, class TEXT, split TEXT,
    width INTEGER, height INTEGER, sha256 TEXT, phash TEXT, grp TEXT, box_left REAL, box_top REAL,
    box_right REAL, box_bottom REAL, source TEXT, repairs TEXT, fold INTEGER,
    preview BLOB);
CREATE TABLE boxes (path TEXT, class TEXT, box_left REAL, box_top REAL, box_right REAL,
    box_bottom REAL);
"""


def encode_photo(image: Image.Image, suffix: str, quality: int = 92) -> EncodedPhoto:
    """Encode a picture (mode RGB or L) as ".jpg" or ".png" and describe it for the manifest.

    The same picture gives the same bytes. Writes no file, so a worker process may call it.
    """
    return describe_photo(encode_image(image, suffix, quality), suffix, image)


def describe_photo(content: bytes, suffix: str, image: Image.Image) -> EncodedPhoto:
    """Describe for the manifest a picture that was encoded as `content`."""
    found = fingerprint(image)
    return EncodedPhoto(
        content, suffix, image.width, image.height, hashlib.sha256(content).hexdigest(),
        f"{found.phash:016x}", found.channel_sums, found.channel_squares,
    )  # fmt: skip


class DatasetWriter:
    """Collect the photos of one data set, and rename it to DEST when it is complete.

    Use it in one process only: workers encode photos, the parent adds them. The rows are kept in a
    small database on disk, so memory does not grow with the number of photos.
    """

    def __init__(
        self,
        options: PrepareOptions,
        *,
        kind: str,
        channels: int,
        classes: Sequence[str],
        multi_label: bool = False,
    ) -> None:
        """Create an empty tree in the working folder, replacing that of an earlier run.

        Args:
            kind: "photos" or "digits".
            channels: of every photo: 3 (RGB) or 1 (grayscale).
            classes: all class names in any order. The label of a class is its index once sorted.
            multi_label: whether the `class_name` of a photo is a text of several labels (see
                stacked_ram.preparation.multi_label).
        """
        self.options = options
        self.kind = kind
        self.channels = channels
        self.multi_label = multi_label
        self.folders = folder_names(classes)
        working = working_folder(options.dest)
        self._tree = working / "dataset"
        remove_tree(self._tree)
        for split in SPLITS:
            for folder in [FOLDER] if multi_label else self.folders.values():
                (self._tree / split / folder).mkdir(parents=True)
        database = working / "rows.sqlite"
        for leftover in working.glob("rows.sqlite*"):
            leftover.unlink()
        self._rows = sqlite3.connect(database)
        # After a run is killed, the next one writes these rows again, so speed matters, not safety.
        self._rows.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _TABLES)
        self._next_number: dict[str, int] = {}
        self._pixels = 0
        self._sums = np.zeros(channels, dtype=object)  # whole numbers of any size: exact sums
        self._squares = np.zeros(channels, dtype=object)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows.close()

    def add(
        self,
        photo: EncodedPhoto,
        *,
        class_name: str,
        split: str,
        source: str,
        name: str = "",
        group: str = "",
        box: Box | None = None,
        fold: int | None = None,
        repairs: Sequence[str] = (),
        boxes: Iterable[tuple[str, Box]] = (),
    ) -> str:
        """Store one photo and its row of the manifest; return its path relative to DEST.

        Args:
            source: where the photo came from, as text for the manifest ("train-images:17").
            name: the name of the file without suffix; it is made safe and unique. If empty, the
                stem of `source`.
            box: (left, top, right, bottom) in pixels of the stored photo.
            boxes: (class, box) of every object, for boxes.csv.
        """
        folder = f"{split}/{FOLDER if self.multi_label else self.folders[class_name]}"
        stem = f"{folder}/{safe_name(name or Path(source).stem, max_bytes=120)}"
        path = f"{stem}{photo.suffix}"
        if box is not None:
            box = clip_box(box, photo.width, photo.height)
        row = [
            class_name, split, photo.width, photo.height, photo.sha256, photo.phash, group,
            *(box or (None,) * 4), source, " ".join(repairs), fold, photo.preview,
        ]  # fmt: skip
        while True:
            try:
                self._rows.execute(
                    f"INSERT INTO stored VALUES ({','.join('?' * 17)})",
                    [path, path.casefold(), *row],
                )
                break
            except sqlite3.IntegrityError:  # the name is taken: try the next number
                number = self._next_number.get(stem.casefold(), 1) + 1
                self._next_number[stem.casefold()] = number
                path = f"{stem}-{number}{photo.suffix}"
        clipped = ((label, clip_box(found, photo.width, photo.height)) for label, found in boxes)
        self._rows.executemany(
            "INSERT INTO boxes VALUES (?,?,?,?,?,?)",
            ((path, label, *found) for label, found in clipped if found is not None),
        )
        if isinstance(photo.content, bytes):
            (self._tree / path).write_bytes(photo.content)
        else:
            place_file(photo.content, self._tree / path)
        if split == "train":
            self._pixels += photo.width * photo.height
            self._sums += np.array(photo.channel_sums, dtype=object)
            self._squares += np.array(photo.channel_squares, dtype=object)
        return path

    def add_piece(self, file: Path, path: str) -> None:
        """Store an extra file (part of a scene) as `path` relative to DEST, unless it exists."""
        target = self._tree / path
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        place_file(file, target)

    def leave_out(
        self,
        *,
        source: str,
        class_name: str,
        fate: str,
        problem: str,
        detail: str = "",
        preview: bytes | None = None,
    ) -> None:
        """Record a photo that is not in the data set.

        Args:
            fate: "quarantined" (cannot be used) or "left out" (usable, but excluded).
            problem: the word that it is counted under ("truncated", "conflict", ...).
            detail: an explanation of one line.
            preview: a small picture of the photo for the report, as JPEG bytes.
        """
        self._rows.execute(
            "INSERT INTO left_out VALUES (?,?,?,?,?,?)",
            [source, class_name, fate, problem, detail, preview],
        )

    def keep_checks(self, checked_as: str, checks: Iterable[tuple]) -> None:
        """Keep the checks of all stored photos in the data set (see `kept_checks`)."""
        paths = self._rows.execute("SELECT sha256, path FROM stored ORDER BY sha256, path")
        write_checks(self._tree, checked_as, paths, checks)

    def show_pair(
        self, caption: str, sources: tuple[str, str], pictures: tuple[bytes | Path, bytes | Path]
    ) -> None:
        """Add a pair of photos to the report.

        Args:
            sources: their paths in the source.
            pictures: JPEG bytes, or files in the working folder.
        """
        shown = (photo if isinstance(photo, bytes) else str(photo) for photo in pictures)
        self._rows.execute("INSERT INTO pairs VALUES (?,?,?,?,?)", [caption, *sources, *shown])

    def finish(
        self,
        *,
        rule: str,
        layout: str,
        notes: Sequence[str] = (),
        details: Mapping[str, object] | None = None,
    ) -> Path:
        """Write the tables, dataset.yaml and the reports, and rename the folder to DEST.

        Args:
            rule: how the split was made, in words.
            layout: the layout as which the source was read.
            notes: lines for the report and the summary.
            details: more plain values for dataset.yaml.

        Returns:
            DEST.
        """
        self._rows.commit()
        manifest = self._rows.execute(
            "SELECT path, class, split, width, height, sha256, phash, grp, box_left, box_top,"
            " box_right, box_bottom, source, repairs, fold FROM stored ORDER BY path"
        )
        columns: tuple[str, ...] = MANIFEST_COLUMNS
        if self.multi_label:
            columns = tuple("labels" if name == "class" else name for name in columns)
        write_table(self._tree / "manifest.csv", columns, manifest)
        if self._rows.execute("SELECT 1 FROM boxes LIMIT 1").fetchone():
            boxes = self._rows.execute("SELECT * FROM boxes ORDER BY path, rowid")
            write_table(self._tree / "boxes.csv", BOXES_COLUMNS, boxes)
        report = self._rows.execute(
            "SELECT source, class, 'stored', '', '', repairs, path FROM stored UNION ALL"
            " SELECT source, class, fate, problem, detail, '', '' FROM left_out"
            " ORDER BY 1, 2, 3, 7"
        )
        write_table(self._tree / "report.csv", REPORT_COLUMNS, report)
        info = self._dataset_info(rule, layout, notes, details or {})
        write_report(self._tree, self._rows, info)
        write_info(self._tree, info)
        publish(self._tree, self.options.dest)
        return self.options.dest

    def _dataset_info(
        self, rule: str, layout: str, notes: Sequence[str], details: Mapping[str, object]
    ) -> dict[str, object]:
        counts = {split: dict.fromkeys(self.folders, 0) for split in SPLITS}
        query = "SELECT split, class, count(*) FROM stored GROUP BY split, class"
        photos = dict.fromkeys(SPLITS, 0)
        for split, class_name, count in self._rows.execute(query):
            photos[split] += count
            for name in split_labels(class_name) if self.multi_label else [class_name]:
                counts[split][name] += count
        left_out = self._rows.execute(
            "SELECT problem, count(*) FROM left_out GROUP BY problem ORDER BY problem"
        )
        repairs: dict[str, int] = {}
        for words, count in self._rows.execute(
            "SELECT repairs, count(*) FROM stored WHERE repairs != '' GROUP BY repairs"
        ):
            for word in words.split():
                repairs[word] = repairs.get(word, 0) + count
        return {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.options.dest.name,
            "classes": list(self.folders),
            **({"labels": "several"} if self.multi_label else {}),
            "folders": [FOLDER] if self.multi_label else list(self.folders.values()),
            "counts": counts,
            **({"photos": photos} if self.multi_label else {}),
            **self._pixel_statistics(),
            "channels": self.channels,
            "rule": rule,
            "seed": self.options.seed,
            "layout": layout,
            "left_out": dict(left_out),
            "repaired": dict(sorted(repairs.items())),
            "notes": list(notes),
            **details,
            "options": self.options.recorded(),
            **origin_of(
                self.options.dest,
                self.options.source,
                pillow=PIL.__version__,
                numpy=np.__version__,
            ),
        }

    def _pixel_statistics(self) -> dict[str, list[float]]:
        """Return mean and standard deviation of each channel over all training pixels, 0 to 1.

        A channel that does not vary has a std of 1, because photos are divided by it.
        """
        if not self._pixels:
            return {"mean": [0.0] * self.channels, "std": [1.0] * self.channels}
        means = [float(total) / self._pixels for total in self._sums]
        spreads = [
            max(float(total) / self._pixels - mean**2, 0.0) ** 0.5
            for total, mean in zip(self._squares, means, strict=True)
        ]
        return {
            "mean": [round(mean / 255, 6) for mean in means],
            "std": [round(spread / 255, 6) or 1.0 for spread in spreads],
        }

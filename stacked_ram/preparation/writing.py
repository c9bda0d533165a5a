"""Writing a prepared data set, so that it is whole or not there at all.

    with DatasetWriter(options, kind="digits", channels=1, classes=names) as writer:
        for ...:
            encoded = encode_photo(image, ".png")  # may be done in a worker process
            writer.add(encoded, class_name="7", split="train", source="train-images:17")
        writer.finish(rule="the official split", layout="mnist")

Everything goes to the working folder beside DEST (`.NAME.partial`) and gets DEST's name when it is
complete. What was left out, and why, is told with `leave_out`; it is listed in report.csv.
"""

from __future__ import annotations

import csv
import hashlib
import os
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import PIL
import yaml
from PIL import Image

from stacked_ram.images.names import folder_names, safe_name
from stacked_ram.preparation.boxes import clip_box
from stacked_ram.preparation.encoding import encode_image
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.perceptual import fingerprint
from stacked_ram.preparation.records import SPLITS, Box, EncodedPhoto
from stacked_ram.preparation.report import REPORT_COLUMNS, write_report
from stacked_ram.preparation.workdir import place_file, publish, recall_run, remove_tree
from stacked_ram.preparation.workdir import working_folder as working_folder_of
from stacked_ram.runtime.version import __version__

MANIFEST_COLUMNS = (
    "path", "class", "split", "width", "height", "sha256", "phash", "group",
    "box_left", "box_top", "box_right", "box_bottom", "source", "repairs", "fold",
)  # fmt: skip
FORMAT = 1

_TABLES = """
CREATE TABLE stored (path TEXT PRIMARY KEY, path_key TEXT UNIQUE, class TEXT, split TEXT,
    width INTEGER, height INTEGER, sha256 TEXT, phash TEXT, grp TEXT, box_left REAL, box_top REAL,
    box_right REAL, box_bottom REAL, source TEXT, repairs TEXT, fold INTEGER,
    preview BLOB);
CREATE TABLE left_out (source TEXT, class TEXT, fate TEXT, problem TEXT, detail TEXT,
    preview BLOB);
CREATE TABLE pairs (caption TEXT, names TEXT, first, second);
"""


def encode_photo(image: Image.Image, suffix: str, quality: int = 92) -> EncodedPhoto:
    """Encode a picture (mode RGB or L) as ".jpg" or ".png" and describe it for the manifest.

    The same picture gives the same bytes. Safe to call in a worker process: it writes nothing.
    """
    content = encode_image(image, suffix, quality)
    look = fingerprint(image)
    return EncodedPhoto(
        content,
        suffix,
        image.width,
        image.height,
        hashlib.sha256(content).hexdigest(),
        f"{look.phash:016x}",
        look.channel_sums,
        look.channel_squares,
    )


class DatasetWriter:
    """Collects the photos of one data set and puts it under DEST's name when it is complete.

    Not to be shared by processes: workers encode, the parent adds. The rows live in a small
    database on disk, so memory does not grow with the number of photos.
    """

    def __init__(
        self, options: PrepareOptions, *, kind: str, channels: int, classes: Sequence[str]
    ) -> None:
        """Start (again) an empty tree in the working folder.

        Args:
            kind: "photos" or "digits".
            channels: 3 (RGB) or 1 (grayscale), of every photo that will be added.
            classes: all class names, in any order; sorted here: the index is the label.
        """
        self.options = options
        self.kind = kind
        self.channels = channels
        self.folders = folder_names(classes)
        working = working_folder_of(options.dest)
        self._tree = working / "dataset"
        remove_tree(self._tree)
        for split in SPLITS:
            for folder in self.folders.values():
                (self._tree / split / folder).mkdir(parents=True)
        database = working / "rows.sqlite"
        for leftover in working.glob("rows.sqlite*"):
            leftover.unlink()
        self._rows = sqlite3.connect(database)
        # A run that is killed makes these rows anew, so there is nothing to keep safe.
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
    ) -> str:
        """Store one photo and its row of the manifest; returns its path relative to DEST.

        Args:
            source: where it came from, as text for the manifest ("train-images:17").
            name: what to call the file, without suffix; made safe and unique here. The stem of
                `source` where empty.
        """
        folder = f"{split}/{self.folders[class_name]}"
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
            except sqlite3.IntegrityError:  # the name is taken: count on
                number = self._next_number.get(stem.casefold(), 1) + 1
                self._next_number[stem.casefold()] = number
                path = f"{stem}-{number}{photo.suffix}"
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
        """Store a file that is no photo of the data set as `path` relative to DEST, once."""
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
        """Tell of a photo that is not in the data set.

        Args:
            fate: "quarantined" (cannot be used) or "left out" (could be, but must not).
            problem: one word for the counts ("truncated", "conflict", ...); detail: one line.
            preview: a small picture of it for the report, as JPEG bytes.
        """
        self._rows.execute(
            "INSERT INTO left_out VALUES (?,?,?,?,?,?)",
            [source, class_name, fate, problem, detail, preview],
        )

    def show_pair(
        self, caption: str, names: str, first: bytes | Path, second: bytes | Path
    ) -> None:
        """Show two photos (small JPEGs, or files of the working folder) side by side."""
        pair = (photo if isinstance(photo, bytes) else str(photo) for photo in (first, second))
        self._rows.execute("INSERT INTO pairs VALUES (?,?,?,?)", [caption, names, *pair])

    def finish(
        self,
        *,
        rule: str,
        layout: str,
        notes: Sequence[str] = (),
        details: Mapping[str, object] | None = None,
    ) -> Path:
        """Write manifest.csv, dataset.yaml and the reports, and give the folder DEST's name.

        Args:
            rule: how the split was made, in words.
            layout: what the source was read as.
            notes: lines for the reader of the report and the summary.
            details: further plain values for dataset.yaml.

        Returns:
            DEST.
        """
        self._rows.commit()
        self._write_csv(
            "manifest.csv",
            MANIFEST_COLUMNS,
            "SELECT path, class, split, width, height, sha256, phash, grp, box_left, box_top,"
            " box_right, box_bottom, source, repairs, fold FROM stored ORDER BY path",
        )
        self._write_csv(
            "report.csv",
            REPORT_COLUMNS,
            "SELECT source, class, 'stored', '', '', repairs, path FROM stored UNION ALL"
            " SELECT source, class, fate, problem, detail, '', '' FROM left_out"
            " ORDER BY 1, 2, 3, 7",
        )
        info = self._dataset_info(rule, layout, notes, details or {})
        text = yaml.safe_dump(info, sort_keys=False, allow_unicode=True, width=100)
        write_report(self._tree, self._rows, info)
        with open(self._tree / "dataset.yaml", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        publish(self._tree, self.options.dest)
        return self.options.dest

    def _write_csv(self, name: str, columns: Sequence[str], query: str) -> None:
        with open(self._tree / name, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows(self._rows.execute(query))
            file.flush()
            os.fsync(file.fileno())

    def _dataset_info(
        self, rule: str, layout: str, notes: Sequence[str], details: Mapping[str, object]
    ) -> dict[str, object]:
        counts = {split: dict.fromkeys(self.folders, 0) for split in SPLITS}
        query = "SELECT split, class, count(*) FROM stored GROUP BY split, class"
        for split, class_name, count in self._rows.execute(query):
            counts[split][class_name] = count
        left_out = self._rows.execute(
            "SELECT problem, count(*) FROM left_out GROUP BY problem ORDER BY problem"
        )
        repairs: dict[str, int] = {}
        for words, count in self._rows.execute(
            "SELECT repairs, count(*) FROM stored WHERE repairs != '' GROUP BY repairs"
        ):
            for word in words.split():
                repairs[word] = repairs.get(word, 0) + count
        run = recall_run(self.options.dest)
        return {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.options.dest.name,
            "classes": list(self.folders),
            "folders": list(self.folders.values()),
            "counts": counts,
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
            "command": run.get("command", ""),
            "source": run.get("source", str(self.options.source)),
            "source_fingerprint": run.get("fingerprint", ""),
            "versions": {
                "stacked_ram": __version__,
                "python": platform.python_version(),
                "pillow": PIL.__version__,
                "numpy": np.__version__,
            },
        }

    def _pixel_statistics(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each channel over all pixels of train, in 0..1; the
        deviation of a channel that does not vary is given as 1: it is what photos are divided by.
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

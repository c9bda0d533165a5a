"""A catalogue, on disk, of the photos of one run: where each was found, its checks, its split.

It is one SQLite file in the working folder. The results of checks survive a killed run, so the next
run continues where that run stopped. Only one run can open the file at a time. Memory does not grow
with the number of photos, except for a few numbers per photo while duplicates and splits are
computed.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.images.formats import has_heif
from stacked_ram.images.names import path_text
from stacked_ram.preparation.boxes import box_text, stored_box
from stacked_ram.preparation.checked import Checked, CheckPlan
from stacked_ram.preparation.damage import NEEDS_HEIF
from stacked_ram.preparation.fingerprint import SourceFingerprint
from stacked_ram.preparation.large import has_vips
from stacked_ram.preparation.multi_label import (
    count_labels,
    has_label,
    join_labels,
    split_labels,
)
from stacked_ram.preparation.perceptual import Fingerprint
from stacked_ram.preparation.records import CheckedRecord, EncodedPhoto, Record
from stacked_ram.runtime.errors import UserError

FILE = "work.sqlite"  # in the working folder
_CHECKS = 2  # changes with the checks: photos that an older release checked are checked again
_BATCH = 1000
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

_CHECKED = """
CREATE TABLE IF NOT EXISTS checked (file BLOB PRIMARY KEY, size INTEGER, changed INTEGER,
    problem TEXT, detail TEXT, source_sha256 TEXT, preview BLOB, stored TEXT,
    stored_bytes INTEGER, sha256 TEXT, raw_width INTEGER, raw_height INTEGER,
    orientation INTEGER, width INTEGER, height INTEGER, repairs TEXT, phash INTEGER, tiny BLOB,
    sums TEXT, squares TEXT, top INTEGER, white INTEGER) WITHOUT ROWID;
"""
_TABLES = (
    _CHECKED
    + """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
DROP TABLE IF EXISTS photos;
CREATE TABLE photos (id INTEGER PRIMARY KEY, file BLOB, size INTEGER, changed INTEGER,
    class TEXT, given TEXT, grp TEXT, box TEXT, lot INTEGER,
    why TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '', split TEXT, fold INTEGER,
    moved TEXT);
DROP TABLE IF EXISTS dropped;
CREATE TABLE dropped (file BLOB, class TEXT, detail TEXT);
DROP TABLE IF EXISTS boxes;
CREATE TABLE boxes (id INTEGER, class TEXT, box TEXT);
"""
)
CHECKED_COLUMNS = (  # the values of a check, as `_to_row` gives them
    "problem", "detail", "source_sha256", "preview", "stored", "stored_bytes", "sha256",
    "raw_width", "raw_height", "orientation", "width", "height", "repairs", "phash", "tiny",
    "sums", "squares", "top", "white",
)  # fmt: skip
# Photos that can be stored: checked without a problem, and not left out for another reason.
_USABLE = "FROM photos p JOIN checked c USING (file) WHERE c.problem = '' AND p.why = ''"


class Catalogue:
    """The photos of one run, numbered (`id`) from 1 in the order of the source."""

    def __init__(self, folder: Path, plan: CheckPlan, *, keep: bool = True) -> None:
        """Open the catalogue of a working folder. Earlier checks stay valid if `plan` is the same.

        Args:
            keep: whether to save the changes of this run; if False, the file stays unchanged.

        Raises:
            UserError: another run has the file open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.plan = plan
        self.root = Path()
        self._keep = keep
        self._db = sqlite3.connect(folder / FILE, timeout=0, isolation_level=None)
        try:
            self._db.executescript(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=NORMAL; BEGIN EXCLUSIVE;"
                + _TABLES
            )
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" not in str(error):
                raise
            raise UserError(f"another run is using {folder}: wait until it has ended") from error
        checked_as = f"{_CHECKS} {plan.short_side} {plan.quality} {plan.max_pixels}"
        if plan.keep_damaged:
            checked_as += " damaged"
        if plan.white:
            checked_as += f" white {plan.white}"
        if plan.keep_large:
            checked_as += f" large {has_vips()}"
        self.checked_as = checked_as
        self.multi_label = False  # whether `class` is a text of several labels
        self.reused = 0  # photos of this run that were not decoded again
        known = self._db.execute("SELECT value FROM facts WHERE name = 'plan'").fetchone()
        if known != (checked_as,):
            self._db.execute("DROP TABLE checked")  # that of an older release has other columns
            self._db.execute(_CHECKED)
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('plan', ?)", [checked_as])
        if has_heif():  # since an earlier run of these checks
            self._db.execute("DELETE FROM checked WHERE problem = ?", [NEEDS_HEIF])
        if keep:
            self.save()

    def close(self) -> None:
        """Save the checks if `keep` was set, and close the file."""
        if self._db.in_transaction:
            self._db.execute("COMMIT" if self._keep else "ROLLBACK")
        self._db.close()

    def list_photos(self, root: Path, records: Iterable[Record], seed: int) -> SourceFingerprint:
        """Add the photos of the source; return a fingerprint of all that decides their content."""
        self.root = root
        self._forget_other_source(path_text(root))
        fingerprint = SourceFingerprint(root)
        missing: list[int] = []

        def rows() -> Iterator[tuple]:
            for number, record in enumerate(records, 1):
                file = os.fsencode(record.source.relative_to(root))
                try:
                    status = record.source.stat()
                    size, changed = status.st_size, status.st_mtime_ns
                    # Copying can keep the time of the last change, but not that of the inode.
                    touched = max(changed, status.st_ctime_ns)
                except OSError as error:
                    size, changed, touched = -2, 0, 0
                    if error.errno in _MISSING:
                        size = -1
                        missing.append(number)
                row = (file, size, changed, record.class_name, record.split, record.group)
                box = None if record.box is None else box_text(record.box, record.box_of)
                content = row if box is None else (*row, box)
                fingerprint.add(file, record.source, content, record.boxes)
                self._db.executemany(
                    "INSERT INTO boxes VALUES (?,?,?)",
                    (
                        (number, name, box_text(found, record.box_of))
                        for name, found in record.boxes
                    ),
                )
                yield (file, size, touched, *row[3:], box, _lot(seed, file))

        self._db.executemany(
            "INSERT INTO photos (file, size, changed, class, given, grp, box, lot)"
            " VALUES (?,?,?,?,?,?,?,?)",
            rows(),
        )
        self._db.execute("CREATE INDEX photos_file ON photos (file)")
        self._db.execute("CREATE INDEX photos_class ON photos (class)")
        self._db.execute("CREATE INDEX boxes_id ON boxes (id)")
        # A file that is missing now is the source's fault; one that goes missing later is not.
        self.take((number, Checked("unreadable", "no such file")) for number in missing)
        return fingerprint

    def _forget_other_source(self, root: str) -> None:
        """Forget the checks of another source, whose files may have the same names."""
        known = self._db.execute("SELECT value FROM facts WHERE name = 'source'").fetchone()
        if known != (root,):
            self._db.execute("DELETE FROM checked")
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('source', ?)", [root])

    def class_counts(self, *, usable: bool = False) -> dict[str, int]:
        """Count the photos of each class: all of them, or only those that can be stored."""
        counts = self.class_texts(usable=usable)
        return count_labels(counts) if self.multi_label else counts

    def class_texts(self, *, usable: bool = False) -> dict[str, int]:
        """Count the photos of each class or, with several labels, of each set of labels."""
        source = _USABLE if usable else "FROM photos p"
        return dict(self._db.execute(f"SELECT class, count(*) {source} GROUP BY class ORDER BY 1"))

    def photo_count(self) -> int:
        """Count all photos."""
        return self._db.execute("SELECT count(*) FROM photos").fetchone()[0]

    def reasons(self, name: str) -> str:
        """List why photos of a class cannot be stored, with the number of photos per reason."""
        query = (
            "SELECT CASE c.problem WHEN '' THEN p.why ELSE c.problem END AS word, count(*)"
            f" FROM photos p JOIN checked c USING (file) WHERE {self._has_class} AND word != ''"
            " GROUP BY word ORDER BY word"
        )
        return ", ".join(f"{count} {word}" for word, count in self._db.execute(query, [name]))

    def given_counts(self) -> dict[str | None, int]:
        """Count the photos of each official split, without those that --fixes moves; the key None
        counts photos without one."""
        query = "SELECT given, count(*) FROM photos WHERE moved IS NULL GROUP BY given"
        return dict(self._db.execute(query))

    def find(self, files: Collection[str]) -> dict[str, list[int]]:
        """Return path in the source, as text without spaces around it -> numbers of its photos."""
        numbers: dict[str, list[int]] = {}
        for number, file in self._db.execute("SELECT id, file FROM photos"):
            if (text := path_text(os.fsdecode(file)).strip()) in files:
                numbers.setdefault(text, []).append(number)
        return numbers

    def drop(self, numbers: Iterable[int], detail: str) -> None:
        """Remove photos, which are not checked then; `detail` says in one line why."""
        for number in numbers:
            self._db.execute(
                "INSERT INTO dropped SELECT file, class, ? FROM photos WHERE id = ?",
                [detail, number],
            )
            self._db.execute("DELETE FROM photos WHERE id = ?", [number])

    def relabel(self, numbers: Iterable[int], name: str) -> None:
        """Give photos, and their boxes of the same class, another class."""
        for number in numbers:
            self._db.execute(
                "UPDATE boxes SET class = ? WHERE id = ? AND class ="
                " (SELECT class FROM photos WHERE id = ?)",
                [name, number, number],
            )
            self._db.execute("UPDATE photos SET class = ? WHERE id = ?", [name, number])

    def move(self, numbers: Iterable[int], split: str) -> None:
        """Fix the split of photos, whether the source has an official split or not."""
        self._db.executemany(
            "UPDATE photos SET given = ?, moved = ? WHERE id = ?",
            ((split, split, number) for number in numbers),
        )

    def rename_classes(self, names: Mapping[str, str]) -> None:
        """Give photos another class. names: old class -> new class."""
        pairs = [(new, old) for old, new in names.items()]
        for table in ("photos", "boxes"):
            self._db.executemany(f"UPDATE {table} SET class = ? WHERE class = ?", pairs)
        if self.multi_label:
            for text in self.class_texts():
                self._rename_text(text, [names.get(name, name) for name in split_labels(text)])

    def keep_classes(self, names: Iterable[str]) -> None:
        """Remove the photos of all other classes, or with several labels, those with none."""
        if self.multi_label:
            kept = set(names)
            for text in self.class_texts():
                self._rename_text(text, kept & set(split_labels(text)))
            self._db.execute("DELETE FROM photos WHERE class = ''")
            return
        self._db.execute("CREATE TEMP TABLE kept (class TEXT PRIMARY KEY)")
        self._db.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((name,) for name in names))
        self._db.execute("DELETE FROM photos WHERE class NOT IN (SELECT class FROM kept)")
        self._db.execute("DROP TABLE kept")

    def _rename_text(self, text: str, labels: Iterable[str]) -> None:
        new = join_labels(labels)
        self._db.execute("UPDATE photos SET class = ? WHERE class = ?", [new, text])

    def keep_most(self, number: int) -> None:
        """Keep `number` random photos per class, and the proportions of the official splits."""
        self._db.execute(
            "DELETE FROM photos WHERE id NOT IN (SELECT id FROM (SELECT id, row_number() OVER"
            " (PARTITION BY class ORDER BY place, lot, id) AS n FROM (SELECT id, class, lot,"
            " percent_rank() OVER (PARTITION BY class, given ORDER BY lot, id) AS place"
            " FROM photos)) WHERE n <= ?)",
            [number],
        )

    def group_by(self, pattern: str) -> None:
        """Set the group of every photo to the match of a regular expression in its path."""
        import re

        find = re.compile(pattern)

        def group(file: bytes) -> str:
            match = find.search(path_text(os.fsdecode(file)))
            if match is None:
                return ""
            return "|".join(part or "" for part in match.groups()) if match.groups() else match[0]

        self._db.create_function("group_of", 1, group, deterministic=True)
        self._db.execute("UPDATE photos SET grp = group_of(file)")

    def to_check(self) -> int:
        """Find the files that still have to be checked; return their number."""
        self._db.create_function("is_there", 2, self._is_there)
        self._db.execute("DROP TABLE IF EXISTS temp.todo")
        self._db.execute(
            "CREATE TEMP TABLE todo AS SELECT min(p.id) AS id, p.file FROM photos p"
            " LEFT JOIN checked c ON c.file = p.file AND c.size = p.size AND c.changed = p.changed"
            " AND is_there(c.stored, c.stored_bytes) WHERE c.file IS NULL GROUP BY p.file"
            " ORDER BY min(p.id)"
        )
        return self._db.execute("SELECT count(*) FROM todo").fetchone()[0]

    def undeclared_16_bit(self) -> tuple[int, int]:
        """Return the number of 16-bit photos that declare no white, and their largest value."""
        query = f"SELECT count(*), max(c.top) {_USABLE} AND c.top > 0"
        count, top = self._db.execute(query).fetchone()
        return count, top or 0

    def forget_other_white(self, white: int) -> bool:
        """Forget the checks of 16-bit photos with another white; return whether there were any."""
        query = "DELETE FROM checked WHERE top > 0 AND white != ?"
        return self._db.execute(query, [white]).rowcount > 0

    def problem_count(self, problem: str) -> int:
        """Count the photos that are quarantined for this reason."""
        query = "SELECT count(*) FROM photos p JOIN checked c USING (file) WHERE c.problem = ?"
        return self._db.execute(query, [problem]).fetchone()[0]

    def repair_count(self, word: str) -> int:
        """Count the usable photos that had this repair."""
        query = f"SELECT count(*) {_USABLE} AND instr(c.repairs, ?)"
        return self._db.execute(query, [word]).fetchone()[0]

    def tasks(self) -> Iterator[tuple[int, Path]]:
        """Iterate over the files to check, as (number, path)."""
        last = 0
        while rows := self._db.execute(
            "SELECT rowid, id, file FROM todo WHERE rowid > ? ORDER BY rowid LIMIT ?",
            [last, _BATCH],
        ).fetchall():
            for _, number, file in rows:
                yield number, self.root / os.fsdecode(file)
            last = rows[-1][0]

    def take(self, results: Iterable[tuple[int, Checked]]) -> None:
        """Record the checks of some files."""
        results = list(results)
        marks = ",".join("?" * len(CHECKED_COLUMNS))
        self._db.executemany(
            f"INSERT OR REPLACE INTO checked SELECT file, size, changed, {marks} FROM photos"
            " WHERE id = ?",
            ((*_to_row(checked), number) for number, checked in results),
        )
        self.reused += sum(checked.reused for _, checked in results)

    def save(self) -> None:
        """Write the recorded checks to disk."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def faulty(self) -> Iterator[tuple[str, str, str]]:
        """Iterate over quarantined and repaired photos, as (source, problem or repairs, detail)."""
        for file, problem, detail, repairs in self._db.execute(
            "SELECT p.file, c.problem, c.detail, c.repairs FROM photos p JOIN checked c"
            " USING (file) WHERE c.problem != '' OR c.repairs != '' ORDER BY p.id"
        ):
            yield path_text(os.fsdecode(file)), problem or repairs, detail

    def equal_files(self) -> Iterator[list[int]]:
        """Iterate over groups of usable photos whose stored files have equal bytes, as numbers."""
        query = (
            f"SELECT c.sha256, p.id {_USABLE} AND c.sha256 IN (SELECT c.sha256"
            f" {_USABLE} GROUP BY c.sha256 HAVING count(*) > 1) ORDER BY 1, 2"
        )
        for _, rows in itertools.groupby(self._db.execute(query), key=lambda row: row[0]):
            yield [number for _, number in rows]

    def equal_fingerprints(self) -> Iterator[list[tuple[int, Path, str, bool]]]:
        """Iterate over groups of photos that may have equal pixels, once per stored file.

        Very large photos are not compared. Yields (number, stored file, its SHA-256, whether it was
        encoded as JPEG again) of each photo.
        """
        key = "c.phash, c.tiny, c.sums, c.squares, c.width, c.height"
        usable = f"{_USABLE} AND c.stored NOT LIKE '%.tif'"
        query = (
            f"SELECT {key}, min(p.id), c.stored, c.sha256, c.source_sha256 {usable}"
            f" AND ({key}) IN (SELECT {key} {usable} GROUP BY {key}"
            f" HAVING count(DISTINCT c.sha256) > 1) GROUP BY c.sha256 ORDER BY {key}, min(p.id)"
        )
        for _, rows in itertools.groupby(self._db.execute(query), key=lambda row: row[:6]):
            yield [
                (number, self.plan.folder / stored, sha256, self._is_lossy(stored, sha256, source))
                for *_, number, stored, sha256, source in rows
            ]

    @staticmethod
    def _is_lossy(stored: str, sha256: str, source_sha256: str) -> bool:
        return stored.endswith(".jpg") and sha256 != source_sha256

    def hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (numbers, perceptual hashes) of usable photos."""
        query = f"SELECT p.id, c.phash {_USABLE} ORDER BY 1"
        table = np.fromiter(self._db.execute(query), dtype=np.dtype((np.int64, 2)))
        return table[:, 0].copy(), table[:, 1].astype(np.uint64)

    def tiny(self, number: int) -> bytes:
        """Return the tiny copy of a photo."""
        return self._value("c.tiny", number)

    def class_of(self, number: int) -> str:
        """Return the class of a photo."""
        return self._value("p.class", number)

    def source_of(self, number: int) -> str:
        """Return the path of a photo in the source, as text."""
        return path_text(os.fsdecode(self._value("p.file", number)))

    def file_of(self, number: int) -> Path:
        """Return the file of a photo in the source."""
        query = "SELECT file FROM photos WHERE id = ?"
        return self.root / os.fsdecode(self._db.execute(query, [number]).fetchone()[0])

    def usable(self) -> Iterator[tuple[str, str, str]]:
        """Iterate over the photos that can be stored, as (source, class, repairs)."""
        for file, name, repairs in self._db.execute(
            f"SELECT p.file, p.class, c.repairs {_USABLE} ORDER BY p.id"
        ):
            yield path_text(os.fsdecode(file)), name, repairs

    def picture(self, number: int) -> bytes | Path:
        """Return a small JPEG of a photo if one exists, otherwise the path of the stored photo."""
        preview = self._value("c.preview", number)
        return self.plan.folder / self._value("c.stored", number) if preview is None else preview

    def leave_out(self, numbers: Iterable[int], why: str, detail: str) -> None:
        """Exclude these photos from the data set; `why` is the word that they are counted under."""
        self._db.executemany(
            "UPDATE photos SET why = ?, detail = ? WHERE id = ?",
            ((why, detail, n) for n in numbers),
        )

    def leave_out_unnamed(self) -> None:
        """Exclude the photos that the official split does not name."""
        self._db.execute(
            "UPDATE photos SET why = 'no_split', detail = 'not named by the source''s split'"
            " WHERE given IS NULL"
        )

    def columns(self, *, usable: bool = True) -> dict[str, np.ndarray]:
        """Return columns with one value per usable photo, or per photo if `usable` is False.

        The columns are `id`, `klass` (number of the class in sorted order), `group` (number of the
        group, 0: none), `given` (official split; 0, 1, 2: train, valid, test; -1: none), `moved`
        (the split that --fixes gives it, in the same way) and `lot` (a random number, see `_lot`).
        """
        source = _USABLE if usable else "FROM photos p"
        query = (
            "SELECT p.id, dense_rank() OVER (ORDER BY p.class) - 1,"
            " CASE p.grp WHEN '' THEN 0 ELSE dense_rank() OVER (ORDER BY p.grp) END,"
            " CASE p.given WHEN 'train' THEN 0 WHEN 'valid' THEN 1 WHEN 'test' THEN 2 ELSE -1 END,"
            " CASE p.moved WHEN 'train' THEN 0 WHEN 'valid' THEN 1 WHEN 'test' THEN 2 ELSE -1 END,"
            f" p.lot {source} ORDER BY p.id"
        )
        kinds = {
            "id": "i8", "klass": "i4", "group": "i4", "given": "i1", "moved": "i1", "lot": "i8"
        }  # fmt: skip
        count = self._db.execute(f"SELECT count(*) {source}").fetchone()[0]
        table = np.fromiter(self._db.execute(query), dtype=[*kinds.items()], count=count)
        return {name: table[name].copy() for name in kinds}

    def set_splits(self, rows: Iterable[tuple[str, int | None, str, int]]) -> None:
        """Record the splits of photos. rows: (split, fold, group, number of the photo)."""
        self._db.executemany("UPDATE photos SET split = ?, fold = ?, grp = ? WHERE id = ?", rows)

    def group_name(self, number: int) -> str:
        """Return the group that the source gives a photo, "" if none."""
        return self._value("p.grp", number)

    def dataset(self) -> Iterator[tuple[CheckedRecord, EncodedPhoto]]:
        """Iterate over the photos to store, in the order of the source."""
        query = (
            "SELECT p.id, p.file, p.class, p.split, p.grp, p.box, p.fold, c.stored, c.sha256,"
            " c.raw_width, c.raw_height, c.orientation, c.width, c.height, c.repairs, c.phash,"
            " c.sums, c.squares, c.preview"
            f" {_USABLE} AND p.split IS NOT NULL ORDER BY p.id"
        )
        for row in self._db.execute(query):
            (number, file, name, split, group, box, fold, stored, sha256, raw_width, raw_height,
             turned, width, height, repairs, phash, sums, squares, preview) = row  # fmt: skip
            path = self.plan.folder / stored
            size = raw_width, raw_height, turned, width, height
            listed = self._db.execute(
                "SELECT class, box FROM boxes WHERE id = ? ORDER BY rowid", [number]
            )
            boxes = [(label, stored_box(text, *size)) for label, text in listed]
            record = CheckedRecord(
                path_text(os.fsdecode(file)), name, split, group, stored_box(box, *size),
                fold, path, width, height, tuple(repairs.split()),
                tuple((label, found) for label, found in boxes if found is not None),
            )  # fmt: skip
            yield record, EncodedPhoto(
                path, path.suffix, width, height, sha256, f"{phash % 2**64:016x}",
                _numbers(sums), _numbers(squares), preview,
            )  # fmt: skip

    def records(self) -> Iterable[CheckedRecord]:
        """Return the records of `dataset`, as an iterable that can be read more than once."""
        return _Records(self)

    def not_in_dataset(self) -> Iterator[tuple[str, str, str, str, str, bytes | None, Path | None]]:
        """Iterate over all other photos.

        Yields (source, class, fate, problem, detail, preview, stored file).
        """
        for file, name, detail in self._db.execute("SELECT * FROM dropped ORDER BY rowid"):
            yield path_text(os.fsdecode(file)), name, "left out", "dropped", detail, None, None
        for file, name, why, detail, problem, about, preview, stored in self._db.execute(
            "SELECT p.file, p.class, p.why, p.detail, c.problem, c.detail, c.preview, c.stored"
            " FROM photos p JOIN checked c USING (file) WHERE p.why != '' OR c.problem != ''"
            " ORDER BY p.id"
        ):
            source = path_text(os.fsdecode(file))
            if problem:
                yield source, name, "quarantined", problem, about, preview, None
            else:
                yield source, name, "left out", why, detail, preview, self.plan.folder / stored

    def checks(self) -> Iterator[tuple]:
        """Iterate over the checks of the photos to store, as (suffix, *CHECKED_COLUMNS)."""
        columns = ", ".join(f"c.{name}" for name in CHECKED_COLUMNS)
        for file, *row in self._db.execute(
            f"SELECT p.file, {columns} {_USABLE} AND p.split IS NOT NULL"
            " ORDER BY c.source_sha256, p.id"
        ):
            yield (Path(os.fsdecode(file)).suffix, *row)

    def boxes_lost(self) -> int:
        """Count the boxes that were drawn on a photo of another size."""
        return sum(
            stored_box(*row) is None
            for row in self._db.execute(
                "SELECT p.box, c.raw_width, c.raw_height, c.orientation, c.width, c.height"
                f" {_USABLE} AND p.box IS NOT NULL"
            )
        )

    @property
    def _has_class(self) -> str:
        """The condition that a photo has the class `?`."""
        if self.multi_label:
            return has_label("p.class")
        return "p.class = ?"

    def _value(self, column: str, number: int) -> Any:
        """Return the value of a column (SQLite has no types) for a photo."""
        query = f"SELECT {column} FROM photos p JOIN checked c USING (file) WHERE p.id = ?"
        return self._db.execute(query, [number]).fetchone()[0]

    def _is_there(self, stored: str | None, size: int | None) -> bool:
        if not stored:
            return True  # quarantined: nothing was stored
        try:
            return (self.plan.folder / stored).stat().st_size == size
        except OSError:
            return False


@dataclass(frozen=True)
class _Records:
    catalogue: Catalogue

    def __iter__(self) -> Iterator[CheckedRecord]:
        return (record for record, _ in self.catalogue.dataset())


def _lot(seed: int, file: bytes) -> int:
    """Return a random number that depends only on the seed and the photo's path."""
    digest = hashlib.blake2b(file, digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> 1


def _to_row(checked: Checked) -> tuple:
    found = checked.fingerprint
    phash = found.phash - 2**64 if found.phash >= 2**63 else found.phash
    return (
        checked.problem, checked.detail, checked.source_sha256, checked.preview, checked.file,
        checked.stored_bytes, checked.sha256, checked.raw_width, checked.raw_height,
        checked.orientation, checked.width, checked.height, " ".join(checked.repairs), phash,
        found.tiny, " ".join(map(str, found.channel_sums)),
        " ".join(map(str, found.channel_squares)), checked.top, checked.white,
    )  # fmt: skip


def checked_from_row(row: Sequence[Any]) -> Checked:
    """Return a check from its CHECKED_COLUMNS, as one that is used again."""
    (problem, detail, source_sha256, preview, stored, stored_bytes, sha256, raw_width, raw_height,
     orientation, width, height, repairs, phash, tiny, sums, squares, top, white) = row  # fmt: skip
    found = Fingerprint(phash % 2**64, tiny, _numbers(sums), _numbers(squares))
    return Checked(
        problem, detail, source_sha256, preview, stored, stored_bytes, sha256, raw_width,
        raw_height, orientation, width, height, tuple(repairs.split()), found, top, white,
        reused=True,
    )  # fmt: skip


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split())

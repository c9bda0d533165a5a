"""Keep the checks of its photos in a data set, so that making it again decodes only new photos.

A photo is recognised by the SHA-256 of its file, wherever the file is now. Only photos that are in
the data set are kept; the others are checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from stacked_ram.preparation.catalogue import CHECKED_COLUMNS, checked_from_row
from stacked_ram.preparation.checked import Checked, CheckPlan
from stacked_ram.preparation.workdir import place_file, process_name

FILE = "checks.sqlite"  # in the data set

_COLUMNS = ", ".join(CHECKED_COLUMNS)
_TABLES = f"""
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
CREATE TABLE plan (checked_as TEXT);
CREATE TABLE photos (sha256 TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID;
CREATE TABLE checked (suffix TEXT, {_COLUMNS}, PRIMARY KEY (source_sha256, suffix)) WITHOUT ROWID;
"""


def write_checks(
    folder: Path, checked_as: str, paths: Iterable[tuple[str, str]], checks: Iterable[tuple]
) -> None:
    """Write the checks of a data set.

    Args:
        folder: of the data set.
        checked_as: the settings of the checks, as text.
        paths: (SHA-256, path in the data set) of the stored photos.
        checks: (suffix of the source file, *CHECKED_COLUMNS) of each photo.
    """
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.executescript(_TABLES + "BEGIN;")
        database.execute("INSERT INTO plan VALUES (?)", [checked_as])
        database.executemany("INSERT OR IGNORE INTO photos VALUES (?, ?)", paths)
        marks = ",".join("?" * (1 + len(CHECKED_COLUMNS)))
        rows = ((_key(suffix), *row) for suffix, *row in checks)
        database.executemany(f"INSERT OR IGNORE INTO checked VALUES ({marks})", rows)
        database.execute("COMMIT")


def kept_checks(dest: Path, checked_as: str) -> Path | None:
    """Return the file with the checks of a data set, or None if it has none with these settings."""
    try:
        with contextlib.closing(_open(dest / FILE)) as database:
            found = database.execute("SELECT checked_as FROM plan").fetchone()
    except sqlite3.Error:  # missing or damaged: all photos are decoded
        return None
    return dest / FILE if found == (checked_as,) else None


def find_check(digest: str, suffix: str, kept: Path, plan: CheckPlan) -> Checked | None:
    """Return the kept check of a file, after placing its stored photo under `plan.folder`.

    Args:
        digest: SHA-256 of the file; suffix: of its name.
        kept: the file of `kept_checks`.

    Raises:
        OSError: the photo could not be stored.
    """
    query = (
        f"SELECT path, {', '.join(f'c.{name}' for name in CHECKED_COLUMNS)} FROM checked c"
        " JOIN photos USING (sha256) WHERE source_sha256 = ? AND suffix = ?"
    )
    try:
        # Opened for each photo: on some systems an open file keeps its folder from being renamed.
        with contextlib.closing(_open(kept)) as database:
            row = database.execute(query, [digest, _key(suffix)]).fetchone()
    except sqlite3.Error:
        return None
    if row is None:
        return None
    photo, checked = kept.parent / row[0], checked_from_row(row[1:])
    if checked.top and plan.white not in (0, checked.white):  # 16 bits, converted otherwise
        return None
    try:
        with open(photo, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == checked.sha256
    except OSError:
        same = False
    if not same:  # lost or changed since
        return None
    target = plan.folder / checked.file
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f"{target.name}.{process_name()}.tmp")
    try:
        place_file(photo, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # it stays if both names are of the same file
    return checked


def _key(suffix: str) -> bytes:
    return os.fsencode(suffix.lower())  # as bytes: a name need not be text


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)

"""Functions that all adapters share: list folders; read tables, text and .mat files safely."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stacked_ram.preparation.records import Record
from stacked_ram.runtime.errors import UserError

_LITTER = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}


@dataclass
class Source:
    """The content of a source folder, as an adapter read it.

    Attributes:
        layout: the adapter's name.
        records: the photos, in the order of their paths; can be read only once.
        split_name: the name of the official split, "" if the source has none.
        notes: messages for the user; some are added while `records` is read.
    """

    layout: str
    records: Iterable[Record]
    split_name: str = ""
    notes: list[str] = field(default_factory=list)


def is_litter(name: str) -> bool:
    """Return whether a name is a hidden file or one that operating systems create."""
    return name.startswith(".") or name.lower() in _LITTER


def entries(folder: Path, hidden: list[Path] | None = None) -> tuple[list[Path], list[Path]]:
    """List the (folders, files) in a folder, each sorted by name, without litter.

    Links are followed, except links to the folder itself or to one above it. Anything that is
    neither a file nor a folder is listed with the files, so that the checks report it.

    Args:
        hidden: is extended by the folders whose names begin with a dot, which are litter.

    Raises:
        UserError: the folder cannot be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if is_litter(entry.name) or (entry.is_symlink() and _leads_up(Path(entry.path))):
                    if hidden is not None and entry.name.startswith(".") and _is_folder(entry):
                        hidden.append(Path(entry.path))
                    continue
                (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}): check its permissions"
        ) from error
    return [folder / name for name in sorted(folders)], [folder / name for name in sorted(files)]


def _leads_up(link: Path) -> bool:
    here = link.parent.resolve()
    return os.path.realpath(link) in map(str, (here, *here.parents))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def walk(
    folder: Path,
    hidden: list[Path] | None = None,
    _above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[Path]:
    """Iterate over the files in a folder and below, sorted; links that lead back up are skipped.

    Args:
        hidden: is extended by the folders whose names begin with a dot, which are litter.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in _above:
        return
    folders, files = entries(folder, hidden)
    yield from files
    for inner in folders:
        yield from walk(inner, hidden, _above | {here})


def split_of(name: str) -> str | None:
    """Return train, valid or test for a common name of a split; None for other names."""
    return {
        "train": "train", "training": "train", "trn": "train", "trainset": "train",
        "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
        "test": "test", "testing": "test", "tst": "test",
    }.get(name.strip().lower())  # fmt: skip


def read_lines(path: Path) -> list[str]:
    """Return the lines of a small text file that are not empty."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """Read a text file as UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def read_mat(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Read variables of a MATLAB file (version 4 to 7). Nothing in the file is executed.

    Raises:
        UserError: the file cannot be read, or a variable is missing.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=names)
    except NotImplementedError as error:
        raise UserError(f"{path}: MATLAB 7.3 format: save it with `save -v7`") from error
    except Exception as error:  # the reader raises every kind of error on a broken file
        raise UserError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    for name in names:
        if name not in found:
            raise UserError(f"{path}: has no variable {name!r}: is this the official file?")
    return {name: found[name] for name in names}


def whole_numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Convert a variable of a MATLAB file to a flat array of whole numbers."""
    flat = values.ravel()
    if flat.dtype.kind not in "uif" or (flat.astype(np.int64) != flat).any():
        raise UserError(f"{path}: {name} must hold whole numbers")
    return flat.astype(np.int64)


def read_header(path: Path) -> list[str]:
    """Return the names of the columns of a CSV, or the keys of the first JSON line, as written.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix.lower() == ".jsonl":
        return list(next((row for _, row in _read_json_lines(path)), ()))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = file.readline(1_000_000)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except csv.Error as error:
        raise UserError(f"{path}: line 1: {error}") from error


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def read_table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Iterate over (line number, row) of a CSV that has a header; comma, semicolon or tab.

    The names of the columns are in lower case. JSON lines (.jsonl) are read alike.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix.lower() == ".jsonl":
        for number, found in _read_json_lines(path):
            yield number, {name.strip().lower(): _text(value) for name, value in found.items()}
        return
    text = read_text(path)
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=_delimiter(header))
    names = [name.strip().lower() for name in reader.fieldnames or []]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise UserError(f"{path}: two columns are called `{twice}`: remove one")
    reader.fieldnames = names
    try:
        for row in reader:
            yield (
                reader.line_num,
                {
                    k: (v or "").strip()
                    for k, v in row.items()
                    if isinstance(k, str) and not isinstance(v, list)
                },
            )
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}") from error


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{path}: line {number}: not an object, as {{...}}")
                    yield number, row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{path}: line {number}: not JSON ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _text(value: object) -> str:
    """Return a value of JSON as the text of a CSV's cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def inside(root: Path, name: str, where: str) -> Path:
    """Return the path of the file `name` below `root`.

    Args:
        where: the file and line that give the name, for the message.

    Raises:
        UserError: the name leads out of `root`.
    """
    parts = Path(name.replace("\\", "/")).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise UserError(
            f"{where}: {name!r} is not below {root}: give a path relative to it, without .."
        )
    return root.joinpath(*parts)

"""Open a source: a folder, or an archive that is safely unpacked into the working folder."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from stacked_ram.preparation.fingerprint import fingerprint_of_files
from stacked_ram.preparation.shards import find_shards, list_samples, unpack_parquet
from stacked_ram.preparation.sources.common import entries
from stacked_ram.preparation.workdir import remove_tree
from stacked_ram.runtime.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_ENTRIES = 5_000_000
# Photos hardly shrink in an archive: one that grows more than this may be made to fill the disk.
MAX_GROWTH = 100
SMALL_BYTES = 2**30  # an archive may grow to this whatever its own size

_COPY = 2**20


def is_archive(path: Path) -> bool:
    """Return whether a file has the suffix of an archive."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def files_to_unpack(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the archives of a source and the lists beside them; none if it is a folder of photos.

    A folder with only archives and lists, such as a download, is unpacked too, and so are shards.

    Raises:
        UserError: `path` does not exist or is not an archive.
    """
    if not path.exists():
        raise UserError(f"SOURCE {path}: no such file or folder")
    shards, lists = find_shards(path)
    if shards:
        return shards, lists
    if not path.is_dir():
        if not is_archive(path):
            known = " ".join((*SUFFIXES, ".parquet"))
            raise UserError(f"SOURCE {path}: neither a folder nor one of {known}")
        return [path], []
    folders, files = entries(path)
    archives = [file for file in files if is_archive(file)]
    if folders or not archives:
        return [], []
    return archives, [file for file in files if not is_archive(file)]


def open_source(path: Path, working: Path, scratch: Path | None = None) -> Path:
    """Return a folder with the photos of a source: `path` itself, or its unpacked content.

    If an earlier run unpacked the same archives to `working`, its files are used again. Otherwise
    the archives are unpacked there, or to `scratch` if given.

    Raises:
        UserError: as `files_to_unpack`, or an archive is not safe to unpack.
    """
    archives, others = files_to_unpack(path)
    if not archives:
        return path
    target = working / "source"
    done = working / "source.done"
    state = fingerprint_of_files(path.resolve(), [*archives, *others])
    if target.exists() and done.exists() and done.read_text(encoding="utf-8") == state:
        return target
    if scratch is not None:
        target, done = scratch / "source", scratch / "source.done"
    done.unlink(missing_ok=True)
    remove_tree(target)
    target.mkdir(parents=True)
    shards = find_shards(path)[0]
    for archive in archives:
        if archive in shards:
            within = archive.relative_to(path) if path.is_dir() else Path(archive.name)
            _unpack_shard(archive, target / _shard_folder(within), others)
        else:
            unpack(archive, target)
    for file in others:
        shutil.copyfile(file, target / file.name)
    done.write_text(state, encoding="utf-8")
    return target


def _shard_folder(within: Path) -> str:
    """Return the name of a shard's folder: data/train-00000.parquet -> data-train-00000."""
    name = re.sub(r"\.(parquet|tar|tar\.gz|tgz)$", "", within.name, flags=re.IGNORECASE)
    return "-".join((*within.parent.parts, name))


def _unpack_shard(shard: Path, target: Path, lists: list[Path]) -> None:
    target.mkdir()
    if shard.suffix.lower() == ".parquet":
        unpack_parquet(shard, target, _most_bytes(shard))
    else:
        unpack(shard, target)
        list_samples(shard, target, lists[0] if lists else None)


def _most_bytes(archive: Path) -> int:
    return max(SMALL_BYTES, MAX_GROWTH * archive.stat().st_size)


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive of regular files to `target`.

    Raises:
        UserError: an entry is a link or a device, or would be written outside `target`; there are
            too many entries, or they are too large; the archive is damaged or has a password.
    """
    name = archive.name.lower()
    try:
        files = _zip_files(archive) if name.endswith(".zip") else _tar_files(archive)
        most = _most_bytes(archive)
        written = 0
        for count, (entry, content) in enumerate(files, start=1):
            if entry is None:
                path = Path(os.devnull)
            elif count > MAX_ENTRIES:
                raise UserError(f"{archive}: more than {MAX_ENTRIES} entries: unpack it by hand")
            else:
                path = target.joinpath(*_safe_parts(archive, entry))
                path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                while piece := content.read(_COPY):
                    written += len(piece)
                    if written > most:
                        raise UserError(
                            f"{archive}: grows to more than {MAX_GROWTH} times its size (at "
                            f"{entry or 'its end'!r}): if you trust it, unpack it by hand"
                        )
                    file.write(piece)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise _broken(archive, error) from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise UserError(
            f"{archive}: two entries have conflicting names ({error}): unpack it by hand"
        ) from error
    except OSError as error:
        if error.errno is None:  # from gzip and bz2, on a wrong checksum
            raise _broken(archive, error) from error
        raise


def _broken(archive: Path, error: Exception) -> UserError:
    return UserError(f"{archive}: broken archive ({error}): download it again")


def _zip_files(archive: Path) -> Iterator[tuple[str | None, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir():
                _safe_parts(archive, entry.filename)
                continue
            if kind not in (0, stat.S_IFREG):
                raise UserError(f"{archive}: {entry.filename!r} is a link or a device: refused")
            if entry.flag_bits & 1:
                raise UserError(
                    f"{archive}: {entry.filename!r} needs a password: unpack it by hand"
                )
            with opened.open(entry) as content:
                yield entry.filename, content


class _Entry(tarfile.TarInfo):
    """An entry of a tar file, whose headers must all be sound, to the mark at the end.

    tarfile takes a damaged header, and the end of a cut file, for the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, opened: tarfile.TarFile) -> _Entry:
        try:
            return super().fromtarfile(opened)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(str(error)) from error


def _tar_files(archive: Path) -> Iterator[tuple[str | None, IO[bytes]]]:
    """Iterate over the (name, content) of every file; the last, without a name, is what follows.

    The checksum of a compressed stream is at its end, and checked only if all of it is read.
    """
    with tarfile.open(archive, "r:*", tarinfo=_Entry) as opened:
        for entry in opened:
            # otherwise tarfile keeps every entry in memory
            opened.members = []  # type: ignore[attr-defined]  # missing in the type stubs
            if entry.isdir():
                _safe_parts(archive, entry.name)
                continue
            if not entry.isreg():
                raise UserError(f"{archive}: {entry.name!r} is a link or a device: refused")
            content = opened.extractfile(entry)
            assert content is not None  # None is for entries that are no files
            with content:
                yield entry.name, content
        yield None, cast(IO[bytes], opened.fileobj)


def _safe_parts(archive: Path, name: str) -> list[str]:
    """Return the parts of an entry's name, after checking that it stays in the target folder."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    drive = bool(parts) and len(parts[0]) == 2 and parts[0].endswith(":")
    if PurePosixPath(plain).is_absolute() or drive or ".." in parts or "\0" in name:
        raise UserError(f"{archive}: entry {name!r} would leave the folder: refused")
    return parts

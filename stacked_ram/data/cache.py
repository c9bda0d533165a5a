"""Decoded photos, kept between epochs: raw uint8 in one memory-mapped file.

Beside the data set (`DEST/.cache/`) or, with `cache: memory`, in memory that has no name. Every
photo has its own place in the file, known from the manifest before anything is decoded, so all
processes, splits, folds and runs of one data set fill and read the same file at the same time
without a lock: whoever decodes a photo writes its pixels, then its mark.

A mark says which state of the photo's file the pixels are of (its time and length), and how far
they can be trusted: those written since the machine was started are in the system's page cache,
whole; those of earlier days count only if they were flushed to the disk first (`flush`). So a
process or a machine may stop at any moment and leaves nothing wrong behind. A photo whose file
has changed is decoded again; a new manifest gets a new file, and the old one is removed.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import threading
import zlib
from pathlib import Path

import numpy as np

from stacked_ram.data.dataset import Dataset
from stacked_ram.runtime.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 1  # of the files; part of their names
FLUSHED = 1  # trust of a mark whose pixels are on the disk


class PhotoCache:
    """The cache of one data set at one size. Safe to fork, and to pickle where it has a name.

    sizes_M2: (height, width) of every photo of the manifest, as it is to be kept.
    folder, name: of the files; None for memory without a name.
    """

    def __init__(self, sizes_M2: np.ndarray, channels: int, folder: Path | None, name: str):
        self.sizes_M2, self.channels = sizes_M2, channels
        self.folder, self.name = folder, name
        ends_M = np.cumsum(sizes_M2.prod(axis=1) * channels)
        self.starts_M = ends_M - sizes_M2.prod(axis=1) * channels
        self.bytes = int(ends_M[-1])
        self.trust = _since_start()
        self.full = False
        self._open()

    def get(self, row: int, path: str | Path) -> np.ndarray | None:
        """pixels_CHW of the photo in this row of the manifest, not to be written to; None where
        they are not here, or `path` has changed since."""
        mark = int(self.marks_M[row])
        if mark >> 32 not in (FLUSHED, self.trust) or mark & 0xFFFFFFFF != _state(path):
            return None
        height, width = self.sizes_M2[row]
        start = self.starts_M[row]
        end = start + self.channels * height * width
        return self.pixels_X[start:end].reshape(self.channels, height, width)

    def put(self, row: int, path: str | Path, pixels_CHW: np.ndarray) -> None:
        """Keep a photo. Where there is no more room nothing is kept from then on."""
        if self.full:
            return
        mark = np.array([self.trust << 32 | _state(path)], np.uint64)
        try:
            _write(self.pixels_file, memoryview(np.ascontiguousarray(pixels_CHW)).cast("B"),
                   int(self.starts_M[row]))  # fmt: skip
            _write(self.marks_file, memoryview(mark).cast("B"), 8 * row)
        except OSError as error:
            self.full = True
            log.warning("cache %s: %s; the rest is not kept", self.name, error.strerror)

    def flush(self) -> None:
        """Bring what was written to the disk, in the background, and then trust it for good."""
        if self.folder is not None and (self.marks_M >> np.uint64(32) == self.trust).any():
            threading.Thread(target=self._flush, name="cache flush").start()

    def _flush(self) -> None:
        marks_M = self.marks_M.copy()  # what is marked by now is flushed by then
        rows = np.flatnonzero(marks_M >> np.uint64(32) == self.trust)
        try:
            os.fsync(self.pixels_file)
            for row in rows:
                if self.marks_M[row] == marks_M[row]:
                    mark = np.array([FLUSHED << 32 | int(marks_M[row]) & 0xFFFFFFFF], np.uint64)
                    _write(self.marks_file, memoryview(mark).cast("B"), 8 * int(row))
        except OSError as error:  # what is not marked is decoded again
            log.warning("cache %s: could not be flushed (%s)", self.name, error.strerror)

    def _open(self) -> None:
        self.pixels_file, self.marks_file = (
            _memory_file(f"{self.name}.{kind}")
            if self.folder is None
            else os.open(self.folder / f"{self.name}.{kind}", os.O_RDWR | os.O_CREAT, 0o666)
            for kind in ("pixels", "marks")
        )
        self.pixels_X = _mapped(self.pixels_file, self.bytes)
        self.marks_M = _mapped(self.marks_file, 8 * len(self.sizes_M2)).view(np.uint64)

    def __getstate__(self) -> dict[str, object]:
        left_out = {"pixels_file", "marks_file", "pixels_X", "marks_M"}
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()


def open_cache(
    dataset: Dataset,
    sizes_M2: np.ndarray,
    kind: str,
    limit: float,
    cache_key: str,
    *,
    channels: int | None = None,
    fallback_note: str = "photos are decoded every epoch",
) -> PhotoCache | None:
    """The cache of a data set whose photos are kept at these sizes.

    kind: disk, memory or none. limit: in GB. size_words: how the sizes were come by, or what else
    is kept of each photo. channels: the data set's, unless said otherwise. plainly: what is done
    without a cache.
    None, with a warning that says why, where it is too large or cannot be written.
    """
    if kind == "none":
        return None
    channels = channels or dataset.channels
    name = f"v{FORMAT}-{cache_key}-{channels}"
    total = int(sizes_M2.prod(axis=1).sum()) * channels
    here = f"cache of {dataset.folder}"
    if total > limit * 1e9:
        log.warning(
            "%s: %.1f GB would be more than cache_limit: %g; %s",
            here,
            total / 1e9,
            limit,
            fallback_note,
        )
        return None
    if not hasattr(os, "pwrite"):
        log.warning("%s: this system cannot share it; %s", here, fallback_note)
        return None
    if kind == "memory":
        if not hasattr(os, "memfd_create"):
            raise UserError("cache: memory is for Linux; use cache: disk")
        return PhotoCache(sizes_M2, channels, None, name)
    folder = dataset.folder / ".cache"
    whole = f"{name}-{dataset.manifest.sha256[:16]}"
    try:
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{name}-*"):
            if not old.name.startswith(whole):
                old.unlink(missing_ok=True)
        kept = folder / f"{whole}.pixels"
        held = kept.stat().st_blocks * 512 if kept.exists() else 0
        free = shutil.disk_usage(folder).free
        if total - held > free:
            log.warning(
                "%s: %.1f GB do not fit on the disk (%.1f GB free); %s",
                here, total / 1e9, free / 1e9, fallback_note,
            )  # fmt: skip
            return None
        return PhotoCache(sizes_M2, channels, folder, whole)
    except OSError as error:
        log.warning("%s: cannot be written (%s); %s", here, error.strerror, fallback_note)
        return None


def make_room(dataset: Dataset, kind: str, kept: str, limit: float) -> None:
    """Remove files of one kind (how size_words begin), but for those of `kept`, the longest
    unwritten first, until the rest is within `limit` GB."""
    files = [
        (file.stat().st_mtime, file.stat().st_blocks * 512, file)
        for file in (dataset.folder / ".cache").glob(f"v{FORMAT}-{kind}*")
        if not file.name.startswith(f"v{FORMAT}-{kept}")
    ]
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit * 1e9:
            break
        file.unlink(missing_ok=True)
        total -= size


def _state(path: str | Path) -> int:
    """32 bits that change when the file does; 0 where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return zlib.crc32(f"{status.st_mtime_ns} {status.st_size}".encode())


def _since_start() -> int:
    """32 bits for this start of the machine, or of this process where the system does not say."""
    try:
        words = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        words = os.urandom(16)
    return max(2, zlib.crc32(words))


def _memory_file(name: str) -> int:
    return os.memfd_create(name)


def _mapped(file: int, size: int) -> np.ndarray:
    """The file, made this long, as bytes."""
    if os.fstat(file).st_size != size:
        os.ftruncate(file, size)
    return np.frombuffer(mmap.mmap(file, size), np.uint8)


def _write(file: int, content: memoryview, place: int) -> None:
    while content:
        done = os.pwrite(file, content, place)
        content, place = content[done:], place + done

"""Cache decoded photos between epochs, as raw uint8 in one memory-mapped file.

The file is in the data set (`DEST/.cache/`) or, with `cache: memory`, in anonymous memory. The
position of every photo in the file follows from the manifest, so all processes, splits, folds and
runs of a data set fill and read the same file without a lock.

A second, small file marks the photos that are done: a mark is written only after the pixels were
flushed to disk (`flush`), so that a process or a machine may stop at any moment without leaving
wrong pixels. Before that, only the run that decoded a photo and its workers use it. The mark is a
hash of the time and length of the photo's file: a photo that has changed is decoded again. A new
manifest gets a new file, and the old one is removed.
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
import torch

from stacked_ram.data.dataset import PhotoDataset
from stacked_ram.runtime.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 2  # of the files; part of their names


class PhotoCache:
    """The cache of one data set at one size. Safe to fork, and to hand to DataLoader workers.

    sizes_M2: (height, width) at which every photo of the manifest is cached.
    folder, name: of the files; a folder of None means anonymous memory.
    """

    def __init__(self, sizes_M2: np.ndarray, channels: int, folder: Path | None, name: str):
        self.sizes_M2, self.channels = sizes_M2, channels
        self.folder, self.name = folder, name
        ends_M = np.cumsum(sizes_M2.prod(axis=1) * channels)
        self.starts_M = ends_M - sizes_M2.prod(axis=1) * channels
        self.bytes = int(ends_M[-1])
        self.full = False
        # Photos written by this run: a tensor, which PyTorch shares with workers of any kind.
        self.written_M = torch.zeros(len(sizes_M2), dtype=torch.int64).share_memory_()
        self._open()

    def get(self, row: int, path: str | Path) -> np.ndarray | None:
        """Return pixels_CHW (read-only) of the photo in this row of the manifest; None if it is not
        cached, or `path` has changed."""
        if _state(path) not in (int(self.written_M[row]), int(self.done_M[row])):
            return None
        height, width = self.sizes_M2[row]
        start = self.starts_M[row]
        end = start + self.channels * height * width
        return self.pixels_X[start:end].reshape(self.channels, height, width)

    def put(self, row: int, path: str | Path, pixels_CHW: np.ndarray) -> None:
        """Store a photo. If the disk is full, no photo is stored from then on."""
        if self.full:
            return
        state = _state(path)
        if self.done_M[row] not in (0, state):
            self.done_M[row] = 0  # the pixels of the old photo are about to be overwritten
        try:
            content = np.ascontiguousarray(pixels_CHW).data.cast("B")
            _write(self.pixels_file, content, int(self.starts_M[row]))
            self.written_M[row] = state
        except OSError as error:
            self.full = True
            log.warning("cache %s: %s; the rest is not kept", self.name, error.strerror)

    def flush(self) -> None:
        """Flush new photos to disk in the background, then mark them as done."""
        if self.folder is not None and len(self._unmarked()):
            threading.Thread(target=self._flush, name="cache flush").start()

    def _unmarked(self) -> np.ndarray:
        written_M = self.written_M.numpy()
        return np.flatnonzero((written_M != 0) & (written_M != self.done_M))

    def _flush(self) -> None:
        rows = self._unmarked()
        states = self.written_M.numpy()[rows]
        try:
            os.fsync(self.pixels_file)
        except OSError as error:  # what is not marked is decoded again
            log.warning("cache %s: could not be flushed (%s)", self.name, error.strerror)
            return
        same = self.written_M.numpy()[rows] == states
        self.done_M[rows[same]] = states[same]

    def _open(self) -> None:
        if self.folder is None:
            self.pixels_file = os.memfd_create(self.name)
            self.done_M = np.zeros(len(self.sizes_M2), np.int64)
        else:
            self.pixels_file, done_file = (
                os.open(self.folder / f"{self.name}.{kind}", os.O_RDWR | os.O_CREAT, 0o666)
                for kind in ("pixels", "done")
            )
            size = 8 * len(self.sizes_M2)
            with open(done_file, "r+b") as file:
                if os.fstat(done_file).st_size != size:
                    file.write(bytes(size))  # not sparse: setting a mark needs no more room
                    file.flush()
                self.done_M = np.frombuffer(mmap.mmap(done_file, size), np.int64)
        self.pixels_X = _mapped(self.pixels_file, self.bytes)

    def __getstate__(self) -> dict[str, object]:
        left_out = {"pixels_file", "pixels_X", "done_M"}
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()


def open_cache(
    dataset: PhotoDataset,
    sizes_M2: np.ndarray,
    kind: str,
    limit: float,
    cache_key: str,
    *,
    channels: int | None = None,
    fallback_note: str = "photos are decoded every epoch",
) -> PhotoCache | None:
    """Open the cache of a data set whose photos are cached at these sizes.

    kind: disk, memory or none.
    limit: largest size in GB.
    cache_key: identifies how the sizes were computed, or other cached content.
    channels: default: those of the data set.
    fallback_note: what happens without a cache, for the warning.

    Returns None, with a warning, if the cache is too large or cannot be written.
    """
    if kind == "none":
        return None
    channels = channels or dataset.channels
    name = f"v{FORMAT}-{cache_key}-{channels}"
    total = int(sizes_M2.prod(axis=1).sum()) * channels
    about = f"cache of {dataset.folder}"
    if total > limit * 1e9:
        log.warning(
            "%s: %.1f GB would be more than cache_limit: %g; %s",
            about, total / 1e9, limit, fallback_note,
        )  # fmt: skip
        return None
    if not hasattr(os, "pwrite"):
        log.warning("%s: this system cannot share it; %s", about, fallback_note)
        return None
    if kind == "memory":
        if not hasattr(os, "memfd_create"):
            raise UserError("cache: memory is for Linux; use cache: disk")
        return PhotoCache(sizes_M2, channels, None, name)
    folder = dataset.folder / ".cache"
    whole = f"{name}-{dataset.manifest.sha256[:16]}"
    try:
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"v*-{cache_key}-{channels}-*"):
            if not old.name.startswith(whole):
                old.unlink(missing_ok=True)
        kept = folder / f"{whole}.pixels"
        held = kept.stat().st_blocks * 512 if kept.exists() else 0
        free = shutil.disk_usage(folder).free
        if total - held > free:
            log.warning(
                "%s: %.1f GB do not fit on the disk (%.1f GB free); %s",
                about, total / 1e9, free / 1e9, fallback_note,
            )  # fmt: skip
            return None
        return PhotoCache(sizes_M2, channels, folder, whole)
    except OSError as error:
        log.warning("%s: cannot be written (%s); %s", about, error.strerror, fallback_note)
        return None


def make_room(dataset: PhotoDataset, kind: str, kept: str, limit: float) -> None:
    """Remove cache files of a kind (the start of their cache_key) until they fit in `limit` GB.

    The file that was written longest ago goes first; files of `kept` stay.
    """
    files = [
        (file.stat().st_mtime, file.stat().st_blocks * 512, file)
        for file in (dataset.folder / ".cache").glob(f"v*-{kind}*")
        if not file.name.startswith(f"v{FORMAT}-{kept}")
    ]
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit * 1e9:
            break
        file.unlink(missing_ok=True)
        total -= size


def _state(path: str | Path) -> int:
    """Return a number above 0 that changes when the file does; -1 if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    return 1 + zlib.crc32(f"{status.st_mtime_ns} {status.st_size}".encode())


def _mapped(file: int, size: int) -> np.ndarray:
    """Map a file of this size as bytes; extend or truncate it first if needed."""
    if os.fstat(file).st_size != size:
        os.ftruncate(file, size)
    return np.frombuffer(mmap.mmap(file, size), np.uint8)


def _write(file: int, content: memoryview, place: int) -> None:
    while content:
        done = os.pwrite(file, content, place)
        content, place = content[done:], place + done

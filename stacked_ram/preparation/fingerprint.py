"""Recognise a source that a data set was made from, without reading all of it."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable
from pathlib import Path

_MARK = "2:"  # fingerprints of earlier releases have none
_FILES = 64  # read in part, of a source with more
_PIECE = 4096  # bytes


class SourceFingerprint:
    """The path of a source, what is listed of its files, and pieces of 64 of them.

    The files to read are chosen by the hashes of their names, so the choice is always the same.
    """

    def __init__(self, place: Path | str) -> None:
        """Begin with the path of the source, or another text that identifies it."""
        self._all = hashlib.sha256(os.fsencode(place) + b"\0")
        self._listed = hashlib.sha256()
        self._chosen: list[tuple[int, bytes, Path]] = []  # a heap, the largest hash first

    def add(self, name: bytes, path: Path, listed: object, more: object = None) -> None:
        """Add a file.

        Args:
            name: in the source.
            path: where it can be read.
            listed: values to cover, the same as in earlier releases; more: further values.
        """
        content = repr(listed).encode("utf-8", "backslashreplace")
        self._listed.update(content)
        self._all.update(content)
        if more:
            self._all.update(repr(more).encode("utf-8", "backslashreplace"))
        hashed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        entry = (-hashed, name, path)
        if len(self._chosen) < _FILES:
            if entry not in self._chosen:
                heapq.heappush(self._chosen, entry)
        elif entry > self._chosen[0] and entry not in self._chosen:
            heapq.heapreplace(self._chosen, entry)

    def older(self) -> str:
        """Return the fingerprint that earlier releases recorded: only what is listed."""
        return self._listed.hexdigest()

    def text(self) -> str:
        """Return the fingerprint to record. Reads the chosen files."""
        found = self._all.copy()
        for _, name, path in sorted(self._chosen):
            found.update(repr((name, _sample(path))).encode())
        return _MARK + found.hexdigest()


def fingerprint_of_files(place: Path | str, files: Iterable[Path]) -> str:
    """Return a fingerprint of a few files, such as archives, by size, time and 256 pieces each."""
    found = hashlib.sha256(os.fsencode(place) + b"\0")
    for file in files:
        status = file.stat()
        listed = (os.fsencode(file.name), status.st_size, status.st_mtime_ns)
        found.update(repr((listed, _sample(file, 256))).encode())
    return _MARK + found.hexdigest()


def _sample(path: Path, pieces: int = 3) -> str:
    """Return a hash of pieces of a file, the first and the last among them; "" if unreadable."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            last = max(os.fstat(file.fileno()).st_size - _PIECE, 0)
            for number in range(pieces):
                file.seek(last * number // (pieces - 1))
                found.update(file.read(_PIECE))
    except OSError:
        return ""
    return found.hexdigest()

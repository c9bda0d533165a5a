"""Give up on photos that take for ever to decode.

A decoder in C cannot be interrupted, so a worker process that spends too much processor time on one
photo ends, leaves a note, and is replaced. This process goes on with the other photos.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stacked_ram.preparation.workdir import process_name

_SLOW = 5  # seconds after which a photo is named in the progress bar
_NOW, _LATE = ".now", ".late"  # files of a worker: the photo in its hands; a note that it was late

_now: int | None = None  # the open file of this worker process; None: there is no limit here


def limit_in(folder: Path) -> None:
    """Limit the time of photos in this process, which is a worker; write its notes to `folder`."""
    global _now
    if not hasattr(signal, "setitimer"):  # Windows
        return
    stem = str(folder / process_name())
    if _now is not None:  # a worker that has worked for another run
        os.close(_now)
    _now = os.open(stem + _NOW, os.O_CREAT | os.O_RDWR, 0o600)
    late = open(stem + _LATE, "wb")  # noqa: SIM115  it stays open as long as the process
    # The handler is in C, so it also runs while a decoder holds the interpreter. After its note,
    # the signal does what it does by default: it ends the process.
    if signal.getsignal(signal.SIGPROF) != signal.SIG_DFL:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, late, all_threads=False, chain=True)


@contextmanager
def limited(photo: Path, seconds: float) -> Iterator[None]:
    """Inside the `with`, a worker process ends if the photo takes more processor time."""
    if _now is None:
        yield
        return
    os.pwrite(_now, os.fsencode(photo), 0)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.ftruncate(_now, 0)


def limit_for(max_megapixels: float) -> float:
    """Return the seconds of processor time for one photo, under --max-megapixels.

    The slowest format, JPEG 2000, takes about 0.5 seconds a megapixel.
    """
    return max(120.0, 0.6 * max_megapixels)


def slow_photos(folder: Path) -> Iterator[tuple[str, int]]:
    """Iterate over (name, seconds) of the photos that workers have had in hand for a while."""
    for note in folder.glob("*" + _NOW):
        photo, seconds = note.read_bytes(), time.time() - note.stat().st_mtime
        if photo and seconds >= _SLOW:
            yield Path(os.fsdecode(photo)).name, round(seconds)


def has_late(folder: Path) -> bool:
    """Return whether a worker has ended because of a photo that took too long."""
    return any(note.stat().st_size for note in folder.glob("*" + _LATE))


def late_photos(folder: Path) -> set[Path]:
    """Return the photos on which workers of before ended, and remove all notes."""
    late = set()
    for note in folder.glob("*" + _LATE):
        if note.stat().st_size:
            late.add(Path(os.fsdecode(note.with_suffix(_NOW).read_bytes())))
    for note in folder.iterdir():
        note.unlink()
    return late

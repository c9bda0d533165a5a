"""Checking photos in worker processes: a bounded number in flight, a clear end to every trouble."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from stacked_ram.preparing.checks import Checked, CheckPlan, check_photo
from stacked_ram.preparing.working import PreparationFailed

CHUNK = 8  # photos a message: fewer waits, and little lost when a run is killed
CHUNKS_IN_FLIGHT = 4  # for each worker

Task = tuple[int, Path]


def check_all(
    tasks: Iterable[Task], plan: CheckPlan, workers: int
) -> Iterator[list[tuple[int, Checked]]]:
    """Check every photo; yields lists of (number, what became of it), in the order of `tasks`.

    `tasks` is read as it is needed, so it may be endless. One worker means no extra process.

    Raises:
        PreparationFailed: a worker died.
        OSError: a photo could not be stored.
    """
    for part in range(256):
        (plan.folder / f"{part:02x}").mkdir(parents=True, exist_ok=True)
    tasks = iter(tasks)
    chunks = iter(lambda: list(itertools.islice(tasks, CHUNK)), [])
    if workers == 1:
        yield from (_check_chunk(chunk, plan) for chunk in chunks)
        return
    # New processes rather than forked ones: nothing of this process (its database, its threads)
    # is in them, on every system.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    )
    waiting: deque[tuple[list[Task], Future]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_check_chunk, chunk, plan)))
            if len(waiting) >= workers * CHUNKS_IN_FLIGHT:
                yield waiting.popleft()[1].result()
        while waiting:
            yield waiting.popleft()[1].result()
    except BrokenProcessPool as error:
        photos = [path.name for chunk, future in waiting for _, path in chunk if not future.done()]
        raise PreparationFailed(
            "a worker process died (killed, or out of memory?)"
            + (f" while photos such as {photos[0]!r} were decoded" if photos else "")
            + "; DEST is untouched: run the same command again to carry on, perhaps with fewer "
            "--workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_chunk(chunk: list[Task], plan: CheckPlan) -> list[tuple[int, Checked]]:
    return [(number, check_photo(path, plan)) for number, path in chunk]


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

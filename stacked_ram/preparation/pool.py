"""Run work in other processes, with a bounded number of tasks at a time and clear errors."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from PIL import Image

from stacked_ram.preparation.checked import MACHINE, Checked, CheckPlan
from stacked_ram.preparation.checks import check_photo
from stacked_ram.runtime.errors import RunFailed

CHUNK = 8  # photos a message: fewer waits, and little lost when a run is killed
IN_FLIGHT = 4  # tasks for each worker
MOST_FAULTS = 100  # of the machine, before the run stops

Photo = tuple[int, Path]
Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """The worker processes of a run. With one worker, the work runs in this process.

    Use it as a context manager, which ends the processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self) -> ProcessPoolExecutor | None:
        """Start the processes now, so that they import modules while this process is busy.

        Returns:
            The processes; None with one worker.
        """
        if self.count == 1 or self._pool is not None:
            return self._pool
        # Spawned, not forked, so that they share neither the database nor the threads of this
        # process, on every system.
        self._pool = ProcessPoolExecutor(
            self.count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )
        # The first task starts all of them. Each would first run the caller's script again, which
        # it does not need, and which may lack an `if __name__ == "__main__"`.
        caller = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._pool.submit(int)
        finally:
            sys.modules["__main__"] = caller
        return self._pool

    def dismiss(self) -> None:
        """End the processes without waiting for them."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def in_order(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], name: Callable[[Task], str]
    ) -> Iterator[Result]:
        """Iterate over the results of `work`, in the order of `tasks`, which are read when needed.

        Args:
            work: a function that worker processes can import.
            name: gives the name of a task's photo, for the message if a worker dies.

        Raises:
            RunFailed: a worker died.
        """
        pool = self.start()
        if pool is None:
            yield from map(work, tasks)
            return
        waiting: deque[tuple[Task, Future]] = deque()
        try:
            for task in tasks:
                waiting.append((task, pool.submit(work, task)))
                if len(waiting) >= self.count * IN_FLIGHT:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        except BrokenProcessPool as error:
            undone = [name(task) for task, future in waiting if not future.done()]
            raise RunFailed(
                "a worker process died (killed, or out of memory?)"
                + (f" while photos such as {undone[0]!r} were decoded" if undone else "")
                + "; DEST is unchanged: run the same command again to continue, perhaps with "
                "fewer --workers"
            ) from error


def check_all(
    photos: Iterable[Photo], plan: CheckPlan, workers: Workers
) -> Iterator[list[tuple[int, Checked]]]:
    """Check every photo; yield lists of (number, result) in the order of `photos`.

    Photos that the machine could not check are left out; after the others, they fail the run.

    Raises:
        RunFailed: a worker died, or photos could not be checked.
        OSError: a photo could not be stored.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    photos = iter(photos)
    chunks = iter(lambda: list(itertools.islice(photos, CHUNK)), [])
    check = partial(_check_chunk, plan=plan)
    faults: list[str] = []
    for results in workers.in_order(check, chunks, name=lambda chunk: chunk[0][1].name):
        faults += [checked.detail for _, checked in results if checked.problem == MACHINE]
        yield [result for result in results if result[1].problem != MACHINE]
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        count = f"{len(faults)} photos" if len(faults) > 1 else "1 photo"
        raise RunFailed(
            f"{count} could not be checked ({faults[0]}), which says nothing about the photos: fix "
            "this, then run the same command again: it continues from here"
        )


def _check_chunk(chunk: list[Photo], plan: CheckPlan) -> list[tuple[int, Checked]]:
    return [(number, check_photo(path, plan)) for number, path in chunk]


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, end with it, and open photos of any size.

    check_photo has its own limit of the size.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = None

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Run work in other processes, with a bounded number of tasks at a time and clear errors."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image

from stacked_ram.preparation import time_limit
from stacked_ram.preparation.checked import MACHINE, Checked, CheckPlan
from stacked_ram.preparation.checks import check_photo
from stacked_ram.preparation.jpeg import warnings_pass
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
        self._notes: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if kind is not None:  # do not wait for what they are doing
                for process in list((self._pool._processes or {}).values()):
                    process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._notes is not None:
            self._notes.cleanup()

    @property
    def notes(self) -> Path | None:
        """The folder for the notes of `time_limit`; None without processes."""
        return None if self._notes is None else Path(self._notes.name)

    def start(self) -> ProcessPoolExecutor | None:
        """Start the processes now, so that they import modules while this process is busy.

        Returns:
            The processes; None with one worker.
        """
        if self.count == 1 or self._pool is not None:
            return self._pool
        if self._notes is None:
            self._notes = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # Spawned, not forked, so that they share neither the database nor the threads of this
        # process, on every system.
        self._pool = ProcessPoolExecutor(
            self.count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._notes.name,),
        )
        for _ in range(self.count):  # a task starts a process, unless one is idle
            _submit(self._pool, int)
        return self._pool

    def replace(self) -> None:
        """Start new processes after one has died."""
        self.dismiss()
        self._pool = None
        self.start()

    def dismiss(self) -> None:
        """End the processes without waiting for them."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def in_order(
        self,
        work: Callable[[Task], Result],
        tasks: Iterable[Task],
        name: Callable[[Task], str],
        while_waiting: Callable[[], object] = lambda: None,
    ) -> Iterator[Result]:
        """Iterate over the results of `work`, in the order of `tasks`, which are read when needed.

        Args:
            work: a function that worker processes can import.
            name: gives the name of a task's photo, for the message if a worker dies.
            while_waiting: called every second that a result takes.

        Raises:
            WorkerDied: a worker died.
        """
        pool = self.start()
        if pool is None:
            yield from map(work, tasks)
            return
        waiting: deque[tuple[Task, Future]] = deque()
        most = self.count * IN_FLIGHT
        unsent: list[Task] = []
        try:
            for task in tasks:
                unsent = [task]
                waiting.append((task, _submit(pool, work, task)))
                unsent = []
                if len(waiting) >= most:
                    yield _result(waiting[0][1], while_waiting)
                    waiting.popleft()
            while waiting:
                yield _result(waiting[0][1], while_waiting)
                waiting.popleft()
        except BrokenProcessPool as error:
            undone = [name(task) for task, future in waiting if not _succeeded(future)]
            raise WorkerDied(
                "a worker process died (killed, or out of memory?)"
                + (f" while photos such as {undone[0]!r} were decoded" if undone else "")
                + "; DEST is unchanged: run the same command again to continue, perhaps with "
                "fewer --workers",
                [task for task, _ in waiting] + unsent,
            ) from error


class WorkerDied(RunFailed):
    """Raised when a worker process died; `undone` holds the tasks without a result."""

    def __init__(self, message: str, undone: list[Any]) -> None:
        super().__init__(message)
        self.undone = undone


def _result(future: Future, while_waiting: Callable[[], object]) -> Any:
    while not wait([future], timeout=1).done:
        while_waiting()
    return future.result()


def _succeeded(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def check_all(
    photos: Iterable[Photo],
    plan: CheckPlan,
    workers: Workers,
    show: Callable[[str], object] = lambda text: None,
) -> Iterator[list[tuple[int, Checked]]]:
    """Check every photo; yield lists of (number, result), as far as possible in their order.

    Photos that the machine could not check are left out; after the others, they fail the run.

    Args:
        show: called with a text for the progress bar while a photo takes long.

    Raises:
        RunFailed: a worker died, or photos could not be checked.
        OSError: a photo could not be stored.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Workers on other machines have other current folders.
    kept = plan.kept and plan.kept.absolute()
    plan = replace(plan, folder=plan.folder.absolute(), kept=kept)
    photos = iter(photos)
    chunks = iter(lambda: list(itertools.islice(photos, CHUNK)), [])
    check = partial(_check_chunk, plan=plan)
    faults: list[str] = []
    for results in _in_time(check, chunks, plan, workers, show):
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


def can_check_jpegs(workers: Workers) -> bool:
    """Return whether the data of JPEG photos can be checked for damage.

    A worker answers, since it has loaded the decoder.
    """
    (answer,) = workers.in_order(_warnings_pass, [None], str)
    return answer


def _warnings_pass(_: None) -> bool:
    return warnings_pass()


def _in_time(
    check: Callable[[list[Photo]], list[tuple[int, Checked]]],
    chunks: Iterator[list[Photo]],
    plan: CheckPlan,
    workers: Workers,
    show: Callable[[str], object],
) -> Iterator[list[tuple[int, Checked]]]:
    """Iterate over the results of chunks; photos that take too long are given up."""
    limit = f"{plan.seconds:g} s of processor time"
    given_up = Checked("too_slow", f"not decoded after {limit}")

    def show_slow() -> None:
        slow = time_limit.slow_photos(workers.notes) if workers.notes else ()
        show(", ".join(f"{name}: {seconds} s, given up after {limit}" for name, seconds in slow))

    while True:
        try:
            yield from workers.in_order(check, chunks, lambda chunk: chunk[0][1].name, show_slow)
            return
        except WorkerDied as death:
            late = time_limit.late_photos(workers.notes) if workers.notes else set()
            if not late:
                raise
            undone = [photo for chunk in death.undone for photo in chunk]
        workers.replace()
        yield [(number, given_up) for number, path in undone if path in late]
        rest = [[photo] for photo in undone if photo[1] not in late]
        chunks = itertools.chain(rest, chunks)


def _submit(
    pool: ProcessPoolExecutor, work: Callable[..., Result], *task: object
) -> Future[Result]:
    """Give a task to the processes.

    It may start a process, which would first run the caller's script again. It does not need that,
    and the script may lack an `if __name__ == "__main__"`.
    """
    caller = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        return pool.submit(work, *task)
    finally:
        sys.modules["__main__"] = caller


def _check_chunk(chunk: list[Photo], plan: CheckPlan) -> list[tuple[int, Checked]]:
    return [(number, check_photo(path, plan)) for number, path in chunk]


def _start_worker(notes: str) -> None:
    """Leave Ctrl-C to the parent, end with it, limit the time of photos, but not their size.

    check_photo has its own limit of the size.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Image.MAX_IMAGE_PIXELS = None
    with contextlib.suppress(FileNotFoundError):  # the run ended while this process started
        time_limit.limit_in(Path(notes))
    importlib.import_module("cv2")  # now, while the source is listed
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

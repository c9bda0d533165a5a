"""Check photos on the workers of a Dask scheduler: other machines that see the same files.

The photos of a chunk are one task. Dask runs the tasks of a dead worker again on another, and
`in_order` gives the results in the order of the photos, so that the data set is that of one
process, byte for byte. What follows the checks runs in this process, as it does without Dask.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stacked_ram.images.formats import pixel_limit
from stacked_ram.preparation import time_limit
from stacked_ram.preparation.pool import IN_FLIGHT, Result, Task, WorkerDied, Workers
from stacked_ram.runtime.errors import RunFailed, UserError, brief
from stacked_ram.runtime.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

_DECODERS = ("pillow", "numpy", "opencv-python-headless", "pillow-heif", "pyvips")
_CONNECT = 10  # seconds
_ALONE = 60  # seconds without any worker, after which the run fails
_CONTINUE = "DEST is unchanged: run the same command again to continue"

_joined: _Shared | None = None  # in a worker: what it has been checked against


@dataclass(frozen=True)
class _Shared:
    """What every worker must have in common with the process that prepares.

    Attributes:
        notes: a folder beside the photos to store, of a name that no other run has.
        source: the folder of the raw photos.
        versions: of this package and of those that decode photos.
    """

    notes: Path
    source: Path
    versions: tuple[tuple[str, str], ...]


class DaskWorkers(Workers):
    """The workers of a Dask scheduler, in place of processes of this machine."""

    def __init__(self, address: str, working: Path, source: Path) -> None:
        """Prepare to connect; `start` does it.

        Args:
            address: of the scheduler, such as "tcp://host:8786".
            working: the working folder of the run, which every worker must see.
            source: the folder of the raw photos, which every worker must see.
        """
        super().__init__(count=0)
        self.address = address
        self._working = working.absolute()
        self._source = source.absolute()
        self._client: Client | None = None
        self._shared: _Shared | None = None

    @property
    def notes(self) -> Path | None:
        return None if self._shared is None else self._shared.notes

    def start(self) -> None:
        """Connect, and check that every worker present can do the work.

        Raises:
            UserError: no scheduler answers, it has no workers, or one of them lacks something.
        """
        if self._client is not None:
            return
        try:
            from distributed import Client
        except ImportError as error:
            raise UserError(
                f"--dask: needs the package {error.name}; pip install -r requirements-dask.txt"
            ) from None
        # A lost scheduler is said in a line of our own, not in a traceback of the client's.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self._client = Client(self.address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise UserError(
                f"--dask {self.address}: no Dask scheduler answers there ({brief(error)}); start"
                " one with `dask scheduler`, and give its address"
            ) from None
        self._make_notes()
        present = self._client.nthreads()
        if not present:
            raise UserError(
                f"--dask {self.address}: the scheduler has no workers; start some with `dask worker"
                f" {self.address} --nthreads 1`"
            )
        first = [
            self._client.submit(_run, int, 0, self._shared, workers=[worker], pure=False)
            for worker in present
        ]
        try:
            for future in first:
                future.result()
        except (ImportError, RuntimeError) as error:  # RuntimeError: the scheduler lacks a module
            raise UserError(
                f"--dask {self.address}: the scheduler and its workers need the stacked_ram of this"
                f" machine: install it there ({brief(error)})"
            ) from None

    def replace(self) -> None:
        """Forget the photos that took too long; Dask has started new workers itself."""
        self._remove_notes()
        self._make_notes()

    def dismiss(self) -> None:
        """Leave the scheduler; its workers stay."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.dismiss()
        self._remove_notes()

    def in_order(
        self,
        work: Callable[[Task], Result],
        tasks: Iterable[Task],
        name: Callable[[Task], str],
        while_waiting: Callable[[], object] = lambda: None,
    ) -> Iterator[Result]:
        """Iterate over the results of `work`, as `Workers.in_order`.

        Raises:
            WorkerDied: several workers died of the same task, or one took too long over a photo.
            RunFailed: the scheduler was lost, or has no workers any more.
        """
        from distributed import KilledWorker

        self.start()
        client = self._client
        assert client is not None
        waiting: deque[tuple[Task, Future]] = deque()
        unsent: list[Task] = []
        most, counted = 0, -1.0
        try:
            for task in tasks:
                unsent = [task]
                future = client.submit(_run, work, task, self._shared, pure=False)
                waiting.append((task, future))
                unsent = []
                if time.monotonic() - counted > 5:  # workers may come and go
                    most = IN_FLIGHT * max(1, len(client.nthreads()))
                    counted = time.monotonic()
                while len(waiting) >= most:
                    yield self._result(waiting[0][1], while_waiting)
                    waiting.popleft()
            while waiting:
                yield self._result(waiting[0][1], while_waiting)
                waiting.popleft()
        except (KilledWorker, _TookTooLong) as error:
            client.cancel([future for _, future in waiting])
            raise WorkerDied(
                f"--dask: workers died one after another (killed, or out of memory?) while photos"
                f" such as {name(waiting[0][0])!r} were decoded; {_CONTINUE}, perhaps with more"
                " memory for each worker",
                [task for task, _ in waiting] + unsent,
            ) from error
        except CancelledError as error:
            raise RunFailed(f"--dask: the scheduler was lost; {_CONTINUE}") from error

    def _result(self, future: Future, while_waiting: Callable[[], object]) -> Any:
        from distributed import wait

        assert self._client is not None
        began = time.monotonic()
        while not future.done():
            try:
                with self._client.as_current():
                    wait([future], timeout=1)
            except TimeoutError:
                while_waiting()
                if self._client.nthreads():
                    began = time.monotonic()
                elif time.monotonic() - began > _ALONE:
                    raise RunFailed(
                        f"--dask: the scheduler has had no workers for {_ALONE} s; start some;"
                        f" {_CONTINUE}"
                    ) from None
        return future.result()

    def _make_notes(self) -> None:
        notes = self._working / f"notes-{uuid.uuid4().hex}"
        notes.mkdir(parents=True)
        self._shared = _Shared(notes, self._source, _versions())

    def _remove_notes(self) -> None:
        if self._shared is not None:
            shutil.rmtree(self._shared.notes, ignore_errors=True)


class _TookTooLong(Exception):
    """Raised in a worker after another has ended because of a photo that took too long."""


def _run(work: Callable[[Task], Result], task: Task, shared: _Shared) -> Result:
    """Run a task in a worker."""
    if shared != _joined:
        _join(shared)
    if time_limit.has_late(shared.notes):  # do not begin the same photo again
        raise _TookTooLong
    with pixel_limit(None):  # check_photo has its own limit
        return work(task)


def _join(shared: _Shared) -> None:
    """Check that this worker can do the work, and limit the time of photos.

    Raises:
        UserError: it cannot.
    """
    from distributed import get_worker

    global _joined
    worker = get_worker()
    where = f"--dask: worker {worker.address}"
    threads = worker.state.nthreads
    if threads != 1 or worker.address.startswith("inproc"):  # a thread of the caller's process
        raise UserError(
            f"{where} is not a process of one thread, and decoders are not safe in threads; start"
            f" it with `dask worker --nthreads 1 --nworkers {threads}`"
        )
    for (package, here), (_, there) in zip(_versions(), shared.versions, strict=True):
        if here != there:
            raise UserError(
                f"{where} has {package} {here}, and this machine {there}: install the same on both"
            )
    for folder in (shared.notes, shared.source):
        if not folder.is_dir():
            raise UserError(
                f"{where} does not see the folder {folder}: SOURCE and DEST must be on storage that"
                " all workers see under the same path"
            )
    time_limit.limit_in(shared.notes)
    _joined = shared


def _versions() -> tuple[tuple[str, str], ...]:
    found = [("stacked_ram", __version__)]
    for package in _DECODERS:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "none"))
    return tuple(found)

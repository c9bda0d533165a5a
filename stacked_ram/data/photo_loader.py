"""Load batches of photos, which worker processes (torch's DataLoader) make as a whole."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing.util  # noqa: F401  its exit hook must be there before ours
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset import PhotoDataset
from stacked_ram.data.photo_batches import BatchMaker
from stacked_ram.images.decoding import MAX_PIXELS
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.runtime.signals import STOP_SIGNALS

log = logging.getLogger(__name__)

FLUSH_SECONDS = 60  # a run that is killed loses no more than this of what it decoded
PREFETCH = 2  # batches that each worker makes ahead
SHARED = Path("/dev/shm")  # where Linux keeps the memory that workers hand over


class PhotoLoader(Loader):
    """Loader of a data set of kind photos."""

    dataset: PhotoDataset

    def __init__(self, dataset: PhotoDataset, config: Config, **where: Any) -> None:
        super().__init__(dataset, config, **where)
        data = self.data
        if data.shift:
            raise UserError(f"shift: {dataset.folder} holds photos; it is for digits")
        if data.clutter == "fixed" and dataset.scene is None:
            raise UserError(
                f"clutter: {dataset.folder} holds photos as they are; it is for digits and scenes"
            )
        self.maker = self._make_maker(config)
        self.workers: DataLoader | None = None
        _OPEN.add(self)

    def _make_maker(self, config: Config) -> BatchMaker:
        whole = config.model.needs_whole_photo
        return BatchMaker(self.dataset, self.data, self.seed, self.train, whole)

    def _sizes(self, rows: Rows) -> np.ndarray:
        return self.maker.final_sizes(self.maker.crops(self.epoch, rows))

    def _load(self, start: int) -> Iterator[Batch]:
        if self.workers is None:
            self.workers = self._start()
        flushed = time.monotonic()
        for batch in self.workers:
            if time.monotonic() - flushed > FLUSH_SECONDS:
                self.maker.flush()
                flushed = time.monotonic()
            if isinstance(batch, UserError):
                raise batch
            yield batch
        self.maker.flush()

    def _start(self) -> DataLoader:
        workers = self._workers_that_fit()
        # Forked workers share what the parent has read; that is safe only on Linux.
        context = "fork" if sys.platform == "linux" else "spawn"
        return DataLoader(
            self.maker,
            batch_size=None,
            sampler=_Left(self),
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_to_parent,
            generator=torch.Generator(),  # else it draws from torch's own, which training uses
            multiprocessing_context=context if workers else None,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
        )

    def _workers_that_fit(self) -> int:
        """Return the configured number of workers, or 0 if the shared memory is too small for their
        batches (the default of containers is 64 MB), or if photos are read by region or by libvips,
        whose threads a forked process lacks."""
        workers = 0 if self.maker.by_region else self.data.workers
        if workers and self.maker.too_large_N.any():
            log.warning(
                "workers: %s has photos of more than %s pixels, or slides; its photos are read in"
                " the training process", self.dataset.folder, f"{MAX_PIXELS:,}",
            )  # fmt: skip
            return 0
        if not workers or not SHARED.is_dir():
            return workers
        height, width = self.maker.sizes_N2.max(axis=0)
        batch = self.batch_size * self.dataset.channels * int(height * width)
        free = shutil.disk_usage(SHARED).free
        if batch * (PREFETCH * workers + 1) < free:
            return workers
        log.warning(
            "workers: %d workers need %.0f MB of shared memory, %s has %.0f MB free (docker: "
            "--shm-size); photos are read in the training process",
            workers, batch * (PREFETCH * workers + 1) / 1e6, SHARED, free / 1e6,
        )  # fmt: skip
        return 0

    def close(self) -> None:
        iterator = getattr(self.workers, "_iterator", None)
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        self.workers = None


class WorkerLost(RunFailed):
    """A worker process ended. Exit code 1."""


@contextlib.contextmanager
def watched_workers() -> Iterator[None]:
    """Inside the `with`, a worker process that ends by itself raises WorkerLost.

    The training process hears of it by a signal, so torch raises its error anywhere.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerLost(
            "a process that reads photos was ended from outside, as the system does when memory is"
            " short; make room, or give fewer --workers or a smaller --batch-size"
        ) from None


class _Left(torch.utils.data.Sampler):
    """The remaining batches of the loader's epoch, each as (epoch, rows)."""

    def __init__(self, loader: PhotoLoader):
        self.loader = weakref.proxy(loader)

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        epoch = self.loader.epoch
        return ((epoch, rows) for rows in self.loader.planned(self.loader.position))

    def __len__(self) -> int:
        return len(self.loader) - self.loader.position


_OPEN: weakref.WeakSet[PhotoLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End the workers before multiprocessing's exit hook waits for them: they ignore SIGTERM."""
    for loader in list(_OPEN):
        loader.close()


def _leave_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and the like in a worker: the parent saves first, and then ends its workers.

    Print nothing if the parent ends while it takes a batch.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    print_it = sys.excepthook

    def hook(kind: type[BaseException], *more: Any) -> None:
        if not issubclass(kind, ConnectionError):
            print_it(kind, *more)

    sys.excepthook = hook

"""Photo folders: whole batches read, cropped, mirrored and put together by worker processes."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  its exit hook must be there before ours
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from stacked_ram.config import Config, DataConfig
from stacked_ram.data.batch import Batch
from stacked_ram.data.blend import Blend
from stacked_ram.data.chance import chances
from stacked_ram.data.dataset import Dataset
from stacked_ram.data.loader import Loader
from stacked_ram.data.order import Rows, drawn, evaluation_batches, padding, training_batches
from stacked_ram.data.read import read_photo, reduced_size
from stacked_ram.errors import UserError

MILD = np.log(4 / 3)  # a crop is at most 4/3 as wide or as tall, for its area, as the photo


class PhotoLoader(Loader):
    def __init__(self, dataset: Dataset, config: Config, **where: Any):
        super().__init__(dataset, config, **where)
        self.maker = BatchMaker(dataset, self.data, self.seed, self.train)
        data = self.data
        _OPEN.add(self)
        blends = self.train and (data.mixup or data.cutmix)
        self.blend = Blend(data.mixup, data.cutmix, len(dataset.classes)) if blends else None
        workers = self.data.workers
        self.workers = DataLoader(
            self.maker,
            batch_size=None,
            sampler=_Left(self),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_leave_signals_to_parent,
        )

    def _plan(self, epoch: int) -> list[Rows]:
        if not self.train:
            sizes_N2 = self.maker.sizes_N2
            batches = evaluation_batches(
                sizes_N2, batch_size=self.batch_size, rank=self.rank, world=self.world
            )
            self.padding = padding(batches, sizes_N2)
            return batches
        rows = drawn(self.dataset.labels, self.seed, epoch, self.data.balanced_sampler)
        sizes_N2 = self.maker.final_sizes(epoch, rows)
        batches = training_batches(
            rows, sizes_N2, batch_size=self.batch_size, rank=self.rank, world=self.world,
            seed=self.seed, epoch=epoch,
        )  # fmt: skip
        by_row_N2 = np.zeros_like(self.maker.sizes_N2)
        by_row_N2[rows.index_B] = sizes_N2
        self.padding = padding(batches, by_row_N2)
        return batches

    def _load(self, start: int) -> Iterator[Batch]:
        for number, batch in enumerate(self.workers, start):
            if isinstance(batch, UserError):
                raise batch
            batch = batch.to(self.device)
            if self.blend is not None:
                batch = self.blend(batch, self.seed, self.epoch, number, self.rank)
            yield batch

    def close(self) -> None:
        iterator = getattr(self.workers, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self.workers._iterator = None


class BatchMaker(torch.utils.data.Dataset):
    """Makes whole batches, in a worker process or in the training process."""

    def __init__(self, dataset: Dataset, data: DataConfig, seed: int, train: bool):
        self.dataset = dataset
        self.data = data
        self.seed = seed
        self.train = train
        sizes = [
            reduced_size(int(h), int(w), data.short_side, data.photo_size) for h, w in dataset.sizes
        ]
        self.sizes_N2 = np.array(sizes, np.int64).reshape(-1, 2)
        self.crops = train and data.crop_area != (1.0, 1.0)

    def __getitem__(self, order: tuple[int, Rows]) -> Batch | UserError:
        """One batch: (epoch, its photos). An error is handed over, not raised, so that it keeps
        its own words on the way out of a worker."""
        try:
            return self.make(*order)
        except UserError as error:
            return error

    def make(self, epoch: int, rows: Rows) -> Batch:
        photos, boxes_B4 = [], np.empty((len(rows.index_B), 4), np.float32)
        windows_B4, flips_B = self.windows(epoch, rows)
        for place, row in enumerate(rows.index_B):
            photo_CHW, box_4 = self.read(int(row))
            left, top, right, bottom = windows_B4[place]
            photo_CHW = photo_CHW[:, top:bottom, left:right]
            box_4 = moved_box(box_4, windows_B4[place], flips_B[place])
            photos.append(photo_CHW[:, :, ::-1] if flips_B[place] else photo_CHW)
            boxes_B4[place] = box_4
        return padded(photos, boxes_B4, rows.index_B, self.dataset.labels[rows.index_B])

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """pixels_CHW of one photo at its reduced size, and its box there."""
        data, dataset = self.data, self.dataset
        path = Path(dataset.folder) / dataset.names[row]
        photo_CHW = read_photo(path, data.short_side, data.photo_size, dataset.channels)
        height, width = self.sizes_N2[row]
        if photo_CHW.shape[1:] != (height, width):
            raise UserError(
                f"{path}: not of the size that manifest.csv says; prepare the data set again"
            )
        scale_2 = self.sizes_N2[row][::-1] / dataset.sizes[row][::-1]
        return photo_CHW, dataset.boxes[row] * np.tile(scale_2, 2).astype(np.float32)

    def windows(self, epoch: int, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """What is cut out of each photo, (left, top, right, bottom), and whether it is mirrored."""
        sizes_B2 = self.sizes_N2[rows.index_B]
        count = len(sizes_B2)
        windows_B4 = np.zeros((count, 4), np.int64)
        windows_B4[:, 2:] = sizes_B2[:, ::-1]
        flips_B = np.zeros(count, bool)
        if not self.train:
            return windows_B4, flips_B
        draws_B5 = chances(5, self.seed, epoch, *rows)
        if self.data.flip:
            flips_B = draws_B5[:, 0] < 0.5
        if self.crops:
            low, high = self.data.crop_area
            area_B = low + (high - low) * draws_B5[:, 1]
            aspect_B = np.exp(MILD * (2 * draws_B5[:, 2] - 1))
            shares_B2 = np.sqrt(np.stack([area_B / aspect_B, area_B * aspect_B], axis=1))
            cut_B2 = np.clip(np.rint(sizes_B2 * shares_B2), 1, sizes_B2).astype(np.int64)
            start_B2 = np.floor(draws_B5[:, 3:] * (sizes_B2 - cut_B2 + 1)).astype(np.int64)
            windows_B4[:, :2] = start_B2[:, ::-1]
            windows_B4[:, 2:] = (start_B2 + cut_B2)[:, ::-1]
        return windows_B4, flips_B

    def final_sizes(self, epoch: int, rows: Rows) -> np.ndarray:
        """(height, width) of each photo in its batch."""
        windows_B4, _ = self.windows(epoch, rows)
        return (windows_B4[:, 2:] - windows_B4[:, :2])[:, ::-1]


def moved_box(box_4: np.ndarray, window_4: np.ndarray, flip: bool) -> np.ndarray:
    """A box as it lies in what was cut out of its photo; nan where nothing of it is left."""
    left, top, right, bottom = window_4
    box_4 = np.clip(box_4, [left, top, left, top], [right, bottom, right, bottom])
    box_4 = box_4 - [left, top, left, top]
    if not (box_4[2] > box_4[0] and box_4[3] > box_4[1]):
        return np.full(4, np.nan)
    if flip:
        width = right - left
        box_4 = [width - box_4[2], box_4[1], width - box_4[0], box_4[3]]
    return np.asarray(box_4)


def padded(
    photos: list[np.ndarray], boxes_B4: np.ndarray, index_B: np.ndarray, labels_B: np.ndarray
) -> Batch:
    """One batch of photos of different sizes, zeros below and to the right."""
    sizes_B2 = np.array([photo.shape[1:] for photo in photos], np.int64)
    height, width = sizes_B2.max(axis=0)
    pixels_BCHW = torch.zeros(len(photos), len(photos[0]), height, width, dtype=torch.uint8)
    for row, photo_CHW in zip(pixels_BCHW.numpy(), photos, strict=True):
        row[:, : photo_CHW.shape[1], : photo_CHW.shape[2]] = photo_CHW
    return Batch(
        pixels_BCHW=pixels_BCHW,
        sizes_B2=torch.from_numpy(sizes_B2),
        labels_B=torch.from_numpy(labels_B),
        boxes_B4=torch.from_numpy(boxes_B4),
        index_B=torch.from_numpy(index_B),
    )


class _Left(torch.utils.data.Sampler):
    """What is left of the loader's epoch, each batch with its epoch."""

    def __init__(self, loader: PhotoLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        loader = self.loader
        return iter([(loader.epoch, rows) for rows in loader.batches[loader.position :]])

    def __len__(self) -> int:
        return len(self.loader.batches) - self.loader.position


def _context() -> str:
    """Forked workers share what the parent has read; elsewhere than on Linux that is not safe."""
    return "fork" if sys.platform == "linux" else "spawn"


_OPEN: weakref.WeakSet[PhotoLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End the workers before multiprocessing's exit hook waits for them: they ignore SIGTERM."""
    for loader in list(_OPEN):
        loader.close()


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole group: the parent saves, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

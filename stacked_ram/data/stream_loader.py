"""Load training batches from shards, of which no process holds the list of photos."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stacked_ram.config.schema import Config, DataConfig
from stacked_ram.data.batch import Batch
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset import StreamedDataset, photos_in_shards
from stacked_ram.data.photo_batches import BatchMaker, augmentation, kept_sizes
from stacked_ram.data.photo_loader import PhotoLoader
from stacked_ram.data.stream_plan import StreamPlan
from stacked_ram.runtime.errors import UserError, check

log = logging.getLogger(__name__)


class StreamMaker(torch.utils.data.Dataset):
    """Make training batches, each from a data set of its photos alone."""

    by_region = False
    scenes = None

    def __init__(self, dataset: StreamedDataset, data: DataConfig, seed: int, whole: bool) -> None:
        self.dataset, self.data, self.seed, self.whole = dataset, data, seed, whole
        largest_12 = np.array([dataset.shards.largest], np.int64)
        self.sizes_N2, _ = kept_sizes(largest_12, data, train=True)
        """(height, width) of the largest photo."""
        self.too_large_N = np.zeros(1, bool)
        self.augment = augmentation(data, dataset.channels)

    def __getitem__(self, order: tuple[int, Rows]) -> Batch | UserError:
        """Make one batch from (epoch, its photos); see BatchMaker."""
        epoch, rows = order
        try:
            photos = photos_in_shards(self.dataset, self.dataset.shards, rows.index_B)
            data = self.data
            maker = BatchMaker(photos, data, self.seed, True, self.whole, augment=self.augment)
            batch = maker.make(epoch, Rows(np.arange(len(photos)), rows.copy_B))
            batch.index_B = torch.from_numpy(rows.index_B)[batch.index_B]
            return batch
        except UserError as error:
            return error

    def flush(self) -> None:
        """Nothing is kept."""


class StreamLoader(PhotoLoader):
    """Loader of the training photos of a sharded data set."""

    dataset: StreamedDataset  # type: ignore[assignment]
    maker: StreamMaker  # type: ignore[assignment]
    plan: StreamPlan

    def __init__(self, dataset: StreamedDataset, config: Config, **where: Any) -> None:
        where_from, data = dataset.folder, config.data
        check(
            not data.balanced_sampler,
            f"balanced_sampler: {where_from} holds shards, whose photos are not known by class;"
            " --class-weights weights the loss instead",
        )
        super().__init__(dataset, config, **where)  # type: ignore[arg-type]
        if data.cache != "none":
            log.warning("cache: photos of shards are not kept, but decoded in every epoch")

    def _make_maker(self, config: Config) -> Any:
        return StreamMaker(self.dataset, self.data, self.seed, config.model.needs_whole_photo)

    def set_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.epoch, self.position = epoch, 0
        shards = self.dataset.shards
        varies = self.data.photo_size is None and not shards.one_size
        self.plan = StreamPlan(
            shards.starts_S, batch_size=self.batch_size, rank=self.rank, world=self.world,
            seed=self.seed, epoch=epoch, sizes=self._stored_sizes if varies else None,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def photos(self) -> int:
        return self.plan.photos

    def planned(self, position: int) -> Iterator[Rows]:
        return self.plan.batches(position, self._copy_ahead)

    def _copy_ahead(self, numbers: np.ndarray) -> None:
        shards = self.dataset.shards
        shards.copy_ahead(np.unique(shards.shards_of(numbers)).tolist())

    def _stored_sizes(self, numbers: np.ndarray) -> np.ndarray:
        return self.dataset.shards.table(numbers).size

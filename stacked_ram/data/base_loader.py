"""The base class of all loaders: a plan of an epoch's batches, and a position in it.

All random numbers are a function of (seed, epoch, photo), so `state_dict` is only a position, and a
resumed run sees exactly the remaining batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from stacked_ram.config.schema import Config
from stacked_ram.data.batch import Batch
from stacked_ram.data.batching import Rows, drawn, evaluation_batches, training_batches
from stacked_ram.data.dataset import Dataset
from stacked_ram.data.mixup import MixUpCutMix


class Loader:
    """Batches of one split, on one rank. Made by `make_loader` (loader.py).

    batches: the plan of the epoch.
    position: the number of batches of this epoch that were returned.
    """

    evaluated_at_once = 1
    """Training batches in a batch of evaluation."""

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        *,
        train: bool,
        device: str | torch.device,
        rank: int,
        world: int,
    ) -> None:
        self.dataset = dataset
        self.data = data = config.data
        self.batch_size = config.training.batch_size
        self.seed = config.training.seed
        self.train = train
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        self.epoch = -1
        self.position = 0
        self.batches: list[Rows] = []
        self.add_glance: Callable[[Batch], None] | None = None  # set by use_glance_cache
        self.blend: MixUpCutMix | None = None
        if train and (data.mixup or data.cutmix):
            self.blend = MixUpCutMix(data.mixup, data.cutmix, len(dataset.classes))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the position is kept if the epoch has already begun."""
        if epoch == self.epoch:
            return
        self.epoch, self.position = epoch, 0
        if self.train:
            rows = drawn(self.dataset.labels, self.seed, epoch, self.data.balanced_sampler)
            self.batches = training_batches(
                rows, self._sizes(rows), batch_size=self.batch_size,
                rank=self.rank, world=self.world, seed=self.seed, epoch=epoch,
            )  # fmt: skip
        else:
            every = np.arange(len(self.dataset))
            self.batches = evaluation_batches(
                self._sizes(Rows(every, np.zeros_like(every))),
                batch_size=self.batch_size * self.evaluated_at_once,
                rank=self.rank,
                world=self.world,
            )

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, as plain numbers."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the `state_dict` of a loader with the same data and config. Raises
        ValueError for a position that no epoch has."""
        epoch, position = int(state["epoch"]), int(state["position"])
        self.set_epoch(epoch)
        if not 0 <= position <= len(self):
            raise ValueError(f"position {position} of {len(self)} batches")
        self.position = position

    def __len__(self) -> int:
        """Return the number of batches of an epoch on this rank."""
        return len(self.batches)

    @property
    def photos(self) -> int:
        """The photos of an epoch on this rank."""
        return sum(len(rows.index_B) for rows in self.batches)

    def planned(self, position: int) -> Iterator[Rows]:
        """Iterate over the plan of the epoch from a position."""
        return iter(self.batches[position:])

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the remaining batches of the epoch, or over all if none remain."""
        if self.position >= len(self):
            self.position = 0
        for batch in self._load(self.position):
            batch = batch.to(self.device)
            if self.blend is not None and len(batch):
                batch = self.blend(batch, self.seed, self.epoch, self.position, self.rank)
            if self.add_glance is not None and len(batch):
                self.add_glance(batch)
            self.position += 1
            yield batch

    def close(self) -> None:
        """End the worker processes."""

    def _sizes(self, rows: Rows) -> np.ndarray:
        """Return the (height, width) of each of these photos in its batch."""
        return self.dataset.sizes[rows.index_B]

    def _load(self, start: int) -> Iterator[Batch]:
        """Iterate over the batches of the plan from `start`."""
        raise NotImplementedError

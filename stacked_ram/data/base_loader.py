"""The base class of all loaders: a plan of an epoch's batches, and a position in it.

All random numbers are a function of (seed, epoch, photo), so `state_dict` is only a position, and a
resumed run sees exactly the remaining batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stacked_ram.config.schema import Config
from stacked_ram.data.batch import Batch
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset import Dataset


class Loader:
    """Batches of one split, on one rank. Made by `make_loader` (loader.py).

    position: the number of batches of this epoch that were returned.
    padding: mean fraction of a batch's pixels that is padding, in this epoch.
    """

    def __init__(self, dataset: Dataset, config: Config, *, train: bool, device, rank, world):
        self.dataset = dataset
        self.data = config.data
        self.batch_size = config.training.batch_size
        self.seed = config.training.seed
        self.train = train
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        self.epoch = -1
        self.position = 0
        self.padding = 0.0
        self.batches: list[Rows] = []

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the position is kept if the epoch has already begun."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0
            self.batches = self._plan(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, as plain numbers."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the `state_dict` of a loader with the same data and config."""
        self.set_epoch(state["epoch"])
        self.position = state["position"]

    def __len__(self) -> int:
        """Return the number of batches of an epoch on this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the remaining batches of the epoch, or over all if none remain."""
        if self.position >= len(self.batches):
            self.position = 0
        for batch in self._load(self.position):
            self.position += 1
            yield batch

    def close(self) -> None:
        """End the worker processes."""

    def _plan(self, epoch: int) -> list[Rows]:
        raise NotImplementedError

    def _load(self, start: int) -> Iterator[Batch]:
        """Iterate over the batches of the plan from `start`."""
        raise NotImplementedError

"""Make the loader of a data set.

loader = make_loader(dataset, config, train=True, device="cuda")
for epoch in range(epochs):
    loader.set_epoch(epoch)
    for batch in loader:
        ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.dataset import Dataset, DigitDataset, PhotoDataset, StreamedDataset
from stacked_ram.data.digit_loader import DigitLoader
from stacked_ram.data.photo_loader import PhotoLoader, watched_workers
from stacked_ram.data.stream_loader import StreamLoader


def make_loader(
    dataset: Dataset,
    config: Config,
    *,
    train: bool,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Make the loader of a data set, at epoch 0.

    train: shuffled and augmented, with as many batches of as many photos on every rank; otherwise
        each photo comes exactly once over all ranks, unchanged.
    device: where the batches are put.
    """
    where = {"train": train, "device": device, "rank": rank, "world": world}
    loader: Loader
    if isinstance(dataset, StreamedDataset):
        loader = StreamLoader(dataset, config, **where)
    elif isinstance(dataset, DigitDataset):
        loader = DigitLoader(dataset, config, **where)
    else:
        assert isinstance(dataset, PhotoDataset)
        loader = PhotoLoader(dataset, config, **where)
    loader.set_epoch(0)
    return loader


@contextmanager
def opened_loader(
    dataset: Dataset, config: Config, device: str | torch.device = "cpu"
) -> Iterator[Loader]:
    """Make the loader of photos that are not trained on, and close it at the end.

    Raises WorkerLost if a process that reads photos is ended from outside.
    """
    loader = make_loader(dataset, config, train=False, device=device)
    try:
        with watched_workers():
            yield loader
    finally:
        loader.close()

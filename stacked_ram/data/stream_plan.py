"""Which photos of shards are in which training batch: shuffled by a buffer, shared out over ranks.

An epoch is a ring of all photos: the shards in random order, entered at a random photo. Each rank
takes a stretch of the ring, the stretches follow each other, and up to two photos a rank are left
over. A stretch is cut into windows of about BUFFER photos, whose photos are shuffled and divided
into batches. So each rank reads few shards at a time, and every shard once in an epoch (at most one
more time where two stretches or windows meet).

The plan depends only on the counts of the shards, the seed, the epoch and the rank: not on workers,
and nothing is read for it but, to group photos by shape, the tables of the window's shards. A
position in it (the number of batches done) says which shard and which photo come next.

S shards   N photos of all of them   n photos of this rank
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stacked_ram.data.batching import Rows, training_batches
from stacked_ram.data.rng import derive_seed

BUFFER = 4096  # photos that are shuffled together


class StreamPlan:
    """The batches of one epoch on one rank. starts_S: the first photo of each shard, and the end.

    sizes: returns (height, width) of photos by their numbers, to group them by shape; None: all
    have one size. Every rank gets the same number of batches of the same sizes.
    """

    def __init__(
        self,
        starts_S: np.ndarray,
        *,
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        epoch: int,
        sizes: Callable[[np.ndarray], np.ndarray] | None,
        buffer: int = BUFFER,
    ) -> None:
        self.starts_S, self.batch_size, self.sizes = starts_S, batch_size, sizes
        self.rank, self.seed, self.epoch = rank, seed, epoch
        count = int(starts_S[-1])
        global_batch = batch_size * world
        last = count % global_batch // world * world
        if last == world and count > global_batch:
            last = 0  # batch norm cannot use a batch of one photo
        self.photos = (count // global_batch * global_batch + last) // world
        self.window = max(1, buffer // batch_size) * batch_size
        rng = np.random.default_rng(derive_seed(seed, epoch, 1))
        self.order_S = rng.permutation(len(starts_S) - 1)
        self.ends_S = np.cumsum(np.diff(starts_S)[self.order_S])
        self.first = int(rng.integers(max(1, count))) + rank * self.photos

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.photos // self.batch_size)

    def window_numbers(self, window: int) -> np.ndarray:
        """Return the numbers of the photos of a window, in the order of the shards."""
        start = window * self.window
        end = min(start + self.window, self.photos)
        places = (self.first + np.arange(start, max(start, end))) % int(self.starts_S[-1])
        shards = np.searchsorted(self.ends_S, places, "right")
        before = self.ends_S[shards] - np.diff(self.starts_S)[self.order_S[shards]]
        return self.starts_S[self.order_S[shards]] + places - before

    def batches(
        self, position: int = 0, ahead: Callable[[np.ndarray], None] | None = None
    ) -> Iterator[Rows]:
        """Iterate over the batches from a position. ahead: is given the photos of each window as
        the one before it begins."""
        each = self.window // self.batch_size
        for window in range(position // each, -(-len(self) // each)):
            numbers = self.window_numbers(window)
            if ahead is not None:
                ahead(self.window_numbers(window + 1))
            rng = np.random.default_rng(derive_seed(self.seed, self.epoch, 3, self.rank, window))
            numbers = rng.permutation(numbers)
            sizes_N2 = self.sizes(numbers) if self.sizes else np.ones((len(numbers), 2), np.int64)
            # the seed has no rank in it: the smaller batch comes at the same time on every rank
            batches = training_batches(
                Rows(numbers, np.zeros_like(numbers)), sizes_N2, batch_size=self.batch_size,
                rank=0, world=1, seed=derive_seed(self.seed, 3, window), epoch=self.epoch,
            )  # fmt: skip
            yield from batches[max(0, position - window * each) :]

"""Assign photos to batches: shuffle, balance classes, group by shape, divide among ranks.

All results depend only on the arguments: there is no state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stacked_ram.data.rng import derive_seed

POOL = 16  # batches whose photos are grouped by shape in one go; more pad less and shuffle less
NOISE = 0.1  # in the sizes by which training photos are grouped: else the same meet every epoch


class Rows(NamedTuple):
    """The photos of one batch, or of an epoch."""

    index_B: np.ndarray
    """Row of each photo in its split."""
    copy_B: np.ndarray
    """How many times the photo was drawn before in this epoch (balanced sampling)."""

    def take(self, places: np.ndarray | slice) -> Rows:
        return Rows(self.index_B[places], self.copy_B[places])


def drawn(labels_N: np.ndarray, seed: int, epoch: int, balanced: bool) -> Rows:
    """Return the photos of an epoch in random order: each once, or equally many of every class."""
    rng = np.random.default_rng(derive_seed(seed, epoch, 1))
    count = len(labels_N)
    if not balanced:
        index_N = rng.permutation(count)
        return Rows(index_N, np.zeros_like(index_N))
    groups = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    wanted = np.full(len(groups), count // len(groups))
    wanted[rng.permutation(len(groups))[: count % len(groups)]] += 1
    index, copy = [], []
    for group, most in zip(groups, wanted, strict=True):
        rounds = -(-most // len(group))  # whole passes over the class, the last one cut short
        index.append(np.concatenate([rng.permutation(group) for _ in range(rounds)])[:most])
        copy.append(np.repeat(np.arange(rounds), len(group))[:most])
    order = rng.permutation(count)
    return Rows(np.concatenate(index)[order], np.concatenate(copy)[order])


def training_batches(
    rows: Rows,
    sizes_N2: np.ndarray,
    *,
    batch_size: int,
    rank: int,
    world: int,
    seed: int,
    epoch: int,
) -> list[Rows]:
    """Return the training batches of an epoch on this rank.

    rows: the photos in random order; sizes_N2: the (height, width) of each, in that order.
    Every rank gets the same number of batches of the same sizes, so up to world - 1 photos of an
    epoch are left out. A last batch of a single photo is left out too (batch norm cannot use it),
    unless it is the only batch. Photos of similar shape are grouped: random pools of POOL batches
    are sorted by shape and divided into batches, which are then shuffled.
    """
    global_batch = batch_size * world  # photos of all ranks
    count = len(rows.index_B)
    last = count % global_batch // world * world
    if last == world and count > global_batch:
        last = 0
    whole = count // global_batch * global_batch
    places = np.arange(whole + last)
    rng = np.random.default_rng(derive_seed(seed, epoch, 2))
    if whole > global_batch and (sizes_N2 != sizes_N2[:1]).any():
        grouped = []
        for pool in np.split(
            places[:whole], range(global_batch * POOL, whole, global_batch * POOL)
        ):
            noisy_X2 = sizes_N2[pool] * rng.uniform(1 - NOISE, 1 + NOISE, (len(pool), 2))
            grouped.append(pool[by_shape(np.arange(len(pool)), noisy_X2, global_batch)])
        places = np.concatenate([*grouped, places[whole:]])  # the last, smaller batch stays last
    batches = [
        places[start : start + global_batch] for start in range(0, len(places), global_batch)
    ]
    batches = [batches[i] for i in rng.permutation(len(batches))]
    return [rows.take(batch[rank::world]) for batch in batches]


def evaluation_batches(
    sizes_N2: np.ndarray, *, batch_size: int, rank: int, world: int
) -> list[Rows]:
    """Return the evaluation batches of this rank; each photo is in exactly one batch of one rank.

    They are sorted by shape. The number of batches per rank may differ by one, or be zero.
    """
    places = np.arange(len(sizes_N2))
    if (sizes_N2 != sizes_N2[:1]).any():
        places = by_shape(places, sizes_N2, batch_size)
    batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    return [Rows(batch, np.zeros_like(batch)) for batch in batches[rank::world]]


def by_shape(places: np.ndarray, sizes_N2: np.ndarray, batch_size: int) -> np.ndarray:
    """Order places so that each batch has photos of similar height and width.

    places: indices into sizes_N2. They are divided in two between batches, by height, width or
    aspect ratio, whichever leaves the least padding; both parts are divided again in the same way.
    """
    if len(places) <= batch_size:
        return places
    heights, widths = sizes_N2[places].T
    batches = -(-len(places) // batch_size)
    cuts = np.arange(1, batches) if batches <= POOL else np.array([batches // 2])
    cuts = cuts * batch_size
    best = np.inf
    for key in (heights, widths, heights / widths):
        order = np.argsort(key, kind="stable")
        high, wide = heights[order], widths[order]
        below = np.maximum.accumulate(high) * np.maximum.accumulate(wide)
        above = (np.maximum.accumulate(high[::-1]) * np.maximum.accumulate(wide[::-1]))[::-1]
        areas = cuts * below[cuts - 1] + (len(places) - cuts) * above[cuts]
        if areas.min() < best:
            best, split, cut = areas.min(), places[order], cuts[areas.argmin()]
    parts = (by_shape(part, sizes_N2, batch_size) for part in (split[:cut], split[cut:]))
    return np.concatenate([*parts])

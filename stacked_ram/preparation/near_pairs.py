"""Find pairs of 64-bit hashes that differ in few bits, without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

import numpy as np

_ROWS = 256  # rows of a bucket that are compared at a time, to limit memory


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[int, int, int]]:
    """Iterate over the pairs of hashes that differ in at most `distance` bits: (i, j, bits), i < j.

    The 64 bits are divided into blocks. Two hashes that differ in at most d bits agree on all
    blocks but d. So, for each choice of blocks, only hashes that agree on them are compared
    (Norouzi et al., "Fast search in Hamming space with multi-index hashing", 2012). The number of
    blocks is the one that needs the least work. Each pair comes once, in no particular order.

    Args:
        hashes: uint64 (N,), N < 2**31.
        distance: 0 to 63.
    """
    blocks = _best_blocks(len(hashes), distance)
    edges = [round(64 * i / blocks) for i in range(blocks + 1)]
    masks = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    tables = list(combinations(range(blocks), blocks - distance))
    table_masks = [np.uint64(sum(masks[b] for b in chosen)) for chosen in tables]
    for number, mask in enumerate(table_masks):
        for first, second, bits in _pairs_within(hashes, mask, distance):
            differing = hashes[first] ^ hashes[second]
            # Several tables find the same pair: only the first one yields it.
            known = np.zeros(len(first), dtype=bool)
            for earlier in table_masks[:number]:
                known |= (differing & earlier) == 0
            for i in np.flatnonzero(~known):
                a, b = int(first[i]), int(second[i])
                yield (min(a, b), max(a, b), int(bits[i]))


def _best_blocks(count: int, distance: int) -> int:
    def work(blocks: int) -> float:
        agreeing_bits = 64 * (blocks - distance) / blocks
        compared = count * count / 2 ** (agreeing_bits + 1)
        return comb(blocks, distance) * (20.0 * count + compared)

    return min(range(distance + 1, min(distance + 6, 64) + 1), key=work)


def _pairs_within(
    hashes: np.ndarray, mask: np.uint64, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Iterate over the near pairs among hashes that agree under `mask`, as arrays."""
    order = np.argsort(hashes & mask, kind="stable").astype(np.int32)
    sorted_hashes = hashes[order]
    begins = np.ones(len(hashes) + 1, dtype=bool)  # starts of the buckets, and the last one's end
    begins[1:-1] = ((sorted_hashes[1:] ^ sorted_hashes[:-1]) & mask) != 0
    edges = np.flatnonzero(begins).astype(np.int32)
    sizes = np.diff(edges)
    # Nearly all buckets are small. They are compared together: every hash with the next one of its
    # bucket, then with the one after that, and so on.
    small = sizes <= 32
    last = np.repeat(edges[1:], sizes)  # one past the end of each hash's bucket
    open_rows = np.flatnonzero(np.repeat(small & (sizes > 1), sizes)).astype(np.int32)
    step = 1
    while len(open_rows := open_rows[open_rows + step < last[open_rows]]):
        bits = np.bitwise_count(sorted_hashes[open_rows] ^ sorted_hashes[open_rows + step])
        near = bits <= distance
        if near.any():
            rows = open_rows[near]
            yield order[rows], order[rows + step], bits[near]
        step += 1
    for bucket in np.flatnonzero(~small):
        start, end = edges[bucket], edges[bucket + 1]
        for row in range(start, end, _ROWS):
            upper = min(row + _ROWS, end)
            bits = np.bitwise_count(sorted_hashes[row:upper, None] ^ sorted_hashes[None, row:end])
            i, j = np.nonzero(np.triu(bits <= distance, k=1))
            if len(i):
                yield order[row + i], order[row + j], bits[i, j]

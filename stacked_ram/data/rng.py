"""Random numbers that are a pure function of (seed, epoch, photo, copy).

Nothing depends on the worker, the batch or the order in which photos are read, so a resumed run
draws the same as one that was never stopped. The generator is splitmix64, vectorised over photos
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 5 and the
mixing constants of its Java implementation).
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_seed(seed: int, *parts: int | np.ndarray) -> np.ndarray:
    """Hash whole numbers, or arrays of them (broadcast), to uint64; every bit depends on all."""
    state: np.ndarray = np.atleast_1d(np.asarray(seed, np.int64)).astype(np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mix(state) ^ np.asarray(part, np.int64).astype(np.uint64)
        return _mix(state)


def derive_seed(seed: int, *parts: int) -> int:
    """Derive a seed for another generator, in [0, 2**63)."""
    return int(hash_seed(seed, *parts)[0] >> np.uint64(1))


def random_numbers(
    count: int, seed: int, epoch: int, index_B: np.ndarray, copy_B: np.ndarray
) -> np.ndarray:
    """Draw `count` numbers in [0, 1) for each photo; float64, (B, count).

    copy_B: how many times the photo was drawn before in this epoch.
    """
    state_B1 = hash_seed(seed, epoch, index_B, copy_B)[:, None]
    with np.errstate(over="ignore"):
        numbers_BX = _mix(state_B1 + GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers_BX >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))

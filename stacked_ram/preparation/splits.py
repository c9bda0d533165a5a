"""Assign photos to splits or folds at random: stratified by class, groups kept together."""

from __future__ import annotations

import numpy as np


class TooFew(Exception):
    """A class too small to be in every part. klass: its number; photos, units: its counts."""

    def __init__(self, klass: int, photos: int, units: int) -> None:
        super().__init__(klass)
        self.klass = klass
        self.photos = photos
        self.units = units


def assign_units(
    classes: np.ndarray,
    units: np.ndarray,
    lots: np.ndarray,
    fractions: list[float],
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """Assign every photo to a part, each class in the given fractions, each unit as a whole.

    Args:
        classes: number of each photo's class, `(N,)`.
        units: number of each photo's unit, `(N,)`. Photos of a unit go to the same part.
        lots: a random number for each photo, `(N,)`, which decides its part.
        fractions: the fraction of each part; their sum need not be 1. A part of 0 stays empty.
        fixed: the part of each photo that is decided already, `(N,)`, the same for a whole unit;
            -1: none.

    Returns:
        Number of each photo's part, `(N,)`. A class of single photos has the given fractions to
        within one photo, and at least one photo in every part. With large units, the fractions are
        approximate.

    Raises:
        TooFew: a class has fewer units than there are parts, or its units are too large.
    """
    parts = np.full(len(classes), -1, dtype=np.int32)
    if fixed is not None:
        parts[:] = fixed
    if not len(classes):
        return parts
    counts = np.bincount(classes)
    wanted = np.stack([_targets(count, fractions, klass) for klass, count in enumerate(counts)])
    left = wanted.astype(np.float64)
    decided = np.flatnonzero(parts >= 0)
    np.subtract.at(left, (classes[decided], parts[decided]), 1)
    for members in _large_units(units, lots):
        if parts[members[0]] >= 0:
            continue
        needs = np.bincount(classes[members], minlength=len(wanted))
        part = int(np.argmax(needs / np.maximum(counts, 1) @ left))
        parts[members] = part
        left[:, part] -= needs
    _assign_single(classes, lots, np.maximum(left, 0), parts)
    for klass in np.flatnonzero(counts):
        photos = np.bincount(parts[classes == klass], minlength=len(fractions))
        if (photos[np.asarray(fractions) > 0] == 0).any():
            raise TooFew(int(klass), int(counts[klass]), len(np.unique(units[classes == klass])))
    return parts


def _targets(count: int, fractions: list[float], klass: int) -> np.ndarray:
    """Return the number of photos of each part; the sum is `count`.

    Photos left after rounding down go to the parts with the largest remainders. If remainders are
    equal, the class number decides, so that the same part does not get the rest of every class.
    """
    exact = np.array(fractions, dtype=np.float64) * count / sum(fractions)
    targets = np.floor(exact).astype(np.int64)
    n = len(fractions)
    order = sorted(
        range(n), key=lambda p: (-round(float(exact[p] - targets[p]), 9), (p - klass) % n)
    )
    for part in order[: count - targets.sum()]:
        targets[part] += 1
    for part in range(n):
        if fractions[part] and not targets[part] and targets.max() > 1:
            targets[np.argmax(targets)] -= 1
            targets[part] = 1
    return targets


def _large_units(units: np.ndarray, lots: np.ndarray) -> list[np.ndarray]:
    """Return the photos of each unit of two or more, largest first, equal sizes in random order."""
    members = np.flatnonzero((np.bincount(units) > 1)[units])  # mostly few
    order = members[np.argsort(units[members], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(units[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda members: (-len(members), lots[members].min()))


def _assign_single(
    classes: np.ndarray, lots: np.ndarray, left: np.ndarray, parts: np.ndarray
) -> None:
    """Fill the parts with single photos of each class, in random order. Writes to `parts`."""
    single = np.flatnonzero(parts < 0)
    order = single[np.lexsort((lots[single], classes[single]))]
    starts = np.searchsorted(classes[order], np.arange(len(left) + 1))
    for klass in range(len(left)):
        members = order[starts[klass] : starts[klass + 1]]
        if not len(members):
            continue
        # If units overfilled a part, the rest is divided among the others in proportion.
        sizes = _targets(len(members), list(left[klass]), klass)
        parts[members] = np.repeat(np.arange(left.shape[1], dtype=np.int32), sizes)

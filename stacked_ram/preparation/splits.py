"""Sharing photos out among splits or folds: stratified, by group, by lot from a seed."""

from __future__ import annotations

import numpy as np


class TooFew(Exception):
    """A class cannot reach every part; `klass` is its number, `photos` and `units` what it has."""

    def __init__(self, klass: int, photos: int, units: int) -> None:
        super().__init__(klass)
        self.klass = klass
        self.photos = photos
        self.units = units


def assign_units(
    classes: np.ndarray, units: np.ndarray, lots: np.ndarray, shares: list[float]
) -> np.ndarray:
    """Give every photo a part, each class in the given shares, each unit whole.

    Args:
        classes: number of each photo's class, `(N,)`.
        units: number of each photo's unit: photos of one unit go to one part, `(N,)`.
        lots: a random number for each photo, `(N,)`: decides which photos go where, not how many.
        shares: of each part; they need not add up to 1. A part of share 0 gets nothing.

    Returns:
        Number of each photo's part, `(N,)`. A class of single photos meets its shares to within
        one photo, with at least one photo in every part; large units can only come near.

    Raises:
        TooFew: a class has fewer units than there are parts, or its units are too large.
    """
    parts = np.full(len(classes), -1, dtype=np.int32)
    if not len(classes):
        return parts
    wanted = np.stack(
        [_targets(count, shares, klass) for klass, count in enumerate(np.bincount(classes))]
    )
    counts = np.bincount(classes)
    for klass in np.flatnonzero(counts):
        if counts[klass] < np.count_nonzero(shares):
            raise TooFew(int(klass), int(counts[klass]), len(np.unique(units[classes == klass])))
    left = wanted.astype(np.float64)
    for members in _large_units(units, lots):
        needs = np.bincount(classes[members], minlength=len(wanted))
        weight = needs / np.maximum(counts, 1)
        scores = weight @ left / max(weight.sum(), 1e-12)
        scores[np.asarray(shares) == 0] = -np.inf
        part = int(np.argmax(scores))
        parts[members] = part
        left[:, part] -= needs
    _share_out_single(classes, lots, np.maximum(left, 0), parts)
    for klass in np.flatnonzero(counts):
        there = np.bincount(parts[classes == klass], minlength=len(shares))
        if any(not there[part] for part, share in enumerate(shares) if share):
            raise TooFew(int(klass), int(counts[klass]), len(np.unique(units[classes == klass])))
    return parts


def _targets(count: int, shares: list[float], klass: int) -> np.ndarray:
    """Whole numbers of photos for each part, adding up to `count`.

    What rounding leaves over goes to the largest remainders; where they are alike the class's
    number decides, so that no part gets the leftovers of every class.
    """
    exact = np.array(shares, dtype=np.float64) * count / sum(shares)
    targets = np.floor(exact + 1e-9).astype(np.int64)
    n = len(shares)
    order = sorted(range(n), key=lambda p: (-round(exact[p] - targets[p], 9), (p - klass) % n))
    for part in order[: count - targets.sum()]:
        targets[part] += 1
    for part in range(n):
        if shares[part] and not targets[part] and targets.max() > 1:
            targets[np.argmax(targets)] -= 1
            targets[part] = 1
    return targets


def _large_units(units: np.ndarray, lots: np.ndarray) -> list[np.ndarray]:
    """The photos of each unit of two or more, the largest unit first, alike ones by lot."""
    members = np.flatnonzero((np.bincount(units) > 1)[units])  # mostly few
    order = members[np.argsort(units[members], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(units[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda members: (-len(members), lots[members].min()))


def _share_out_single(
    classes: np.ndarray, lots: np.ndarray, left: np.ndarray, parts: np.ndarray
) -> None:
    """Fill up each class's parts with its single photos, drawn by lot. Writes into `parts`."""
    single = np.flatnonzero(parts < 0)
    order = single[np.lexsort((lots[single], classes[single]))]
    starts = np.searchsorted(classes[order], np.arange(len(left) + 1))
    for klass in range(len(left)):
        members = order[starts[klass] : starts[klass + 1]]
        if not len(members):
            continue
        # Where units overfilled a part, the others share what is left in proportion.
        room = left[klass] if left[klass].sum() else np.ones(left.shape[1])
        sizes = _targets(len(members), list(room), klass)
        parts[members] = np.repeat(np.arange(left.shape[1], dtype=np.int32), sizes)

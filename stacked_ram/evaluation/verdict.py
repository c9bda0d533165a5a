"""What the figures of an evaluation mean, in words. N photos, T steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stacked_ram.data.dataset import is_uneven
from stacked_ram.evaluation.metrics import paired_interval

if TYPE_CHECKING:
    import pandas

CLEAR = 0.05  # half the width of an interval of a difference up to which no difference is a finding
SAME_PLACE = 0.05  # spread of locations over photos (the photo is 2 wide) below which it is one
STANDS_STILL = 0.05  # mean distance from glimpse to glimpse
UNEVEN = 2  # times as many photos in the largest class as in the smallest
FEWEST = 10  # photos that say anything about locations


def compared(right_N: np.ndarray, other_N: np.ndarray, other: str, if_level: str) -> str:
    """Say whether the model answers better than another on the same photos.

    right_N, other_N: whether each answer is right. if_level: what follows where the other is as
    good or better. Decided by the 95 % confidence interval of the paired difference: a difference
    whose interval holds 0 is none; one that is wider than CLEAR says that photos are too few.
    """
    difference = float(np.mean(right_N) - np.mean(other_N))
    return judged(difference, paired_interval(right_N, other_N), other, if_level)


def judged(
    difference: float, interval_95: Sequence[float], other: str, if_level: str, of: str = ""
) -> str:
    """Say what a difference of two figures from 0 to 1 means, as `compared` does. of: the figure,
    where it is not the accuracy."""
    low, high = interval_95
    by = f"{100 * difference:+.1f} points{of}, 95 % confidence interval {100 * low:+.1f} to"
    by += f" {100 * high:+.1f}"
    if low > 0:
        return f"Better than {other} ({by})."
    if high < 0:
        return f"On these photos {other} is better ({by}); {if_level}."
    if (high - low) / 2 > CLEAR:
        return f"Too few photos to tell it from {other} ({by})."
    return f"On these photos {other} is as good ({by}); {if_level}."


def movement(locations_NT2: np.ndarray, chosen_T: Sequence[bool]) -> list[str]:
    """Say where the locations hardly differ; nothing where they do, or where none was chosen."""
    chosen = np.flatnonzero(chosen_T)
    if not len(chosen) or len(locations_NT2) < FEWEST:
        return []
    found = []
    spread = float(spread_T(locations_NT2)[chosen].mean())
    if spread < SAME_PLACE:
        found.append(
            f"It looks at the same place in every photo (spread {spread:.3f}): its locations do"
            " not depend on what it sees."
        )
    if locations_NT2.shape[1] > 1:
        ways = np.hypot(*np.moveaxis(np.diff(locations_NT2, axis=1), -1, 0))
        if ways.mean() < STANDS_STILL:
            found.append(
                f"The glimpses hardly move (mean distance from one to the next {ways.mean():.3f}):"
                " more of them show little that is new."
            )
    return found


def spread_T(locations_NT2: np.ndarray) -> np.ndarray:
    """How far the locations of each step lie apart over the photos: root mean square distance
    from their mean. 0: one place for all photos."""
    return np.sqrt(((locations_NT2 - locations_NT2.mean(0)) ** 2).sum(2).mean(0))


def unevenness(photos: pandas.Series) -> list[str]:
    """Say what uneven classes mean for the accuracy. photos: of each class, by its name."""
    if not is_uneven(photos.tolist(), UNEVEN):
        return []
    return [
        f"Classes are uneven: always answering {photos.idxmax()!r} would be right for"
        f" {photos.max() / photos.sum():.1%} of the photos; the balanced accuracy, the mean over"
        " classes, counts every class alike."
    ]

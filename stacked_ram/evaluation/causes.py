"""Why an answer is wrong: one cause for every mistake.

"Recognised" means a calibrated belief of at least SURE in the true class. The causes, the first
that fits:
- TALKED_OUT: it was recognised after the glance or an earlier glimpse, and not at the end.
- NEVER_LOOKED: no glimpse was at the object (`at_object`, where its box is known); where the box is
  not known: it would have been recognised with one glimpse elsewhere.
- NOT_RECOGNISED: the rest. It looked at the object; or, where the box is not known, no other place
  of one glimpse would have let it recognise the object.

K = T + 1: before the first of T glimpses, and after each.
"""

from __future__ import annotations

import numpy as np

SURE = 0.5
TALKED_OUT = "recognised, then talked out of it"
NEVER_LOOKED = "never looked there"
NOT_RECOGNISED = "found but not recognised"
CAUSES = (TALKED_OUT, NEVER_LOOKED, NOT_RECOGNISED)


def cause_of(own_K: np.ndarray, best_forced: float, hit: bool | None) -> str:
    """The cause of a mistake. own_K: calibrated belief in the true class on the model's own path.
    best_forced: the highest at the end with one glimpse elsewhere. hit: whether a glimpse was at
    the object; None where that is not known."""
    if own_K[:-1].max() >= SURE:
        return TALKED_OUT
    missed = best_forced >= SURE if hit is None else not hit
    return NEVER_LOOKED if missed else NOT_RECOGNISED

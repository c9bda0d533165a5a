"""Assign photos with several labels to splits or folds: iterative stratification.

Sechidis, Tsoumakas and Vlahavas: On the stratification of multi-label data, ECML PKDD 2011,
algorithm 1. The label with the fewest photos left is divided first, while there is still a choice.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


def assign_iteratively(
    labels_NL: csr_matrix,
    units: np.ndarray,
    lots: np.ndarray,
    fractions: list[float],
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """Assign every photo to a part, each label in about the given fractions, each unit as a whole.

    Args:
        labels_NL: 1 where a photo (row) has a label (column); a photo may have none.
        units, lots, fractions, fixed: as for `splits.assign_units`.

    Returns:
        Number of each photo's part, `(N,)`. A rare label may be missing from a part.
    """
    count = labels_NL.shape[0]
    names, unit_of = np.unique(units, return_inverse=True)
    sizes = np.bincount(unit_of, minlength=len(names))
    joined = csr_matrix(
        (np.ones(count, dtype=np.int64), (unit_of, np.arange(count))), shape=(len(names), count)
    )
    has_UL = csr_matrix(joined @ labels_NL)  # photos of each unit with each label
    with_label = has_UL.tocsc()
    unit_lots = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(unit_lots, unit_of, lots)
    unit_parts = np.full(len(names), -1, dtype=np.int32)

    share = np.array(fractions) / sum(fractions)
    wanted_PL = np.outer(share, np.asarray(has_UL.sum(axis=0)).ravel())
    wanted_P = share * count
    left_L = np.diff(with_label.indptr)  # units of each label that have no part yet

    def place(unit: int, part: int) -> None:
        own = slice(has_UL.indptr[unit], has_UL.indptr[unit + 1])
        unit_parts[unit] = part
        wanted_PL[part, has_UL.indices[own]] -= has_UL.data[own]
        wanted_P[part] -= sizes[unit]
        left_L[has_UL.indices[own]] -= 1

    def choose(unit: int, wanted: np.ndarray) -> int:
        """Return the part that wants most; of several, the one that wants most photos."""
        best = np.flatnonzero(share > 0)
        for values in (wanted, wanted_P):
            rounded = np.round(values[best], 9)
            best = best[rounded == rounded.max()]
        return int(best[unit_lots[unit] % len(best)])

    def in_order(members: np.ndarray) -> list[int]:
        """Return units without a part, the largest first, equal sizes in random order."""
        members = members[unit_parts[members] < 0]
        return members[np.lexsort((unit_lots[members], -sizes[members]))].tolist()

    if fixed is not None:
        for index in np.flatnonzero(fixed >= 0).tolist():
            if unit_parts[unit_of[index]] < 0:
                place(int(unit_of[index]), int(fixed[index]))
    while (open_labels := np.flatnonzero(left_L > 0)).size:
        label = int(open_labels[np.argmin(left_L[open_labels])])
        ends = with_label.indptr[label : label + 2]
        for unit in in_order(with_label.indices[ends[0] : ends[1]]):
            place(unit, choose(unit, wanted_PL[:, label]))
    for unit in in_order(np.arange(len(names))):  # without a label
        place(unit, choose(unit, wanted_P))
    return unit_parts[unit_of]

"""Find duplicates before photos are split, so that copies never end up in different splits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.near_pairs import near_pairs
from stacked_ram.preparation.perceptual import same_picture

_REPRESENTATIVES = 16  # most different photos compared for one hash


@dataclass
class Duplicates:
    """The duplicates of a source.

    Attributes:
        exact: pairs of numbers of photos whose files are equal.
        near: pairs of numbers of photos that look alike, with the differing bits of their hashes.
        conflicts: pairs (of either kind) with two different labels.
    """

    exact: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int, int]] = field(default_factory=list)
    conflicts: list[tuple[int, int]] = field(default_factory=list)

    def links(self) -> np.ndarray:
        """Return all pairs, `(P, 2)`."""
        pairs = self.exact + [(a, b) for a, b, _ in self.near]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def find_duplicates(catalogue: Catalogue, distance: int) -> Duplicates:
    """Find equal files and, if `distance` is not negative, photos that look alike.

    Two photos look alike if their perceptual hashes differ in at most `distance` bits and their
    tiny copies agree (flat pictures have equal hashes).
    """
    found = Duplicates()
    for numbers in catalogue.exact_duplicates():
        found.exact += [(numbers[0], other) for other in numbers[1:]]
    if distance >= 0:
        found.near = sorted(_near(catalogue, distance))
    for first, second in found.links().tolist():
        if catalogue.class_of(first) != catalogue.class_of(second):
            found.conflicts.append((first, second))
    return found


def leave_out_conflicts(catalogue: Catalogue, found: Duplicates) -> int:
    """Exclude photos with two labels, and all their copies; return the number of excluded photos.

    Copies are connected by equal files, or by equal hashes of photos that look alike.
    """
    if not found.conflicts:
        return 0
    ids = np.unique(found.links())
    copies = [*found.exact, *((a, b) for a, b, bits in found.near if bits == 0)]
    units = units_of(
        ids, np.zeros(len(ids), dtype=np.int64), np.array(copies, dtype=np.int64).reshape(-1, 2)
    )
    others: dict[int, dict[str, int]] = {}  # unit -> label -> a photo that gives it this label
    for first, second in found.conflicts:
        for photo, other in ((first, second), (second, first)):
            unit = int(units[np.searchsorted(ids, photo)])
            others.setdefault(unit, {}).setdefault(catalogue.class_of(other), other)
    out = np.isin(units, list(others))
    for number, unit in zip(ids[out].tolist(), units[out].tolist(), strict=True):
        own = catalogue.class_of(number)
        label, other = next(pair for pair in others[unit].items() if pair[0] != own)
        detail = f"also under {label!r}: {catalogue.source_of(other)}"
        catalogue.leave_out([number], "conflict", detail)
    return int(out.sum())


def _near(catalogue: Catalogue, distance: int) -> list[tuple[int, int, int]]:
    numbers, hashes = catalogue.hashes()
    if len(numbers) < 2:
        return []
    pairs = []
    # Very many photos may have the same hash. First, each is compared with a few representatives
    # of its hash, which differ in their tiny copies. Then the representatives of different hashes
    # are compared.
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    sizes = np.diff(starts, append=len(order))
    others: list[int] = []
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        representatives: list[tuple[int, bytes]] = []
        for index in np.sort(order[start : start + size]).tolist():
            tiny = catalogue.tiny(int(numbers[index]))
            same = next((i for i, other in representatives if same_picture(other, tiny)), None)
            if same is not None:
                pairs.append((int(numbers[same]), int(numbers[index]), 0))
            elif len(representatives) < _REPRESENTATIVES:
                representatives.append((index, tiny))
        others += [i for i, _ in representatives]
    chosen = np.sort(np.concatenate([order[starts[sizes == 1]], np.array(others, np.int64)]))
    del order, starts, sizes
    for i, j, bits in near_pairs(hashes[chosen], distance):
        first, second = int(numbers[chosen[i]]), int(numbers[chosen[j]])
        if bits and same_picture(catalogue.tiny(first), catalogue.tiny(second)):
            pairs.append((min(first, second), max(first, second), bits))
    return pairs


def units_of(ids: np.ndarray, groups: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Return the number of each photo's unit: photos connected by a group or as duplicates.

    Args:
        ids: numbers of the photos, sorted, `(N,)`.
        groups: number of each photo's group, 0: none, `(N,)`.
        links: pairs of numbers of duplicates, `(P, 2)`; numbers that are not in `ids` are ignored.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    here = np.isin(links, ids).all(axis=1)
    ends = np.searchsorted(ids, links[here])
    in_group = np.flatnonzero(groups)
    rows = np.concatenate([ends[:, 0], in_group])
    columns = np.concatenate([ends[:, 1], len(ids) + groups[in_group]])
    nodes = len(ids) + int(groups.max(initial=0)) + 1
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][: len(ids)]

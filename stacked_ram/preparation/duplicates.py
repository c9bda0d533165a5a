"""Find duplicates before photos are split, so that copies never end up in different splits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.encoding import encode_image
from stacked_ram.preparation.near_pairs import near_pairs
from stacked_ram.preparation.perceptual import same_picture
from stacked_ram.preparation.records import SPLITS

_REPRESENTATIVES = 16  # most different photos compared for one hash


@dataclass
class Duplicates:
    """The duplicates of a source.

    Attributes:
        exact: pairs of numbers of photos with equal pixels: the first photo of each group of
            copies, with each of the others.
        near: pairs of numbers of photos that look alike, with the differing bits of their hashes.
        conflicts: exact pairs with two different labels.
        near_conflicts: pairs of photos that look alike, with two different labels.
    """

    exact: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int, int]] = field(default_factory=list)
    conflicts: list[tuple[int, int]] = field(default_factory=list)
    near_conflicts: list[tuple[int, int]] = field(default_factory=list)

    def links(self) -> np.ndarray:
        """Return all pairs, `(P, 2)`."""
        pairs = self.exact + [(a, b) for a, b, _ in self.near]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def find_duplicates(catalogue: Catalogue, distance: int, *, official: bool = False) -> Duplicates:
    """Find photos with equal pixels and, if `distance` is not negative, photos that look alike.

    Two photos look alike if their perceptual hashes differ in at most `distance` bits and their
    tiny copies agree (flat pictures have equal hashes).

    Args:
        official: whether the first of a group of copies is a photo of the official test part, else
            of the validation part, if there is one. Otherwise it is the first in the source.
    """
    found = Duplicates()
    given: dict[int, int] = {}
    if official:
        photos = catalogue.columns()
        given = dict(zip(photos["id"].tolist(), photos["given"].tolist(), strict=True))
    for numbers in _exact_groups(catalogue):
        numbers.sort(key=lambda number: (-given.get(number, 0), number))
        found.exact += [(numbers[0], other) for other in numbers[1:]]
    if distance >= 0:
        found.near = sorted(_near(catalogue, distance, [other for _, other in found.exact]))

    def two_labels(first: int, second: int) -> bool:
        return catalogue.class_of(first) != catalogue.class_of(second)

    found.conflicts = [pair for pair in found.exact if two_labels(*pair)]
    found.near_conflicts = [(a, b) for a, b, _ in found.near if two_labels(a, b)]
    return found


def leave_out_conflicts(catalogue: Catalogue, found: Duplicates, *, near: bool) -> int:
    """Exclude photos with two labels, and all their copies; return the number of excluded photos.

    Args:
        near: whether photos that look alike but have two labels are excluded too. Their copies are
            then also those with equal hashes.
    """
    conflicts = found.conflicts + (found.near_conflicts if near else [])
    if not conflicts:
        return 0
    ids = np.unique(found.links())
    copies = [*found.exact, *((a, b) for a, b, bits in found.near if near and bits == 0)]
    units = _connected(ids, copies)
    others: dict[int, dict[str, int]] = {}  # unit -> label -> a photo that gives it this label
    for first, second in conflicts:
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


def drop_copies(catalogue: Catalogue, found: Duplicates) -> int:
    """Exclude all but the first of the copies with the same label; return their number."""
    usable = set(catalogue.columns()["id"].tolist())
    kept: dict[tuple[int, str], int] = {}  # (first of the copies, label) -> the photo that stays
    dropped = 0
    for first, other in found.exact:
        if other not in usable:  # left out already, as a conflict
            continue
        kept.setdefault((first, catalogue.class_of(first)), first)
        stays = kept.setdefault((first, catalogue.class_of(other)), other)
        if stays != other:
            detail = f"copy of {catalogue.source_of(stays)}"
            catalogue.leave_out([other], "duplicate", detail)
            dropped += 1
    return dropped


def drop_leaks(catalogue: Catalogue, found: Duplicates, *, folds: bool) -> int:
    """Exclude photos of the official split that have a copy in a later part of it.

    These are photos of the training part that are copies of a photo of the test or validation part,
    or look like it, and photos of the validation part with such a photo in the test part. Photos
    that are connected through others count too.

    Args:
        folds: whether the training and validation parts are drawn again, so are one part.

    Returns:
        The number of excluded photos.
    """
    photos = catalogue.columns()
    ids, parts = photos["id"], photos["given"]
    if folds:
        parts = np.where(parts == 1, 0, parts)
    units = units_of(ids, np.zeros(len(ids), dtype=np.int64), found.links())
    last = np.full(len(ids), -1, dtype=parts.dtype)  # the last part of each unit
    np.maximum.at(last, units, parts)
    stays = parts == last[units]
    twins = dict(zip(units[stays][::-1].tolist(), ids[stays][::-1].tolist(), strict=True))
    for number, unit in zip(ids[~stays].tolist(), units[~stays].tolist(), strict=True):
        detail = f"shows what a {SPLITS[last[unit]]} photo shows: "
        catalogue.leave_out([number], "leak", detail + catalogue.source_of(twins[unit]))
    return int(np.count_nonzero(~stays))


def _exact_groups(catalogue: Catalogue) -> list[list[int]]:
    """Return groups of photos with equal pixels, as sorted numbers."""
    links = [(numbers[0], other) for numbers in catalogue.equal_files() for other in numbers[1:]]
    # Files of different bytes may hold equal pixels. Only those whose fingerprints are equal are
    # decoded again.
    for alike in catalogue.equal_fingerprints():
        links += _equal_pixels(alike, catalogue.plan.quality)
    ids = np.unique(np.array(links, dtype=np.int64))
    groups: dict[int, list[int]] = {}
    for number, unit in zip(ids.tolist(), _connected(ids, links).tolist(), strict=True):
        groups.setdefault(unit, []).append(number)
    return sorted(groups.values())


def _equal_pixels(alike: list[tuple[int, Path, str, bool]], quality: int) -> list[tuple[int, int]]:
    """Return pairs of photos with equal pixels.

    Args:
        alike: (number, stored file, its SHA-256, whether it was encoded as JPEG again).
        quality: of the photos that were encoded as JPEG again. They have lost their pixels, so
            other photos are compared with them in that encoding.
    """
    links: list[tuple[int, int]] = []
    by_pixels: dict[bytes, int] = {}
    by_jpeg: dict[str, int] = {}
    encoded_again = {digest: number for number, _, digest, again in alike if again}
    for number, file, _, again in alike:
        if again:
            continue
        with Image.open(file) as image:
            pixels_HWC = np.asarray(image.convert("RGB"))
        key = hashlib.sha256(repr(pixels_HWC.shape).encode() + pixels_HWC.tobytes()).digest()
        first = by_pixels.setdefault(key, number)
        if first != number:
            links.append((first, number))
        elif encoded_again:
            content = encode_image(Image.fromarray(pixels_HWC), ".jpg", quality)
            by_jpeg.setdefault(hashlib.sha256(content).hexdigest(), number)
    links += [(by_jpeg[digest], n) for digest, n in encoded_again.items() if digest in by_jpeg]
    return links


def _near(catalogue: Catalogue, distance: int, copies: list[int]) -> list[tuple[int, int, int]]:
    """Find the pairs that look alike, without the photos `copies`."""
    numbers, hashes = catalogue.hashes()
    here = ~np.isin(numbers, copies)
    numbers, hashes = numbers[here], hashes[here]
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


def _connected(ids: np.ndarray, links: list[tuple[int, int]]) -> np.ndarray:
    """Return the number of the connected component of each photo of `ids`."""
    pairs = np.array(links, dtype=np.int64).reshape(-1, 2)
    return units_of(ids, np.zeros(len(ids), dtype=np.int64), pairs)


def units_of(ids: np.ndarray, groups: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Return the number of each photo's unit: photos connected by a group or as duplicates.

    Args:
        ids: numbers of the photos, sorted, `(N,)`.
        groups: number of each photo's group, 0: none, `(N,)`.
        links: pairs of numbers of duplicates, `(P, 2)`; numbers that are not in `ids` are ignored.
    """
    here = np.isin(links, ids).all(axis=1)
    ends = np.searchsorted(ids, links[here])
    in_group = np.flatnonzero(groups)
    rows = np.concatenate([ends[:, 0], in_group])
    columns = np.concatenate([ends[:, 1], len(ids) + groups[in_group]])
    # Every node takes the lowest number among its neighbours, and that node's number, until none
    # changes. (scipy's connected components would take longer to import than this runs.)
    lowest = np.arange(len(ids) + int(groups.max(initial=0)) + 1)
    while True:
        before = lowest.copy()
        np.minimum.at(lowest, rows, lowest[columns])
        np.minimum.at(lowest, columns, lowest[rows])
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return np.unique(lowest[: len(ids)], return_inverse=True)[1]

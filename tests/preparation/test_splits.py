"""Fractions, classes and units: what must hold for every split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacked_ram.preparation.duplicates import units_of
from stacked_ram.preparation.splits import TooFew, assign_units

FRACTIONS = st.sampled_from([[0.6, 0.2, 0.2], [0.8, 0.2, 0.0], [0.7, 0.0, 0.3], [1.0] * 5, [1.0]])


def lots(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**62, count)


def sizes_of(
    classes: list[int], fractions: list[float], units: list[int] | None = None, fixed=None
) -> list[list[int]]:
    """Return the number of photos in each part, for every class that has photos."""
    count = len(classes)
    own = np.arange(count) if units is None else np.array(units)
    parts = assign_units(np.array(classes), own, lots(5, count), fractions, fixed)
    return [
        np.bincount(parts[np.array(classes) == klass], minlength=len(fractions)).tolist()
        for klass in np.unique(classes)
    ]


def test_single_photos_by_hand() -> None:
    assert sizes_of([0] * 10, [0.6, 0.2, 0.2]) == [[6, 2, 2]]
    # 4.5, 2.7 and 1.8: the two that are left after rounding down go to the largest remainders
    assert sizes_of([0] * 9, [0.5, 0.3, 0.2]) == [[4, 3, 2]]
    # of equal remainders another class begins with another part
    assert sizes_of([0] * 7 + [1] * 7, [1.0] * 5) == [[2, 2, 1, 1, 1], [1, 2, 2, 1, 1]]
    # every part gets a photo, from the largest
    assert sizes_of([0] * 10, [0.9, 0.05, 0.05]) == [[8, 1, 1]]
    assert sizes_of([0] * 3, [0.6, 0.2, 0.2]) == [[1, 1, 1]]
    assert sizes_of([0] * 10, [0.8, 0.2, 0.0]) == [[8, 2, 0]]
    assert sizes_of([0] * 40, [0.1, 0.7, 0.2]) == [[4, 28, 8]]
    assert assign_units(*(np.zeros(0, np.int64),) * 3, [0.5, 0.5]).tolist() == []


def test_photos_whose_part_is_decided_count_by_hand() -> None:
    fixed = np.array([0] * 6 + [-1] * 4)
    assert sizes_of([0] * 10, [0.6, 0.2, 0.2], fixed=fixed) == [[6, 2, 2]]
    # more than its share is in part 1: the other five are divided as 6 to 2
    fixed = np.array([1] * 5 + [-1] * 5)
    assert sizes_of([0] * 10, [0.6, 0.2, 0.2], fixed=fixed) == [[4, 5, 1]]
    # a unit goes with its decided photos, and a part of 0 may get those
    fixed, units = np.array([2, 2, 2] + [-1] * 7), [0, 0, 0, 3, 4, 5, 6, 7, 8, 9]
    assert sizes_of([0] * 10, [0.5, 0.5, 0.0], units, fixed) == [[4, 3, 3]]


def test_units_by_hand() -> None:
    """The largest first, each to the part that lacks most photos of its classes."""
    units = [0] * 4 + [1] * 2 + [2, 3, 4, 5]
    assert sizes_of([0] * 10, [0.5, 0.5], units) == [[5, 5]]
    # the last photo goes to the first of two parts that lack one each
    assert sizes_of([0] * 9, [1.0] * 3, [0] * 4 + [1] * 2 + [2] * 2 + [3]) == [[4, 3, 2]]
    classes, units = np.zeros(6, np.int64), np.array([0, 0, 0, 1, 1, 1])
    first = assign_units(classes, units, np.array([5, 1, 9, 3, 2, 4]), [2.0, 1.0])
    assert first.tolist() == [0, 0, 0, 1, 1, 1], "by the lowest lot of the unit"
    first = assign_units(classes, units, np.array([5, 6, 2, 3, 1, 4]), [2.0, 1.0])
    assert first.tolist() == [1, 1, 1, 0, 0, 0]
    # a small unit has lower lots than a large one, but the large one is first
    units = np.array([0, 0, 1, 1, 1, 1])
    parts = assign_units(classes, units, np.arange(6), [2.0, 1.0])
    assert parts.tolist() == [1, 1, 0, 0, 0, 0]
    # no photo has class 1, as where all of a class are in the official test part
    units = [0] * 4 + [1] * 4 + [*range(2, 8)]
    assert sizes_of([2] * 10 + [0] * 4, [0.5, 0.5], units) == [[2, 2], [5, 5]]


def test_a_unit_goes_where_its_rarest_class_is_lacking() -> None:
    classes = [0] * 100 + [1] * 4
    units = [*range(103), 99]  # the last photo of each class is the same photo
    fixed = np.full(104, -1)
    fixed[:10], fixed[100:102] = 1, 0
    parts = assign_units(np.array(classes), np.array(units), lots(0, 104), [0.5, 0.5], fixed)
    assert parts[99] == parts[103] == 1
    assert np.bincount(parts[:100]).tolist() == [50, 50] and parts[100:].tolist() == [0, 0, 1, 1]


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(5, 60), min_size=1, max_size=6),
    fractions=FRACTIONS,
    seed=st.integers(0, 99),
)
def test_single_photos_meet_the_fractions(
    counts: list[int], fractions: list[float], seed: int
) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    parts = assign_units(classes, np.arange(len(classes)), lots(seed, len(classes)), fractions)
    for klass, count in enumerate(counts):
        in_part = np.bincount(parts[classes == klass], minlength=len(fractions))
        assert in_part.sum() == count
        for part, fraction in enumerate(fractions):
            exact = fraction / sum(fractions) * count
            assert (in_part[part] > 0) == (fraction > 0)
            assert abs(in_part[part] - exact) <= 1 or (in_part[part] == 1 and exact < 1)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=12, max_size=60),
    class_count=st.integers(1, 3),
    mixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_units_stay_whole(sizes: list[int], class_count: int, mixed: bool, seed: int) -> None:
    units = np.repeat(np.arange(len(sizes)), sizes)
    by_photo = np.arange(len(units)) % class_count
    classes = by_photo if mixed else units % class_count
    parts = assign_units(classes, units, lots(seed, len(units)), [0.6, 0.2, 0.2])
    for unit in range(len(sizes)):
        assert len(set(parts[units == unit])) == 1
    for klass in range(class_count):
        in_part = np.bincount(parts[classes == klass], minlength=3)
        assert (in_part > 0).all()
        assert abs(in_part[0] / in_part.sum() - 0.6) < 0.45


def test_the_seed_changes_the_photos_but_not_their_number() -> None:
    classes = np.repeat([0, 1], 50)
    units = np.arange(100)
    first, second, again = (
        assign_units(classes, units, lots(s, 100), [3, 1, 1]) for s in (1, 2, 1)
    )
    assert (first == again).all()
    assert (first != second).any()
    assert (np.bincount(first) == np.bincount(second)).all()


@pytest.mark.parametrize(("count", "units"), [(2, [0, 1]), (5, [0] * 5), (4, [0, 0, 1, 1])])
def test_too_few_names_the_class(count: int, units: list[int]) -> None:
    classes = np.array([0] * 30 + [1] * count)
    all_units = np.concatenate([np.arange(100, 130), units])
    with pytest.raises(TooFew) as few:
        assign_units(classes, all_units, lots(0, len(classes)), [0.6, 0.2, 0.2])
    assert (few.value.klass, few.value.photos, few.value.units) == (1, count, len(set(units)))


def test_folds_of_equal_classes_have_the_same_size() -> None:
    """Remainders are spread over the folds, not given to the first ones."""
    classes = np.repeat(np.arange(10), 11)
    parts = assign_units(classes, np.arange(110), lots(3, 110), [1.0] * 5)
    assert np.bincount(parts).tolist() == [22] * 5


def test_as_many_folds_as_there_are_photos() -> None:
    parts = assign_units(np.zeros(300, np.int64), np.arange(300), lots(1, 300), [1.0] * 300)
    assert sorted(parts) == list(range(300))


def test_units_are_connected_by_groups_and_by_copies() -> None:
    ids = np.array([2, 3, 5, 7, 11, 13])
    groups = np.array([0, 1, 1, 0, 2, 0])
    links = np.array([[2, 3], [7, 11], [7, 99]])  # 99 was left out
    units = units_of(ids, groups, links)
    assert units[0] == units[1] == units[2]
    assert units[3] == units[4]
    assert len(set(units)) == 3
    assert len(set(units_of(ids, groups * 0, links[:0]))) == 6


@settings(max_examples=100, deadline=None)
@given(fractions=FRACTIONS, seed=st.integers(0, 999))
def test_fixed_parts_are_kept_and_counted(fractions: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(3), 30)
    units = np.arange(90)
    units[rng.integers(0, 30, 6)] = 0  # a unit of several photos of the first class
    fixed = np.where(rng.random(90) < 0.2, rng.integers(0, len(fractions), 90), -1)[units]
    parts = assign_units(classes, units, lots(seed, 90), fractions, fixed)
    assert (parts[fixed >= 0] == fixed[fixed >= 0]).all()
    assert len(np.unique(np.stack([units, parts]), axis=1).T) == len(np.unique(units))
    exact = np.array(fractions) / sum(fractions) * 30
    for klass in (1, 2):
        of_class = classes == klass
        if (np.bincount(fixed[of_class & (fixed >= 0)], minlength=len(exact)) <= exact).all():
            assert np.abs(np.bincount(parts[of_class], minlength=len(exact)) - exact).max() <= 2

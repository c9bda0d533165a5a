"""Assign photos to splits: by the official split, ratios, groups and folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.damage import HEIF_INSTALL, NEEDS_HEIF
from stacked_ram.preparation.duplicates import Duplicates, drop_leaks, units_of
from stacked_ram.preparation.multi_label import split_labels
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.sources.common import Source
from stacked_ram.preparation.splits import TooFew, assign_units
from stacked_ram.runtime.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TRAIN, VALID, TEST = range(3)


@dataclass(frozen=True)
class SplitPlan:
    """The way to split, decided before any photo is decoded.

    Attributes:
        rule: in words, for dataset.yaml.
        official: whether the official split is used.
        fractions: part -> its fraction of the photos from which it is drawn; empty if the official
            split is complete, so that nothing is drawn.
    """

    rule: str
    official: bool
    fractions: dict[int, float]


@dataclass
class SplitOutcome:
    """Problems of the split, for the report.

    Attributes:
        leaks: pairs of numbers of photos that are the same photo in two splits.
        notes: messages for the user.
    """

    leaks: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_splits(catalogue: Catalogue, source: Source, options: PrepareOptions) -> SplitPlan:
    """Decide which parts must be drawn, and from which photos.

    Raises:
        UserError: a class has too few photos; a ratio is given for a part that the official split
            has; or the official split has no training photos.
    """
    official = bool(source.split_name) and options.split != "ratio"
    if options.drop_leaks and not official:
        raise UserError(
            "--drop-leaks: SOURCE has no official split, and a split that is drawn keeps copies "
            "together: leave it out"
        )
    if official:
        rule, fractions = _follow_official(catalogue, source, options)
    else:
        rule, fractions = _draw_all(options)
    if options.multi_label:
        rule = rule.replace("stratified", "stratified by labels (Sechidis et al., 2011)")
    if options.folds is not None:
        rule += f"; {options.folds} folds outside test, fold 0 written as valid"
    plan = SplitPlan(rule, official, fractions)
    _check_feasible(catalogue, plan, options)
    return plan


def _draw_all(options: PrepareOptions) -> tuple[str, dict[int, float]]:
    """Return the rule and the fractions if the whole split is drawn."""
    # With folds, all photos outside test are divided among the folds.
    valid = 0.0 if options.folds is not None else options.valid_fraction
    test = options.test_fraction
    fractions = {TRAIN: 1 - valid - test, VALID: valid, TEST: test}
    text = ", ".join(
        f"{fraction:.4g} {SPLITS[part]}"
        for part, fraction in fractions.items()
        if options.folds is None or part == TEST
    )
    return (
        f"drawn by seed {options.seed}: {text}; stratified, groups and duplicates kept together",
        fractions,
    )


def _follow_official(
    catalogue: Catalogue, source: Source, options: PrepareOptions
) -> tuple[str, dict[int, float]]:
    """Return the rule and the fractions if the official split is used and its gaps are drawn."""
    given = catalogue.given_counts()
    if not given.get("train"):
        raise UserError(f"{source.split_name} has no training photos: give --split ratio")
    for name, ratio in [("valid", options.valid_ratio), ("test", options.test_ratio)]:
        if ratio is not None and given.get(name):
            raise UserError(
                f"--{name}-ratio {ratio:g}: {source.split_name} has its own {name} part: remove "
                "the ratio, or give --split ratio to draw another split"
            )
    rule, fractions = source.split_name, {}
    # With folds, train and valid are drawn again in any case, so neither is missing.
    if not given.get("valid") and options.valid_fraction and options.folds is None:
        fractions[VALID] = options.valid_fraction
    if not given.get("test") and options.test_fraction:
        fractions[TEST] = options.test_fraction
    if fractions:
        drawn = " and ".join(
            f"{fraction:.4g} for {SPLITS[part]}" for part, fraction in fractions.items()
        )
        rule += f"; of its training photos {drawn}, drawn by seed {options.seed}, stratified"
        fractions[TRAIN] = 1 - sum(fractions.values())
    return rule, fractions


def _check_feasible(catalogue: Catalogue, plan: SplitPlan, options: PrepareOptions) -> None:
    """Refuse a split that is impossible even if all photos are usable and none is a duplicate."""
    if not plan.fractions and options.folds is None:  # nothing is drawn
        return
    if catalogue.multi_label:  # a rare label need not be in every part
        return
    names = sorted(catalogue.class_counts())
    photos = catalogue.columns(usable=False)
    units = units_of(photos["id"], photos["group"], np.empty((0, 2), dtype=np.int64))
    given = photos["given"] if plan.official else np.full(len(units), TRAIN)
    needed = []
    if plan.fractions:
        needed.append((given == TRAIN, sum(map(bool, plan.fractions.values())), _parts_text(plan)))
    if options.folds is not None:
        takes_test = not plan.official and bool(plan.fractions[TEST])
        outside = (given == TRAIN) | (given == VALID)
        needed.append((outside, options.folds + takes_test, f"{options.folds} folds"))
    for inside, parts, what in needed:
        classes = photos["klass"][inside]
        in_unit = np.unique(np.stack([classes, units[inside]], axis=1), axis=0)[:, 0]
        groups = np.bincount(in_unit)  # of each class
        few = np.flatnonzero((groups > 0) & (groups < parts))
        if len(few):
            count = int(np.count_nonzero(classes == few[0]))
            raise _too_few(names[few[0]], _number(count, "photo"), groups[few[0]], what)


def assign_splits(
    catalogue: Catalogue,
    source: Source,
    options: PrepareOptions,
    plan: SplitPlan,
    found: Duplicates,
) -> SplitOutcome:
    """Assign every usable photo to a split, a group and, with --folds, a fold.

    Raises:
        UserError: a class has too few usable photos; the message names it.
    """
    outcome = SplitOutcome()
    _must_have_photos(catalogue)
    if plan.official:
        unnamed = catalogue.given_counts().get(None, 0)
        if unnamed:
            catalogue.leave_out_unnamed()
            outcome.notes.append(f"{unnamed} photos are not named by {source.split_name}: left out")
            _must_have_photos(catalogue)
    if options.drop_leaks:
        dropped = drop_leaks(catalogue, found, folds=options.folds is not None)
        outcome.notes.append(f"{dropped} photos with a copy in a later split: left out")
        if dropped and not np.any(catalogue.columns()["given"] == TRAIN):
            raise UserError(
                f"--drop-leaks: no training photo of {source.split_name} is left, each has a copy "
                "in another part: leave the option out, or give --split ratio"
            )
    names = sorted(catalogue.class_counts(usable=True))
    photos = catalogue.columns()
    labels = _labels(catalogue, names, photos["klass"]) if catalogue.multi_label else None
    units = units_of(photos["id"], photos["group"], found.links())
    parts = np.full(len(units), TRAIN, dtype=np.int8)
    if plan.official:
        parts = photos["given"].astype(np.int8)
    if plan.fractions:
        inside = parts == TRAIN
        wanted = [plan.fractions.get(part, 0.0) for part in range(3)]
        fixed = _fixed_parts(photos, units, inside, plan, catalogue)
        parts[inside] = _assign(
            photos, units, inside, wanted, names, _parts_text(plan), found, fixed, labels
        )
    parts = np.where(photos["moved"] >= 0, photos["moved"], parts)
    folds = np.full(len(units), -1, dtype=np.int32)
    if options.folds is not None:
        inside = parts != TEST
        folds[inside] = _assign(
            photos,
            units,
            inside,
            [1.0] * options.folds,
            names,
            f"{options.folds} folds",
            found,
            labels=labels,
        )
        parts[inside] = np.where(folds[inside] == 0, VALID, TRAIN)
    _report_leaks(outcome, photos, parts, found, catalogue)
    for klass, name in enumerate(names):
        if labels is None:
            members = np.flatnonzero(photos["klass"] == klass)
        else:
            members = labels[:, [klass]].nonzero()[0]
        counts = np.bincount(parts[members], minlength=3)
        missing = [SPLITS[part] for part in np.unique(parts) if not counts[part]]
        if missing:
            outcome.notes.append(f"class {name!r} has no photo in {' and '.join(missing)}")
    catalogue.set_splits(_rows(catalogue, photos, units, parts, folds))
    return outcome


def _fixed_parts(
    photos: dict[str, np.ndarray],
    units: np.ndarray,
    inside: np.ndarray,
    plan: SplitPlan,
    catalogue: Catalogue,
) -> np.ndarray | None:
    """Return the part of each photo `inside` whose unit --fixes moves, otherwise -1.

    If an official split is followed, only its training photos are divided, so a photo that is moved
    to another part does not take its unit along.

    Raises:
        UserError: photos of one unit are moved to different splits.
    """
    moved = inside & (photos["moved"] >= 0)
    if not moved.any():
        return None
    part_of: dict[int, int] = {}
    for index in np.flatnonzero(moved).tolist():
        unit, part = int(units[index]), int(photos["moved"][index])
        if part_of.setdefault(unit, part) != part:
            here = moved & (units == unit)
            first = np.flatnonzero(here & (photos["moved"] == part_of[unit]))[0]
            names = [catalogue.source_of(int(photos["id"][i])) for i in (first, index)]
            raise UserError(
                f"--fixes moves {names[0]} to {SPLITS[part_of[unit]]} and {names[1]} to "
                f"{SPLITS[part]}, but copies and photos of one group stay together: move both to "
                "the same split, or drop one"
            )
    return np.array([part_of.get(int(unit), -1) for unit in units[inside]])


def _must_have_photos(catalogue: Catalogue) -> None:
    usable = catalogue.class_counts(usable=True)
    for name, count in catalogue.class_counts().items():
        if name not in usable:
            reasons = catalogue.reasons(name)
            raise UserError(
                f"class {name!r}: none of its {count} photos can be used ({reasons}): "
                + (f"{HEIF_INSTALL}; or " if NEEDS_HEIF in reasons else "")
                + "add photos, or name the other classes with --classes"
            )


def _assign(
    photos: dict[str, np.ndarray],
    units: np.ndarray,
    inside: np.ndarray,
    fractions: list[float],
    names: list[str],
    what: str,
    found: Duplicates,
    fixed: np.ndarray | None = None,
    labels: csr_matrix | None = None,
) -> np.ndarray:
    if labels is not None:
        from stacked_ram.preparation.iterative_stratification import assign_iteratively

        own = labels[np.flatnonzero(inside)]
        parts = assign_iteratively(own, units[inside], photos["lot"][inside], fractions, fixed)
        wanted = np.count_nonzero(fractions)
        if len(np.unique(parts)) < wanted:
            text = _number(len(parts), "usable photo")
            raise UserError(f"{text}: too few for {what}: add photos, or ask for fewer parts")
        return parts
    try:
        return assign_units(
            photos["klass"][inside], units[inside], photos["lot"][inside], fractions, fixed
        )
    except TooFew as few:
        photos_text = _number(few.photos, "usable photo")
        exact = np.array(found.exact, dtype=np.int64).reshape(-1, 2)
        of_class = inside & (photos["klass"] == few.klass)
        apart = len(np.unique(units_of(photos["id"], photos["group"], exact)[of_class]))
        alike = few.units < apart  # photos that look alike make the groups few
        raise _too_few(names[few.klass], photos_text, few.units, what, alike) from few


def _labels(catalogue: Catalogue, names: list[str], klass: np.ndarray) -> csr_matrix:
    """Return a matrix with 1 where a usable photo (row) has a label (column)."""
    from scipy.sparse import csr_matrix

    number_of = {name: number for number, name in enumerate(names)}
    sets = [split_labels(text) for text in sorted(catalogue.class_texts(usable=True))]
    rows = [row for row, found in enumerate(sets) for _ in found]
    columns = [number_of[name] for found in sets for name in found]
    ones = np.ones(len(rows), dtype=np.int64)
    return csr_matrix((ones, (rows, columns)), shape=(len(sets), len(names)))[klass]


def _parts_text(plan: SplitPlan) -> str:
    parts = (SPLITS[part] for part in range(3) if plan.fractions.get(part))
    return f"a split into {', '.join(parts)}"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _too_few(name: str, photos_text: str, groups: int, what: str, alike: bool = False) -> UserError:
    fewer = "folds" if what.endswith("folds") else "parts (a ratio of 0)"
    remedy = f"add photos, exclude the class with --classes, or ask for fewer {fewer}"
    if alike:
        remedy = (
            "photos that look alike stay together; if they are different photos, give "
            f"--near-duplicates -1; otherwise {remedy}"
        )
    return UserError(
        f"class {name!r} has {photos_text} in {_number(groups, 'group')}, too few for {what}: "
        f"{remedy}"
    )


def _report_leaks(
    outcome: SplitOutcome,
    photos: dict[str, np.ndarray],
    parts: np.ndarray,
    found: Duplicates,
    catalogue: Catalogue,
) -> None:
    """Report duplicates and groups that are in two splits."""
    links = found.links()
    links = links[np.isin(links, photos["id"]).all(axis=1)]
    ends = parts[np.searchsorted(photos["id"], links)]
    outcome.leaks = [tuple(pair) for pair in links[ends[:, 0] != ends[:, 1]].tolist()]
    if outcome.leaks:
        first, second = outcome.leaks[0]
        outcome.notes.append(
            f"{len(outcome.leaks)} pairs of copies of a photo are in two splits of the source (not "
            f"moved), such as {catalogue.source_of(first)} and {catalogue.source_of(second)}"
        )
    grouped = photos["group"] > 0
    pairs = np.unique(np.stack([photos["group"][grouped], parts[grouped]], axis=1), axis=0)
    across = np.count_nonzero(np.unique(pairs[:, 0], return_counts=True)[1] > 1)
    if across:
        outcome.notes.append(f"{across} groups are in two splits of the source (not moved)")


def _rows(
    catalogue: Catalogue,
    photos: dict[str, np.ndarray],
    units: np.ndarray,
    parts: np.ndarray,
    folds: np.ndarray,
) -> Iterator[tuple[str, int | None, str, int]]:
    """Iterate over (split, fold, group, number) of every photo.

    A unit of several photos is a group, with the name of the group of its first photo that has one,
    or else the number of its first photo. A single photo without a group stays without one.
    """
    sizes = np.bincount(units)
    group_names: dict[int, str] = {}
    named = np.flatnonzero((sizes[units] > 1) | (photos["group"] > 0))
    for index in named.tolist():
        unit = int(units[index])
        if photos["group"][index] and not group_names.get(unit, "").startswith("group "):
            own = catalogue.group_name(int(photos["id"][index]))
            group_names[unit] = f"group {own}"
        group_names.setdefault(unit, f"same {int(photos['id'][index])}")
    for index in range(len(units)):
        group = group_names.get(int(units[index]), "")
        fold = int(folds[index]) if folds[index] >= 0 else None
        yield SPLITS[parts[index]], fold, group, int(photos["id"][index])

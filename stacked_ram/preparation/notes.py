"""What is remarkable about a preparation: notes in words, and pairs of photos for the report."""

from __future__ import annotations

from collections.abc import Iterator

from stacked_ram.preparation.assign_splits import SplitOutcome, SplitPlan
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.damage import HEIF_INSTALL, NEEDS_HEIF
from stacked_ram.preparation.depth import FEW_LEVELS, FULL, common_white
from stacked_ram.preparation.duplicates import Duplicates
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources.common import Source
from stacked_ram.preparation.summary import DUPLICATES_NOTE

PAIRS_SHOWN = 200


def notes_of(
    catalogue: Catalogue,
    source: Source,
    options: PrepareOptions,
    plan: SplitPlan,
    found: Duplicates,
    left_out: int,
    outcome: SplitOutcome,
    *,
    jpegs_checked: bool,
) -> list[str]:
    """Return what dataset.yaml and the summary say of the source, its photos and the split.

    Args:
        jpegs_checked: whether the data of JPEG photos could be checked for damage.
    """
    notes = list(source.notes)
    if found.exact or found.near:
        notes.append(
            DUPLICATES_NOTE.format(len(found.exact), len(found.near))
            + ": "
            + ("kept in the splits of the source" if plan.official else "kept in one split")
            + (", one of each group of exact ones" if options.drop_duplicates else "")
        )
    conflicts = found.conflicts + (found.near_conflicts if options.drop_near_conflicts else [])
    if conflicts:
        fate = f"{left_out} left out" if left_out else "kept (--keep-conflicts)"
        notes.append(f"{len(conflicts)} pairs show the same photo under two labels: {fate}")
    if found.near_conflicts and not options.drop_near_conflicts:
        count = len(found.near_conflicts)
        notes.append(
            f"{count} pair{'s look' if count > 1 else ' looks'} alike, but "
            f"{'have' if count > 1 else 'has'} two labels: kept (see the report; "
            "--drop-near-conflicts leaves them out)"
        )
    deep, top = catalogue.undeclared_16_bit()
    if deep and (white := options.sixteen_bit_max or common_white(top)) < FULL:
        why = "--sixteen-bit-max" if options.sixteen_bit_max else "none is brighter"
        notes.append(f"{deep} 16-bit photos declare no white: {white} was used ({why})")
    if flat := catalogue.repair_count("few_grey_levels"):
        notes.append(
            f"{flat} 16-bit photos have fewer than {FEW_LEVELS} grey levels once in 8 bits: if "
            "they should not be so dark, give their white with --sixteen-bit-max"
        )
    if heic := catalogue.problem_count(NEEDS_HEIF):
        notes.append(f"{heic} HEIC photos are left out: {HEIF_INSTALL}, then run again")
    if not jpegs_checked:
        notes.append(
            "the data of JPEG photos were not checked for damage: this build of OpenCV does not "
            "pass on the warnings of its decoder"
        )
    if catalogue.multi_label and (bare := catalogue.class_texts(usable=True).get("")):
        notes.append(f"{bare} photos have no label")
    if lost := catalogue.boxes_lost():
        notes.append(f"{lost} boxes were drawn on photos of another size and are not used")
    return notes + outcome.notes


def pairs_to_show(found: Duplicates, outcome: SplitOutcome) -> Iterator[tuple[str, int, int]]:
    """Iterate over pairs for the report, conflicts and leaks first: a reader must see those."""
    conflicts, leaks = {*found.conflicts, *found.near_conflicts}, set(outcome.leaks)
    near = {(first, second): bits for first, second, bits in found.near}
    pairs = [
        *found.conflicts, *outcome.leaks, *found.near_conflicts, *found.exact, *near,
    ]  # fmt: skip
    for first, second in list(dict.fromkeys(pairs))[:PAIRS_SHOWN]:
        caption = f"near ({near[first, second]} bits)" if (first, second) in near else "exact"
        caption += ", two labels" if (first, second) in conflicts else ""
        caption += ", in two splits" if (first, second) in leaks else ""
        yield caption, first, second

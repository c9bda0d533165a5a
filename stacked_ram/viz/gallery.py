"""Galleries: the photos that say most about a model, chosen by its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from stacked_ram.viz.key import box_marks, draw_key, key_height, step_marks
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.style import (
    EDGE,
    INK,
    PAGE,
    QUIET,
    Sheet,
    fitted,
    is_narrow,
    page_width,
    styled,
    text_width,
)
from stacked_ram.viz.thumbnails import CAPTION, ROOMY, draw_small, panels, small_size
from stacked_ram.viz.whole_set import WholeSet

Choose = Callable[[WholeSet, int], np.ndarray]

COLUMNS = 4
PHOTOS = 12
PAIRS, EACH = 4, 4


def best(whole: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of the photos whose true class got the highest probability."""
    return np.argsort(-whole.true_N, kind="stable")[:count]


def worst(whole: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of the most confident wrong predictions."""
    wrong = np.flatnonzero(~whole.right_N)
    return wrong[np.argsort(-whole.confidence_N[wrong], kind="stable")][:count]


def changed(whole: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows where the prediction changed most often, then those where the probability of the true
    class moved most. Empty where no prediction changed."""
    swing = np.ptp(whole.true_NT, axis=1)
    order = np.lexsort((-swing, -whole.changes_N))
    return order[whole.changes_N[order] > 0][:count]


def enough(whole: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of the photos that needed the fewest glimpses, the surest first; empty where the model
    was not made to stop."""
    return by_used(whole, whole.used_N == (0 if whole.has_glance else 1), count)


def needed_all(whole: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of the photos that needed every glimpse, the least sure first."""
    return by_used(whole, whole.used_N == whole.steps, count, surest=False)


def by_used(
    whole: WholeSet, wanted_N: np.ndarray, count: int, *, surest: bool = True
) -> np.ndarray:
    if whole.stop is None:
        return np.array([], int)
    rows = np.flatnonzero(wanted_N)
    sign = -1 if surest else 1
    return rows[np.argsort(sign * whole.confidence_N[rows], kind="stable")][:count]


def choices(whole: WholeSet) -> dict[str, tuple[str, Choose]]:
    """The galleries by name, with their titles."""
    fewest = "A glance was enough" if whole.has_glance else "One glimpse was enough"
    return CHOICES | {
        "enough": (fewest, enough),
        "needed_all": ("Needed every glimpse", needed_all),
    }


def confused(
    whole: WholeSet, pairs: int = PAIRS, each: int = EACH
) -> list[tuple[int, int, np.ndarray]]:
    """The pairs of classes that are confused most, as (true, predicted, rows), the rows with the
    most confident mistakes first."""
    wrong = np.flatnonzero(~whole.right_N)
    true, predicted = whole.labels_N[wrong], whole.predicted_N[wrong]
    found, counts = np.unique(np.stack([true, predicted], 1), axis=0, return_counts=True)
    result = []
    for pair in np.argsort(-counts, kind="stable")[:pairs]:
        rows = wrong[(true == found[pair, 0]) & (predicted == found[pair, 1])]
        rows = rows[np.argsort(-whole.confidence_N[rows], kind="stable")]
        result.append((int(found[pair, 0]), int(found[pair, 1]), rows[:each]))
    return result


def pair_title(whole: WholeSet, true: int, predicted: int) -> str:
    return f"{whole.name(true)}, taken for {whole.name(predicted)}"


def one_per_class(whole: WholeSet) -> np.ndarray:
    """A row for each class: its photo of median confidence in the true class."""
    rows = []
    for label in whole.labels:
        mine = np.flatnonzero(whole.photos_of(label))
        rows.append(mine[np.argsort(whole.true_N[mine], kind="stable")[len(mine) // 2]])
    return np.array(list(dict.fromkeys(rows)))


CHOICES: dict[str, tuple[str, Choose]] = {
    "best": ("Most confident right predictions", best),
    "worst": ("Most confident wrong predictions", worst),
    "changed": ("Predictions that changed most often", changed),
}


def gallery_figure(photos: list[PhotoRecord], title: str) -> Figure:
    """Small scan paths under a heading."""
    return rows_figure([("", photos)], title, "", COLUMNS)


@styled
def rows_figure(
    groups: Sequence[tuple[str, list[PhotoRecord]]], title: str, more: str, columns: int
) -> Figure:
    """Groups of small scan paths, each group under its name. columns: in a row of a page."""
    shown = [record for _, photos in groups for record in photos]
    width = page_width()
    columns = round(columns * width / PAGE) // max(len(panels(record)) for record in shown)
    columns = max(1, columns)
    gap = EDGE if columns <= 6 else 0.05
    side = (width - 2 * EDGE + gap) / columns - gap
    rows = []
    for name, photos in groups:
        for start in range(0, len(photos), columns):
            part = photos[start : start + columns]
            tall = max(small_size(record, side, side * 1.15)[1] for record in part)
            rows.append((name if start == 0 else "", part, tall))
    marks = box_marks(shown, nested=False)
    if side < ROOMY:  # no room for numbers
        marks += step_marks(max(record.all_steps for record in shown), has_glance=False)
    inner = width - 2 * EDGE
    y = 0.52 if more and is_narrow() else 0.36
    below = key_height(marks, inner) + 0.04
    height = y + below + sum(tall + CAPTION + (0.24 if name else 0) for name, _, tall in rows)
    sheet = Sheet(width, height)
    title = fitted(title, inner, 10, "bold")
    sheet.text(EDGE, 0.22, title, fontsize=10, fontweight="bold")
    if is_narrow():
        sheet.text(EDGE, 0.39, fitted(more, inner, 7.5), fontsize=7.5, color=QUIET)
    else:
        x = EDGE + text_width(title, 10, "bold") + 0.14
        sheet.text(x, 0.22, fitted(more, width - x, 7.5), fontsize=7.5, color=QUIET)
    for name, part, tall in rows:
        if name:
            sheet.text(EDGE, y + 0.14, fitted(name, inner, 8, "bold"), fontsize=8,
                       fontweight="bold", color=INK)  # fmt: skip
            y += 0.24
        for number, record in enumerate(part):
            draw_small(sheet, record, EDGE + number * (side + gap), y, side, tall)
        y += tall + CAPTION
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure

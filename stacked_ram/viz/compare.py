"""Two models on the same photos, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stacked_ram.viz.belief import beliefs
from stacked_ram.viz.overview import draw_density, legend, map_size, share_axis, step_axis
from stacked_ram.viz.records import PhotoRecord
from stacked_ram.viz.scan_path import draw_small, view_of_seen
from stacked_ram.viz.story import EDGE, fit, view_shape
from stacked_ram.viz.style import (
    FAINT,
    PAGE,
    QUIET,
    RUNS,
    Sheet,
    fitted,
    styled,
    text_width,
)
from stacked_ram.viz.whole_set import WholeSet, interval

PHOTOS = 6


@styled
def compare_figure(
    pairs: Sequence[tuple[PhotoRecord, PhotoRecord]], names: tuple[str, str]
) -> Figure:
    """A row a photo: its scan path by either model, and what each believed of the true class (of
    its own answer, where the true class is not known)."""
    chart = 1.9
    side = (PAGE - chart - 0.75 - 3 * EDGE) / 2
    talls = [
        max(
            fit(view_shape(one, one.surfaces[-1], view_of_seen(one)), side, side)[1] for one in pair
        )
        for pair in pairs
    ]
    sheet = Sheet(PAGE, 0.36 + sum(tall + 0.42 for tall in talls))
    for number, name in enumerate(names):
        x = EDGE + number * (side + EDGE)
        sheet.text(x + side / 2, 0.22, fitted(name, side, 9, "bold"), fontsize=9, ha="center",
                   fontweight="bold", color=RUNS[number])  # fmt: skip
    known = all(pair[0].photo.label is not None for pair in pairs)
    words = "belief in the true class" if known else "belief in its answer"
    sheet.text(PAGE - EDGE - chart / 2, 0.22, words, fontsize=8, ha="center")
    y = 0.34
    for pair, tall in zip(pairs, talls, strict=True):
        for number, one in enumerate(pair):
            draw_small(sheet, one, EDGE + number * (side + EDGE), y, side, tall)
        height = min(tall - 0.1, 1.6)
        axes = sheet.axes(PAGE - EDGE - chart, y + (tall - height) / 2, chart, height)
        draw_pair(axes, pair)
        y += tall + 0.42
    return sheet.figure


def draw_pair(axes: Axes, pair: Sequence[PhotoRecord]) -> None:
    """The belief of two models over their steps."""
    every: set[int] = set()
    for number, one in enumerate(pair):
        steps, belief = beliefs(one)
        label = one.says if one.photo.label is None else one.photo.label
        axes.plot(
            steps, belief[:, label], color=RUNS[number], linewidth=1.8, marker="os"[number],
            markersize=4.5, markeredgecolor="white", markeredgewidth=0.7, clip_on=False, zorder=3,
            linestyle=("-", (0, (4, 1.2)))[number],
        )  # fmt: skip
        every |= set(steps.tolist())
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50", "100 %"])
    axes.hlines([0.5, 1], min(every) - 0.4, max(every) + 0.4, color=FAINT, linewidth=0.5, zorder=0)
    step_axis(axes, np.array(sorted(every)))


@styled
def compare_overview(wholes: tuple[WholeSet, WholeSet], names: tuple[str, str]) -> Figure:
    """Both models over the whole split: accuracy after each glimpse, who is right where, and
    where they look."""
    one, other = wholes
    inner = PAGE - 2 * EDGE
    shape = float(np.median(one.sizes_N2[:, 0] / one.sizes_N2[:, 1]))
    steps = max(one.steps, other.steps)
    cell, tall = map_size(inner - 0.1, max(steps, 4), shape, 1.5)
    sheet = Sheet(PAGE, 0.35 + 2.35 + 2 * (tall + 0.32) + EDGE)
    x = EDGE
    for number, name in enumerate(names):
        sheet.text(x, 0.22, name, fontsize=10, fontweight="bold", color=RUNS[number])
        x += text_width(name, 10, "bold") + 0.15
        if number == 0:
            sheet.text(x, 0.22, "and", fontsize=9, color=QUIET)
            x += 0.42
    accuracy = sheet.axes(EDGE + 0.45, 0.62, 2.9, 1.6)
    bands = []
    for number, whole in enumerate(wholes):
        right = whole.right_NT.mean(0)
        count = len(whole.labels_N)
        band = np.array([interval(round(share * count), count) for share in right])
        places = np.arange(1, whole.steps + 1)
        accuracy.fill_between(places, band[:, 0], band[:, 1], color=RUNS[number], alpha=0.15,
                              linewidth=0)  # fmt: skip
        accuracy.plot(places, right, color=RUNS[number], linewidth=1.6, marker="os"[number],
                      markersize=4.5, linestyle=("-", (0, (4, 1.2)))[number])  # fmt: skip
        bands.append(band)
    share_axis(accuracy, min(band.min() for band in bands), max(band.max() for band in bands))
    step_axis(accuracy, np.arange(1, steps + 1))
    lines = [
        {"color": RUNS[0], "marker": "o", "markersize": 4},
        {"color": RUNS[1], "marker": "s", "markersize": 4, "linestyle": (0, (4, 1.2))},
    ]
    endings = [f"{name}: {100 * whole.right_N.mean():.1f} %"
               for name, whole in zip(names, wholes, strict=True)]  # fmt: skip
    accuracy.set_title("Accuracy", fontweight="bold", loc="left", pad=8)
    legend(accuracy, lines, [fitted(words, 2.2, 6.5) for words in endings])
    draw_agreement(sheet, one.right_N, other.right_N, names)
    y = 2.75
    for number, whole in enumerate(wholes):
        sheet.text(EDGE, y + 0.13, f"{names[number]} looks here at each step", fontsize=7.5,
                   color=RUNS[number], fontweight="bold")  # fmt: skip
        for step in range(whole.steps):
            axes = sheet.axes(EDGE + step * (cell + 0.1), y + 0.2, cell, tall)
            places_N2 = whole.locations_NTS2[:, step, -1]
            draw_density(axes, places_N2, tall / cell, whole.cells_at(step))
        y += tall + 0.32
    return sheet.figure


def draw_agreement(
    sheet: Sheet, one_N: np.ndarray, other_N: np.ndarray, names: tuple[str, str]
) -> None:
    """On how many photos both, one or none is right, as bars."""
    counts = [
        ("both right", int((one_N & other_N).sum()), QUIET),
        (f"only {names[0]}", int((one_N & ~other_N).sum()), RUNS[0]),
        (f"only {names[1]}", int((other_N & ~one_N).sum()), RUNS[1]),
        ("both wrong", int((~one_N & ~other_N).sum()), FAINT),
    ]
    left, width = 3.9, PAGE - EDGE - 3.9
    axes = sheet.bare(left, 0.42, width, 2.0)
    axes.text(0, 0.1, "Photos it gets right", fontweight="bold", va="center_baseline")
    most = max(count for _, count, _ in counts)
    for number, (name, count, colour) in enumerate(counts):
        y = 0.32 + number * 0.42
        axes.text(0, y, fitted(name, width, 7.5), fontsize=7.5, va="center_baseline")
        axes.barh(y + 0.17, (width - 0.6) * count / max(most, 1), 0.15, color=colour)
        axes.text((width - 0.6) * count / max(most, 1) + 0.06, y + 0.17, f"{count:,}", fontsize=7.5,
                  va="center_baseline")  # fmt: skip


def telling(one: WholeSet, other: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of photos that tell two models apart: those that only one gets right, by turns; then
    those where their beliefs in the true class differ most."""
    gap_N = one.true_NT[:, -1] - other.true_NT[:, -1]
    only_one = np.flatnonzero(one.right_N & ~other.right_N)
    only_other = np.flatnonzero(other.right_N & ~one.right_N)
    only_one = only_one[np.argsort(-gap_N[only_one], kind="stable")]
    only_other = only_other[np.argsort(gap_N[only_other], kind="stable")]
    turns = [row for pair in zip(only_one, only_other, strict=False) for row in pair]
    rest = np.argsort(-np.abs(gap_N), kind="stable")
    return np.array(list(dict.fromkeys(int(row) for row in [*turns, *rest]))[:count])

"""The overview of a split: where the model looks, and how good it is after each glimpse."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stacked_ram.evaluation.early_exit import exit_at, exit_curve
from stacked_ram.evaluation.metrics import wilson_interval
from stacked_ram.evaluation.verdict import spread_T
from stacked_ram.viz.belief import percent
from stacked_ram.viz.boxes import draw_tag
from stacked_ram.viz.key import CENTRE, draw_key, key_height, step_marks
from stacked_ram.viz.style import (
    FAINT,
    INK,
    PAGE,
    QUIET,
    RIGHT,
    WRONG,
    Sheet,
    fitted,
    frame,
    page_width,
    shrunk,
    step_colours,
    step_ticks,
    styled,
    text_width,
)
from stacked_ram.viz.whole_set import WholeSet, warnings

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

EDGE = 0.1
LEVELS = 0.2  # inches for the names of levels
DENSITY = mpl.colors.ListedColormap(mpl.colormaps["magma_r"](np.linspace(0.08, 1, 256)))
BINS = 25  # at most; odd, as the rows are, so that the centre lies inside a cell
MOST_CLASSES = 18
CHARTS = 2.1
SCALE = 2.4  # inches that a scale may take beside a heading
RANDOM_DISTANCE = 0.765  # mean distance of random locations from the centre
SPREAD = "#7c93b2"
RANDOM_LINE: LineStyleType = ":"
CENTRE_LINE: LineStyleType = (0, (5, 1.5, 1, 1.5))


@styled
def overview_figure(whole: WholeSet, title: str, threshold: float | None = None) -> Figure:
    """Densities of locations by step and by class, and charts of a whole split.

    threshold: of early exit, to be marked on its curve.
    """
    inner = page_width() - 2 * EDGE
    shape = whole.aspect
    levels = whole.locations_NTS2.shape[2]
    room = inner - (LEVELS if levels > 1 else 0)
    cell, tall = map_size(room, max(whole.steps, 4), shape, 1.5)
    classes = whole.labels[:MOST_CLASSES]
    columns = min(int(inner / 1.05), max(len(classes), 1))
    class_cell, class_tall = map_size(inner, columns, shape, 1.1)
    class_rows = -(-len(classes) // columns)
    notes = warnings(whole)
    charts = [draw_accuracy, draw_distance] + ([draw_inside] if whole.has_boxes else [])
    if whole.can_stop:
        charts.append(partial(draw_exits, threshold=threshold))
    per_row = min(int(inner / 2.3), 2 if len(charts) == 4 else len(charts))
    chart_rows = -(-len(charts) // per_row)
    marks = [CENTRE, *step_marks(whole.steps, whole.has_glance)]
    own = "" if all(whole.chosen_T) else "steps that it does not choose: their own scale"
    some = "" if len(classes) == len(whole.labels) else f", {len(classes)} of them"
    measured = "accuracy" if whole.labels_NC is None else "AP"
    explanation = f"all locations that it chose; the class's {measured}"
    height = (
        0.36 + 0.2 * len(notes) + heading_height(own) + 0.22 + levels * (tall + 0.08) + 0.26
        + chart_rows * CHARTS + 0.2 + heading_height(explanation)
        + class_rows * (class_tall + 0.24) + 0.06 + key_height(marks, inner) + EDGE
    )  # fmt: skip
    sheet = Sheet(page_width(), height)
    sheet.text(EDGE, 0.24, fitted(title, inner, 10, "bold"), fontsize=10, fontweight="bold")
    y = 0.36
    for note in notes:
        text, size = shrunk("⚠ " + note, inner, 8, 6, "bold")
        sheet.text(EDGE, y + 0.1, text, color=WRONG, fontsize=size, fontweight="bold")
        y += 0.2
    y = heading(sheet, y, "Where it looks at each step", own)
    y = draw_by_step(sheet, whole, y, cell, tall)
    y += 0.26
    room = inner / per_row
    for number, draw_chart in enumerate(charts):
        x, top = EDGE + number % per_row * room + 0.42, y + number // per_row * CHARTS
        draw_chart(sheet.axes(x, top + 0.24, room - 0.55, CHARTS - 0.62), whole)
    y += chart_rows * CHARTS + 0.2
    y = heading(sheet, y, f"Where it looks in each class{some}", explanation)
    maps = [chosen_locations(whole, whole.photos_of(label)) for label in classes]
    most = darkest(times_chance(each, class_tall / class_cell, cells) for each, cells in maps)
    draw_scale(sheet, sheet.width - EDGE, y - 0.19, most)
    for number, label in enumerate(classes):
        x = EDGE + number % columns * (class_cell + 0.1)
        top = y + number // columns * (class_tall + 0.24)
        axes = sheet.axes(x, top, class_cell, class_tall)
        locations_X2, cells = maps[number]
        draw_density(axes, locations_X2, class_tall / class_cell, cells, most)
        accuracy = f"{100 * whole.class_figure(label)[1]:.0f} %"
        name, size = shrunk(whole.classes[label], class_cell - 0.34, 7, 4.5)
        sheet.text(x, top + class_tall + 0.13, name, fontsize=size)
        sheet.text(x + class_cell, top + class_tall + 0.13, accuracy, fontsize=7, ha="right",
                   color=QUIET)  # fmt: skip
    draw_key(sheet, marks, EDGE, sheet.height - EDGE - key_height(marks, inner), inner)
    return sheet.figure


def heading(sheet: Sheet, y: float, text: str, more: str) -> float:
    """A heading, an explanation and room for a scale at the right, just above the y that this
    returns; below each other in less than a page."""
    room, style = sheet.width - 2 * EDGE, {"fontsize": 7.5, "color": QUIET}
    text = fitted(text, room, 8.5, "bold")
    sheet.text(EDGE, y + 0.14, text, fontsize=8.5, fontweight="bold")
    if page_width() < PAGE:
        sheet.text(EDGE, y + 0.28, fitted(more, room, 7.5), **style)
    else:
        wide = text_width(text, 8.5, "bold") + 0.12
        more = fitted(more, room - wide - SCALE, 7.5)
        sheet.text(EDGE + wide, y + 0.14, more, **style)
    return y + heading_height(more)


def heading_height(more: str) -> float:
    """Inches that `heading` takes."""
    return 0.28 + ((0.32 if more else 0.18) if page_width() < PAGE else 0)


def map_size(width: float, columns: int, shape: float, most: float) -> tuple[float, float]:
    """(width, height) of a map where this many stand in a row, at most `most` wide."""
    cell = min(width / columns - 0.1, most)
    return (cell, cell * shape) if shape <= 1.2 else (cell * 1.2 / shape, cell * 1.2)


def chosen_locations(
    whole: WholeSet, rows_N: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Locations that the attention chose on these photos (all locations, if it chose none),
    X x 2; and the cells that it chose among."""
    chosen = np.flatnonzero(whole.chosen_T)
    steps = chosen if len(chosen) else np.arange(whole.steps)
    locations_X2 = whole.locations_NTS2[rows_N][:, steps, -1].reshape(-1, 2)
    return locations_X2, whole.cells_at(steps[0])


def density_of(
    locations_X2: np.ndarray, shape: float, cells: tuple[int, int] | None = None
) -> np.ndarray:
    """Fraction of the locations in each cell of a grid over the photo: rows x columns.

    shape: height over width of the photo. cells: the grid that a categorical policy chose from
    (another grid would show stripes). Default: the fewer locations, the coarser the grid.
    """
    finest = float(np.clip(np.sqrt(len(locations_X2)) * 0.8, 9, BINS))
    columns = odd(finest) if shape <= 1 else odd(finest / shape)
    counts, _, _ = np.histogram2d(
        locations_X2[:, 1].clip(-1, 1), locations_X2[:, 0].clip(-1, 1),
        bins=cells or (odd(columns * shape), columns), range=((-1, 1), (-1, 1)),
    )  # fmt: skip
    return counts / max(len(locations_X2), 1)


def odd(count: float) -> int:
    return max(5, 2 * int(count / 2) + 1)


def times_chance(
    locations_X2: np.ndarray, shape: float, cells: tuple[int, int] | None = None
) -> np.ndarray:
    """The density of locations, as a multiple of that of locations drawn at random: 1 where the
    model looks as often as by chance."""
    density = density_of(locations_X2, shape, cells)
    return density * density.size


def draw_density(
    axes: Axes,
    locations_X2: np.ndarray,
    shape: float,
    cells: tuple[int, int] | None = None,
    most: float | None = None,
) -> None:
    """A map that is darker where locations are denser (square root, so that rare ones show); a
    cross marks the photo's centre. most: the multiple of chance drawn darkest; default: the map's
    own."""
    density = times_chance(locations_X2, shape, cells)
    darkest = np.sqrt(max(density.max() if most is None else most, 1e-9))
    axes.imshow(
        np.ma.masked_equal(np.sqrt(density), 0), cmap=DENSITY, vmin=0, vmax=darkest,
        extent=(-1, 1, 1, -1), aspect="auto", interpolation="nearest",
    )  # fmt: skip
    for colour, size, line in (("white", 6, 2.0), (INK, 5, 0.8)):
        axes.plot(0, 0, "+", color=colour, markersize=size, markeredgewidth=line, zorder=3)
    frame(axes, FAINT, 0.7)


def darkest(maps: Iterable[np.ndarray]) -> float:
    """The largest multiple of chance in maps that share a scale."""
    return max((float(each.max()) for each in maps), default=1.0)


def draw_scale(sheet: Sheet, x: float, y: float, most: float) -> None:
    """The scale of maps of locations, from never to `most` times as often as by chance, with its
    right end at x."""
    wide, tall = 0.8, 0.09
    words = f"{most:.0f} × as often as by chance"
    left = x - text_width(words, 6.5) - 0.05 - wide
    axes = sheet.axes(left, y, wide, tall)
    axes.imshow(np.sqrt(np.linspace(0, 1, 64))[None], cmap=DENSITY, aspect="auto")
    frame(axes, FAINT, 0.5)
    sheet.text(left - 0.05, y + 0.075, "never", fontsize=6.5, color=QUIET, ha="right")
    sheet.text(x, y + 0.075, words, fontsize=6.5, color=QUIET, ha="right")


def draw_by_step(sheet: Sheet, whole: WholeSet, y: float, cell: float, tall: float) -> float:
    colours = step_colours(whole.steps)
    levels = whole.locations_NTS2.shape[2]
    margin = LEVELS if levels > 1 else 0.0
    most = darkest(step_maps(whole, tall / cell))
    draw_scale(sheet, sheet.width - EDGE, y - 0.19, most)
    for step in range(whole.steps):
        x = EDGE + margin + step * (cell + 0.1)
        draw_tag(sheet.page, (x + cell / 2, y + 0.09), str(step + 1), colours[step])
        for level in range(levels):
            axes = sheet.axes(x, y + 0.22 + level * (tall + 0.08), cell, tall)
            locations_N2 = whole.locations_NTS2[:, step, level]
            chosen = most if whole.chosen_T[step] else None
            draw_density(axes, locations_N2, tall / cell, whole.cells_at(step), chosen)
            frame(axes, colours[step], 1.4)
            if levels > 1 and step == 0:
                axes.set_ylabel(f"level {level + 1}", fontsize=7, labelpad=2)
    return y + 0.22 + levels * (tall + 0.08)


def step_maps(whole: WholeSet, shape: float) -> list[np.ndarray]:
    """The maps of the steps whose locations the model chose, of all levels; of all steps, if it
    chose none."""
    steps = [step for step in range(whole.steps) if whole.chosen_T[step]] or range(whole.steps)
    return [
        times_chance(whole.locations_NTS2[:, step, level], shape, whole.cells_at(step))
        for step in steps
        for level in range(whole.locations_NTS2.shape[2])
    ]


def step_axis(axes: Axes, steps: np.ndarray, text: str = "after glimpse") -> None:
    ticks = step_ticks(steps, axes.bbox.width / axes.figure.dpi)
    axes.set_xticks(ticks, ["glance" if step == 0 else str(step) for step in ticks])
    axes.set_xlim(steps[0] - 0.4, steps[-1] + 0.4)
    axes.set_xlabel(text, labelpad=2)


def percent_axis(axes: Axes, low: float, high: float) -> None:
    """An axis in per cent, between round numbers around the values."""
    low, high = max(0.0, np.floor(low * 10) / 10), min(1.0, np.ceil(high * 10) / 10)
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, 0, " %"))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))


def draw_accuracy(axes: Axes, whole: WholeSet) -> None:
    """Accuracy after each glimpse with its 95 % confidence interval; mAP without one."""
    steps, accuracy = whole.accuracy()
    band = band_of(whole, accuracy)
    if whole.labels_NC is None:
        axes.fill_between(steps, band[:, 0], band[:, 1], color=RIGHT, alpha=0.18, linewidth=0)
        axes.set_title("band: 95 % CI", fontsize=6.5, color=QUIET, loc="right", pad=8)
    dotted_line(axes, steps, accuracy, whole.steps)
    axes.set_title(title_of(whole), fontweight="bold", loc="left", pad=8)
    percent_axis(axes, band.min(), band.max())
    axes.annotate(
        f"{100 * accuracy[-1]:.1f} %", (steps[-1], accuracy[-1]), xytext=(4, -12), ha="right",
        textcoords="offset points", fontsize=7.5, fontweight="bold",
    )  # fmt: skip
    step_axis(axes, steps)


def title_of(whole: WholeSet) -> str:
    return "Accuracy" if whole.metric == "accuracy" else "Mean average precision (mAP)"


def band_of(whole: WholeSet, accuracy_T: np.ndarray) -> np.ndarray:
    """95 % confidence intervals of accuracies, T x 2; of mAP the values alone."""
    if whole.labels_NC is not None:
        return np.stack([accuracy_T, accuracy_T], 1)
    return confidence_band(accuracy_T, len(whole.labels_N))


def confidence_band(accuracy_T: np.ndarray, count: int) -> np.ndarray:
    """95 % confidence intervals of accuracies over `count` photos, T x 2."""
    return np.array([wilson_interval(round(each * count), count) for each in accuracy_T])


def dotted_line(axes: Axes, steps: np.ndarray, values: np.ndarray, count: int) -> None:
    colours = step_colours(count)
    axes.plot(steps, values, color=INK, linewidth=1.3, zorder=3)
    for step, value in zip(steps, values, strict=True):
        axes.plot(
            step, value, "o", markersize=5.5, markeredgecolor="white", markeredgewidth=0.8,
            color=colours[step - 1] if step else QUIET, zorder=4, clip_on=False,
        )  # fmt: skip


def draw_distance(axes: Axes, whole: WholeSet) -> None:
    """How far from the centre the model looks, and how far its locations spread over photos."""
    steps = np.arange(1, whole.steps + 1)
    distance, spread = whole.distance_NT.mean(0), spread_T(whole.locations_NTS2[:, :, -1])
    dotted_line(axes, steps, distance, whole.steps)
    axes.plot(steps, spread, color=SPREAD, linewidth=1.6)
    axes.set_ylim(0, max(1.0, float(distance.max()) * 1.1))
    axes.set_title("Distance from the centre", fontweight="bold", loc="left", pad=8)
    control_line(axes, RANDOM_DISTANCE, RANDOM_LINE)
    legend(
        axes,
        [
            {"marker": "o", "markersize": 3.5},
            {"color": SPREAD, "linewidth": 1.6},
            {"color": QUIET, "linestyle": RANDOM_LINE},
        ],
        ["mean distance", "spread over photos", "mean distance of random locations"],
    )
    step_axis(axes, steps, "glimpse")


def control_line(axes: Axes, value: float, style: LineStyleType) -> None:
    axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=style, zorder=0)


def legend(axes: Axes, lines: list[dict[str, Any]], names: list[str]) -> None:
    """A legend above the curves, on an axis made taller for it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) * 1.42)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high + 1e-9])
    handles = [
        mpl.lines.Line2D([], [], **{"color": INK, "linewidth": 1.1, **line}) for line in lines
    ]
    axes.legend(
        handles, names, fontsize=6.5, frameon=False, loc="upper left", borderaxespad=0.0,
        bbox_to_anchor=(0.03, 1.0), handlelength=2.2, labelspacing=0.25, borderpad=0.1,
    )  # fmt: skip


def draw_inside(axes: Axes, whole: WholeSet) -> None:
    """Fraction of glimpses whose centre lies in the object's box, beside two controls."""
    steps = np.arange(1, whole.steps + 1)
    inside = np.nanmean(whole.inside_NT, 0)
    controls = {
        "always the centre": float(np.nanmean(whole.centre_inside_N)),
        "random locations": float(np.nanmean(whole.box_fraction_N)),
    }
    highest = max(float(inside.max()), *controls.values())
    percent_axis(axes, 0, min(1.0, highest * 1.15 + 0.02))
    dotted_line(axes, steps, inside, whole.steps)
    lines: list[dict[str, Any]] = [{"marker": "o", "markersize": 3.5}]
    for value, style in zip(controls.values(), (CENTRE_LINE, RANDOM_LINE), strict=True):
        control_line(axes, value, style)
        lines.append({"color": QUIET, "linestyle": style})
    legend(axes, lines, ["this model", *controls])
    axes.set_title("Glimpses in the object's box", fontweight="bold", loc="left", pad=8)
    step_axis(axes, steps, "glimpse")


def draw_exits(axes: Axes, whole: WholeSet, threshold: float | None) -> None:
    """Accuracy against mean cost where the model stops early, over all thresholds; a ring at the
    threshold."""
    assert whole.cost is not None  # of a recorded split
    table, by = whole.exits()
    curve = exit_curve(table, whole.cost)
    axes.plot(curve["mean_gmacs"], curve["accuracy"], color=INK, linewidth=1.3)
    values = curve["accuracy"].to_list()
    if threshold is not None:
        accuracy, glimpses = exit_at(table, threshold)
        place = (whole.cost.before + glimpses * whole.cost.per_glimpse, accuracy)
        axes.plot(*place, "o", markersize=7, markerfacecolor="none", color=INK, clip_on=False)
        by = by if whole.labels_NC is None or by != "belief" else "margin"
        text = f"{by} ≥ {percent(threshold)}: {100 * accuracy:.1f} %,\n{glimpses:.2f} glimpses"
        right = place[0] > np.mean(axes.get_xlim())
        paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
        axes.annotate(text, place, bbox=paper, xytext=(-6 if right else 6, -7),
                      textcoords="offset points", fontsize=7, va="top",
                      ha="right" if right else "left")  # fmt: skip
    percent_axis(axes, min(values) - 0.05, max(values))
    if whole.labels_NC is None:
        axes.set_title("Stopping early", fontweight="bold", loc="left", pad=8)
        axes.set_title("over all thresholds", fontsize=6.5, color=QUIET, loc="right", pad=8)
    else:
        axes.set_title("Stopping early: F1 of a photo", fontweight="bold", loc="left", pad=8)
    axes.set_xlabel("mean GMACs a photo", labelpad=2)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))

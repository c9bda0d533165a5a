"""A whole split explained on one sheet, from what `test --explain` wrote.

N classes   T steps   S levels   K patches   Y X rows and columns of a map
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stacked_ram.evaluation.causes import CAUSES
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program
from stacked_ram.viz.boxes import draw_tag
from stacked_ram.viz.explained import BELIEF, draw_scale
from stacked_ram.viz.overview import EDGE, MOST_CLASSES, heading, heading_height, map_size
from stacked_ram.viz.style import (
    FAINT,
    INK,
    PAGE,
    QUIET,
    RIGHT,
    WRONG,
    Sheet,
    counted,
    fitted,
    frame,
    is_narrow,
    page_width,
    shrunk,
    step_colours,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

READ = mpl.colors.ListedColormap(mpl.colormaps["magma_r"](np.linspace(0, 0.9, 256)))
CHART = 1.35
LINES: list[tuple[str, LineStyleType, str]] = [
    (INK, "-", "o"), (QUIET, ":", "s"), (QUIET, (0, (5, 1.5, 1, 1.5)), "^"), ("#0072B2", "--", "D"),
]  # fmt: skip


def read_explained(folder: Path, split: str) -> dict[str, np.ndarray]:
    """The arrays that `test --explain` wrote. Raises UserError where it was not run."""
    path = folder / f"{split}_explain.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise not_there(path, folder, split, error) from None


def read_causes(folder: Path, split: str) -> dict[str, list[str]]:
    """The paths of the mistakes of each cause, in the order of the table that `test --explain`
    wrote. Raises UserError where it was not run."""
    path = folder / f"{split}_explain.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["cause"], row["path"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise not_there(path, folder, split, error) from None
    return {name: [path for cause, path in rows if cause == name] for name in CAUSES}


def not_there(path: Path, folder: Path, split: str, error: Exception) -> UserError:
    command = explain_command(folder, split)
    return UserError(f"{path}: cannot be read ({error}); `{command}` writes it")


def explain_command(folder: Path, split: str) -> str:
    """The command that finds the causes of a split's mistakes."""
    command = f"{program()} test {folder} --explain"
    return command if split == "test" else f"{command} --split {split}"


@styled
def explained_set_figure(arrays: dict[str, np.ndarray], title: str) -> Figure:
    """Causes of mistakes, glimpses, deletion and insertion, places, and what was read."""
    figures = json.loads(arrays["figures"].tobytes())
    inner = page_width() - 2 * EDGE
    forced_TYX, sums = arrays["forced_TYX"], arrays["coverage_N2SKYX"]
    steps, shape = len(forced_TYX), sums.shape[-2] / sums.shape[-1]
    cell, tall = map_size(inner, max(steps + 1, 4), shape, 1.5)
    part, part_tall = map_size(inner - 1.2, 3, shape, 1.3)
    read_row = max(part_tall, 0.66) + (0.3 if page_width() < PAGE else 0)
    classes = np.flatnonzero(arrays["coverage_N2"].sum(1))[:MOST_CLASSES]
    columns = min(int(inner / 1.05), max(len(classes), 1))
    small, small_tall = map_size(inner, columns, shape, 1.1)
    class_rows = -(-len(classes) // columns)
    wrong = sum(cause["photos"] for cause in figures["causes"].values())
    of = f"mean over {counted(wrong, 'mistake')}" if wrong else "mean over all photos"
    of += ", with a glimpse at each place"
    read = "fraction of photos in which this part was read"
    some = "" if len(classes) == (arrays["coverage_N2"].sum(1) > 0).sum() else ", some of them"
    by_class = "narrowest patch; at the right the class's accuracy"
    charts = chart_places(figures, inner)
    height = (
        0.4 + heading_height(by_words(figures)) + CHART + 0.2 + len(charts) * (CHART + 0.55)
        + heading_height(of) + tall + 0.5
        + heading_height(read) + 0.3 + len(figures["coverage"]) * (read_row + 0.12)
        + heading_height(by_class) + class_rows * (small_tall + 0.24) + 0.1
    )  # fmt: skip
    sheet = Sheet(page_width(), height)
    sheet.text(EDGE, 0.24, fitted(title, inner, 10, "bold"), fontsize=10, fontweight="bold")
    y = heading(sheet, 0.4, "Why it is wrong", by_words(figures))
    draw_causes(sheet, figures, EDGE, y, inner, CHART)
    y += CHART + 0.2
    for row in charts:
        for kind, x, width in row:
            if kind == "drops":
                draw_drops(sheet, figures, x, y, width, CHART)
            elif kind in figures:
                draw_curves(sheet, figures, kind, x, y, width, CHART)
            else:
                note = "Deletion and insertion: " + " ".join(figures["curve_notes"])
                sheet.text(x + 0.3, y + 0.5, fitted(note, width - 0.3, 8), color=QUIET)
        y += CHART + 0.55
    y = heading(sheet, y, "Belief in the true class", of)
    draw_scale(sheet, EDGE + inner - 1.5, y - 0.18, 1.5, BELIEF, ("0", "50", "100 %"))
    draw_places(sheet, arrays, y, cell, tall)
    y += tall + 0.5
    y = heading(sheet, y, "What was read", read)
    draw_scale(sheet, EDGE + inner - 1.5, y - 0.18, 1.5, READ, ("0", "50", "100 %"))
    y = draw_read(sheet, arrays, figures, y, part, part_tall, read_row)
    y = heading(sheet, y, f"The same by class{some}", by_class)
    for number, label in enumerate(classes):
        x = EDGE + number % columns * (small + 0.1)
        top = y + number // columns * (small_tall + 0.24)
        draw_cover(sheet.axes(x, top, small, small_tall), sums[label, :, 0, 0],
                   arrays["coverage_N2"][label])  # fmt: skip
        wrong, right = arrays["coverage_N2"][label]
        name, size = shrunk(str(arrays["classes"][label]), small - 0.3, 7, 6)
        sheet.text(x, top + small_tall + 0.13, name, fontsize=size)
        sheet.text(x + small, top + small_tall + 0.13, f"{100 * right / (wrong + right):.0f} %",
                   fontsize=7, ha="right", color=QUIET)  # fmt: skip
    return sheet.figure


def chart_places(figures: dict[str, Any], inner: float) -> list[list[tuple[str, float, float]]]:
    """The charts in rows, each with its left edge and width."""
    kinds = ["drops", "insertion", "deletion"] if "insertion" in figures else ["drops", "none"]
    columns = min(len(kinds), int(inner / 2.3))
    each = inner / columns
    places = [(kind, EDGE + each * (n % columns), each) for n, kind in enumerate(kinds)]
    return [places[start : start + columns] for start in range(0, len(kinds), columns)]


def by_words(figures: dict[str, Any]) -> str:
    mistakes = sum(cause["photos"] for cause in figures["causes"].values())
    known = "by the objects' boxes" if figures["causes_by"] == "boxes" else "by forced places"
    return f"{counted(mistakes, 'mistake')} of {counted(figures['photos'], 'photo')}; {known}"


def draw_causes(
    sheet: Sheet, figures: dict[str, Any], x: float, y: float, width: float, height: float
) -> None:
    """A bar for each cause; the dark part would be recognised with one glimpse elsewhere."""
    causes = figures["causes"]
    left, long = 2.1, width - 2.1 - 0.5
    axes = sheet.axes(x + left, y + 0.02, long, height - 0.3)
    places = np.arange(len(causes))[::-1]
    counts = [cause["photos"] for cause in causes.values()]
    mended = [cause["mended_by_a_better_place"] for cause in causes.values()]
    axes.barh(places, counts, height=0.6, color=WRONG, alpha=0.35)
    axes.barh(places, mended, height=0.6, color=WRONG)
    axes.set(yticks=places, yticklabels=list(causes), xlim=(0, max(*counts, 1) * 1.02))
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    words = "photos; dark: right with one glimpse elsewhere"
    axes.set_xlabel(words, labelpad=2, loc="right" if is_narrow() else "center")
    for place, count, dark in zip(places, counts, mended, strict=True):
        axes.text(count, place, f" {count} ({dark})", va="center_baseline", fontsize=7.5)


def chart_axes(sheet: Sheet, x: float, y: float, width: float, height: float, title: str) -> Axes:
    axes = sheet.axes(x + 0.42, y + 0.24, width - 0.58, height - 0.2)
    axes.set_title(title, fontweight="bold", loc="left", pad=6)
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, 0, " %"))
    return axes


def draw_drops(
    sheet: Sheet, figures: dict[str, Any], x: float, y: float, width: float, height: float
) -> None:
    """What the belief in the answer loses without each glimpse, and with it at a random place."""
    axes = chart_axes(sheet, x, y, width, height, "Belief lost, by glimpse")
    drops = {"without it": figures["hidden"]["drop"], "at random": figures["replaced"]["drop"]}
    steps = np.arange(1, len(figures["hidden"]["drop"]) + 1)
    for number, (name, drop) in enumerate(drops.items()):
        axes.bar(steps + 0.36 * number - 0.18, drop, width=0.34, label=name,
                 color=(RIGHT, QUIET)[number])  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), max(high * 1.35, 0.01))
    axes.axhline(0, color=FAINT, linewidth=0.7)
    axes.set_xticks(steps)
    axes.set_xlabel("glimpse", labelpad=2)
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", ncols=2, handlelength=1,
                borderpad=0, columnspacing=1)  # fmt: skip


def draw_curves(
    sheet: Sheet, figures: dict[str, Any], kind: str, x: float, y: float, width: float,
    height: float,
) -> None:  # fmt: skip
    """The mean curve of each order, with its area."""
    wanted = {"insertion": "shown (more is better)", "deletion": "hidden (less is better)"}
    axes = chart_axes(sheet, x, y, width, height, kind.capitalize())
    for (name, found), (colour, style, mark) in zip(figures[kind].items(), LINES, strict=False):
        text = name.replace(" of the plain backbone", "").replace(" places", "")
        label = f"{text} {found['area']['mean']:.2f}"
        axes.plot(found["curve"], color=colour, linestyle=style, marker=mark, markersize=3,
                  linewidth=1.2, label=label)  # fmt: skip
    axes.set(ylim=(0, 1.62), yticks=[0, 0.5, 1])
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
    axes.set_xlabel(f"places {wanted[kind]}", labelpad=2)
    axes.legend(fontsize=6.3, frameon=False, loc="upper left", handlelength=2.2, borderpad=0,
                labelspacing=0.2)  # fmt: skip


def draw_places(
    sheet: Sheet, arrays: dict[str, np.ndarray], y: float, cell: float, tall: float
) -> None:
    """Maps of the mean belief for each glimpse; then where the better places were."""
    steps = len(arrays["forced_TYX"])
    for step, map_YX in enumerate(arrays["forced_TYX"]):
        x = EDGE + step * (cell + 0.1)
        centre = (x + cell / 2, y + 0.09)
        draw_tag(sheet.page, centre, str(step + 1), step_colours(steps)[step])
        axes = sheet.axes(x, y + 0.22, cell, tall)
        axes.imshow(map_YX, cmap=BELIEF, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        frame(axes, step_colours(steps)[step], 1.4)
    counts_YX = arrays["better_YX"]
    x = EDGE + steps * (cell + 0.1)
    sheet.text(x + cell / 2, y + 0.13, "better places", fontsize=7, ha="center")
    axes = sheet.axes(x, y + 0.22, cell, tall)
    axes.imshow(np.ma.masked_equal(counts_YX, 0), cmap="Greys", vmin=0, aspect="auto",
                vmax=max(int(counts_YX.max()), 1), interpolation="nearest")  # fmt: skip
    frame(axes, FAINT, 0.8)
    most = counted(int(counts_YX.max()), "photo")
    sheet.text(x + cell / 2, y + 0.22 + tall + 0.13, f"darkest: {most}", fontsize=6.5,
               ha="center", color=QUIET)  # fmt: skip


def draw_read(
    sheet: Sheet, arrays: dict[str, np.ndarray], figures: dict[str, Any], y: float, wide: float,
    tall: float, row_tall: float,
) -> float:  # fmt: skip
    """A row for each level and patch: all photos, right answers, wrong answers; and accuracy where
    the object was hit. Returns the y below."""
    sums, counts = arrays["coverage_N2SKYX"], arrays["coverage_N2"]
    names = ("all photos", "right answers", "wrong answers")
    for column, name in enumerate(names):
        text, size = shrunk(name, wide, 7, 5)
        sheet.text(EDGE + 1.1 + column * (wide + 0.1), y + 0.1, text, fontsize=size, color=QUIET)
    y += 0.16
    rows = [(level, patch) for level in range(sums.shape[2]) for patch in range(sums.shape[3])]
    for (level, patch), row in zip(rows, figures["coverage"], strict=True):
        lines = [f"{row['width_px']:.0f} px wide"]
        if sums.shape[2] > 1:
            lines.insert(0, f"level {level + 1}")
        if row["px_per_pixel"] is not None:
            lines.append(f"{row['px_per_pixel']:.2g} px a pixel")
        lines.append(f"reads {100 * row['fraction_read']:.0f} %")
        for number, line in enumerate(lines):
            sheet.text(EDGE, y + 0.16 + 0.14 * number, line, fontsize=7,
                       color=QUIET if number else INK)  # fmt: skip
        for column, which in enumerate(([0, 1], [1], [0])):
            axes = sheet.axes(EDGE + 1.1 + column * (wide + 0.1), y, wide, tall)
            draw_cover(axes, sums[:, which, level, patch].sum(0), counts[:, which].sum(0))
        for number, name in enumerate(name for name in ("hit", "missed") if name in row):
            found = row[name]
            text = f"object {name}: {counted(found['photos'], 'photo')}"
            x, top = EDGE + 1.1 + 3 * (wide + 0.1) + 0.05, y + 0.16 + 0.32 * number
            if page_width() < PAGE:
                x, top = EDGE + 1.7 * number, y + row_tall - 0.16
            sheet.text(x, top, text, fontsize=7, color=QUIET)
            if "accuracy" in found:
                low, high = found["interval_95"]
                text = (
                    f"{100 * found['accuracy']:.0f} % right ({100 * low:.0f} to {100 * high:.0f})"
                )
                sheet.text(x, top + 0.13, text, fontsize=7, fontweight="bold",
                           color=(RIGHT, WRONG)[number])  # fmt: skip
        y += row_tall + 0.12
    return y + 0.14


def draw_cover(axes: Axes, sums_CYX: np.ndarray, counts_C: np.ndarray) -> None:
    """The mean coverage of these photos; grey where there are none."""
    count = int(counts_C.sum())
    if count:
        mean = sums_CYX.sum(0) / count
        axes.imshow(mean, cmap=READ, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    else:
        axes.set_facecolor(FAINT)
    frame(axes, FAINT, 0.7)

"""Two runs on the same photos, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.belief import beliefs
from stacked_ram.viz.draw import LIMIT, Drawer, SplitName, loaded
from stacked_ram.viz.key import CENTRE, Mark, box_marks, draw_key, key_height
from stacked_ram.viz.overview import (
    band_of,
    darkest,
    draw_density,
    draw_scale,
    legend,
    map_size,
    percent_axis,
    step_axis,
    step_maps,
    title_of,
)
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.photos import Photo, Split, evenly, photo_files, read_files
from stacked_ram.viz.records import record_photos
from stacked_ram.viz.style import (
    EDGE,
    FAINT,
    QUIET,
    RUNS,
    Sheet,
    fitted,
    is_narrow,
    page_width,
    styled,
    text_width,
)
from stacked_ram.viz.thumbnails import CAPTION, draw_small, small_size
from stacked_ram.viz.whole_set import WholeSet, record_split

PHOTOS = 6


def compare_runs(
    run: str | Path | LoadedRun,
    other: str | Path | LoadedRun,
    photos: Iterable[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    format: str = "png",
    limit: int = LIMIT,
    num_glimpses: int | None = None,
    stop: Stop | None = None,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw two runs with the same classes on the same photos, side by side. Returns the files.

    Without photos: on a whole split, and on those of its photos that tell the runs apart. The
    arguments are those of `draw_run`. Raises UserError where the classes of the runs or their
    photos of the split differ, and where there is no photo that both can read.
    """
    run, other = loaded(run, device), loaded(other, device)
    how: dict[str, Any] = {"num_glimpses": num_glimpses, "stop": stop}
    check_comparable(run, other)
    drawer = Drawer(out or run.folder / "pictures", format)
    names = names_of(run, other)
    if photos is not None:
        files = evenly(photo_files(photos), limit)
        both = read_files(run, files), read_files(other, files)
        draw_pairs(drawer, names, record_pairs(run, other, *both, how))
        return drawer.files
    with Split(run, split, dataset) as opened, Split(other, split, opened.dataset.folder) as same:
        if same.dataset.names != opened.dataset.names:
            raise UserError(
                f"--compare: for {other.path} the {split} split holds other photos than for"
                f" {run.path} (their fold or train_on differ); leave out --split: the test split"
                " is the same for both"
            )
        wholes = record_both(run, other, opened, same, stop)
        drawer.save("compare", compare_overview(wholes, names))
        rows = distinguishing(*wholes, min(limit, PHOTOS))
        both = opened.photos(rows), same.photos(rows)
        draw_pairs(drawer, names, record_pairs(run, other, *both, how))
    return drawer.files


def check_comparable(run: LoadedRun, other: LoadedRun) -> None:
    """Raise UserError where two runs know other classes, or other numbers of them in a photo."""
    several = run.metadata.multi_label
    if other.classes != run.classes or other.metadata.multi_label != several:
        raise UserError(
            f"{other.path}: knows other classes than {run.path}; compare runs on the same data set"
        )


def record_both(
    run: LoadedRun, other: LoadedRun, split: Split, same: Split, stop: Stop | None = None
) -> tuple[WholeSet, WholeSet]:
    """A pass of each run over the photos that both can read; other photos are taken out of both
    splits."""
    whole = record_split(run, split, stop)
    same.keep_named(whole.names)
    other_whole = record_split(other, same, stop)
    if other_whole.names != whole.names:
        split.keep_named(other_whole.names)
        whole = record_split(run, split, stop)
    return whole, other_whole


def record_pairs(
    run: LoadedRun,
    other: LoadedRun,
    photos: Sequence[Photo],
    other_photos: Sequence[Photo],
    how: dict[str, Any],
) -> list[tuple[PhotoRecord, PhotoRecord]]:
    """Records of each photo that both runs could read. how: as for `record_photos`. Raises
    UserError where there is none."""
    how = {**how, "skip_unreadable": True}
    theirs = {record.photo.key: record for record in record_photos(other, other_photos, **how)}
    pairs = [
        (record, theirs[record.photo.key])
        for record in record_photos(run, photos, **how)
        if record.photo.key in theirs
    ]
    if not pairs:
        raise UserError("--compare: no photo that both runs could read")
    return pairs


def draw_pairs(
    drawer: Drawer, names: tuple[str, str], pairs: Sequence[tuple[PhotoRecord, PhotoRecord]]
) -> None:
    """Sheets of a few photos each."""
    for start in range(0, len(pairs), PHOTOS):
        drawer.save("compare_photos", compare_figure(pairs[start : start + PHOTOS], names))


def names_of(run: LoadedRun, other: LoadedRun) -> tuple[str, str]:
    """The names of the folders, and of the files too where the folders have the same name."""
    names = run.folder.resolve().name, other.folder.resolve().name
    if names[0] != names[1]:
        return names
    return f"{names[0]}/{run.path.stem}", f"{names[1]}/{other.path.stem}"


@styled
def compare_figure(
    pairs: Sequence[tuple[PhotoRecord, PhotoRecord]], names: tuple[str, str]
) -> Figure:
    """A row for each photo: the scan paths of both runs, and the belief of each in the true class
    (in its own prediction, where the true class is not known)."""
    inner, below_them = page_width() - 2 * EDGE, is_narrow()
    chart = inner - 0.5 if below_them else min(1.9, 0.27 * inner)
    side = (inner - EDGE - (0 if below_them else chart + 0.75)) / 2
    least = 0.0 if below_them else 0.75  # the chart beside them
    talls = [max(least, *(small_size(record, side, side)[1] for record in pair)) for pair in pairs]
    charts = 1.3 if below_them else 0.0
    marks = run_marks(names) + box_marks([each for pair in pairs for each in pair], nested=False)
    below = key_height(marks, inner)
    row = CAPTION + 0.06 + charts
    sheet = Sheet(page_width(), 0.36 + sum(tall + row for tall in talls) + below)
    for number, name in enumerate(names):
        x = EDGE + number * (side + EDGE)
        sheet.text(x + side / 2, 0.22, fitted(name, side, 9, "bold"), fontsize=9, ha="center",
                   fontweight="bold", color=RUNS[number])  # fmt: skip
    known = all(pair[0].truth is not None for pair in pairs)
    text = "belief in the true class" if known else "belief in its prediction"
    if pairs[0][0].thresholds_N is not None:
        text = text.replace("class", "labels")
    if not below_them:
        sheet.text(EDGE + inner - chart / 2, 0.22, text, fontsize=8, ha="center")
    y = 0.34
    for pair, tall in zip(pairs, talls, strict=True):
        for number, record in enumerate(pair):
            draw_small(sheet, record, EDGE + number * (side + EDGE), y, side, tall)
        height = charts - 0.6 if below_them else min(tall - 0.1, 1.6)
        top = y + (tall + CAPTION + 0.2 if below_them else (tall - height) / 2)
        axes = sheet.axes(EDGE + inner - chart, top, chart, height)
        if below_them:
            axes.set_title(text, fontsize=7, loc="left", pad=4)
        draw_pair(axes, pair)
        y += tall + row
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


def run_marks(names: Sequence[str]) -> list[Mark]:
    """The colour and sign of each run's curve."""
    style = {"linewidth": 1.8, "markersize": 4.5, "markevery": [0]}
    return [
        (name, {"lines": [{"color": RUNS[number], "marker": "os"[number], **style}]})
        for number, name in enumerate(names)
    ]


def draw_pair(axes: Axes, pair: Sequence[PhotoRecord]) -> None:
    """The belief of two models over their steps."""
    every: set[int] = set()
    for number, record in enumerate(pair):
        steps, belief = beliefs(record)
        axes.plot(
            steps, record.followed_belief(belief), color=RUNS[number], linewidth=1.8,
            marker="os"[number], markersize=4.5, markeredgecolor="white", markeredgewidth=0.7,
            clip_on=False, zorder=3,
        )  # fmt: skip
        every |= set(steps.tolist())
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50", "100 %"])
    axes.hlines([0.5, 1], min(every) - 0.4, max(every) + 0.4, color=FAINT, linewidth=0.5, zorder=0)
    step_axis(axes, np.array(sorted(every)))


@styled
def compare_overview(wholes: tuple[WholeSet, WholeSet], names: tuple[str, str]) -> Figure:
    """Both runs over a whole split: accuracy after each glimpse, how many photos each classifies
    right, and where each looks."""
    first, second = wholes
    inner, narrow = page_width() - 2 * EDGE, is_narrow()
    steps = max(first.steps, second.steps)
    cell, tall = map_size(inner - 0.1, max(steps, 4), first.aspect, 1.5)
    marks = [CENTRE]
    charts, row = (4.7, tall + 0.5) if narrow else (2.75, tall + 0.32)
    height = charts + 2 * row + key_height(marks, inner) + EDGE
    sheet = Sheet(page_width(), height)
    x = EDGE
    for number, name in enumerate(names):
        name = fitted(name, inner / 2 - 0.5, 10, "bold")
        sheet.text(x, 0.22, name, fontsize=10, fontweight="bold", color=RUNS[number])
        x += text_width(name, 10, "bold") + 0.15
        if number == 0:
            sheet.text(x, 0.22, "and", fontsize=9, color=QUIET)
            x += 0.42
    wide = inner - 0.5 if narrow else 0.41 * inner
    axes = sheet.axes(EDGE + 0.45, 0.62, wide, 1.6)
    bands = []
    for number, whole in enumerate(wholes):
        right = whole.accuracy()[1][-whole.steps :]
        band = band_of(whole, right)
        steps_T = np.arange(1, whole.steps + 1)
        axes.fill_between(steps_T, band[:, 0], band[:, 1], color=RUNS[number], alpha=0.15,
                              linewidth=0)  # fmt: skip
        axes.plot(steps_T, right, color=RUNS[number], linewidth=1.6, marker="os"[number],
                      markersize=4.5)  # fmt: skip
        bands.append(band)
    percent_axis(axes, min(band.min() for band in bands), max(band.max() for band in bands))
    step_axis(axes, np.arange(1, steps + 1))
    lines = [
        {"color": RUNS[0], "marker": "o", "markersize": 4},
        {"color": RUNS[1], "marker": "s", "markersize": 4},
    ]
    endings = [f"{name}: {100 * whole.figure[0]:.1f} %"
               for name, whole in zip(names, wholes, strict=True)]  # fmt: skip
    axes.set_title(title_of(first), fontweight="bold", loc="left", pad=8)
    legend(axes, lines, [fitted(text, wide - 0.6, 6.5) for text in endings])
    title = "Photos that each gets right"
    title += "" if first.labels_NC is None else ", every class"
    place = (EDGE, 2.6, inner) if narrow else (0.55 * inner, 0.42, 0.45 * inner + EDGE)
    draw_agreement(sheet, first.right_N, second.right_N, names, title, place)
    y = charts
    for number, whole in enumerate(wholes):
        text = fitted(f"{names[number]} looks here at each step", inner, 7.5, "bold")
        sheet.text(EDGE, y + 0.13, text, fontsize=7.5, color=RUNS[number], fontweight="bold")
        most = darkest(step_maps(whole, tall / cell))
        y += row - tall - 0.32
        draw_scale(sheet, EDGE + inner, y + 0.05, most)
        for step in range(whole.steps):
            axes = sheet.axes(EDGE + step * (cell + 0.1), y + 0.2, cell, tall)
            locations_N2 = whole.locations_NTS2[:, step, -1]
            chosen = most if whole.chosen_T[step] else None
            draw_density(axes, locations_N2, tall / cell, whole.cells_at(step), chosen)
        y += tall + 0.32
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


def draw_agreement(
    sheet: Sheet, first_N: np.ndarray, second_N: np.ndarray, names: tuple[str, str], title: str,
    place: tuple[float, float, float],
) -> None:  # fmt: skip
    """Bars: the number of photos on which both, only one or neither is right. place: left, top and
    width."""
    counts = [
        ("both right", int((first_N & second_N).sum()), QUIET),
        (f"only {names[0]}", int((first_N & ~second_N).sum()), RUNS[0]),
        (f"only {names[1]}", int((second_N & ~first_N).sum()), RUNS[1]),
        ("both wrong", int((~first_N & ~second_N).sum()), FAINT),
    ]
    left, top, width = place
    sheet.text(left, top + 0.1, title, fontweight="bold", va="center_baseline")
    most = max(1, *(count for _, count, _ in counts))
    style = {"fontsize": 7.5, "va": "center_baseline"}
    for number, (name, count, colour) in enumerate(counts):
        y, long = top + 0.32 + number * 0.42, (width - 0.6) * count / most
        sheet.text(left, y, fitted(name, width, 7.5), **style)
        sheet.bar(left, y + 0.095, long, 0.15, colour)
        sheet.text(left + long + 0.06, y + 0.17, f"{count:,}", **style)


def distinguishing(first: WholeSet, second: WholeSet, count: int = PHOTOS) -> np.ndarray:
    """Rows of the photos that tell two models apart: first those that only one of them classifies
    right, by turns; then those where their beliefs in the true class differ most."""
    gap_N = first.true_N - second.true_N
    only_first = np.flatnonzero(first.right_N & ~second.right_N)
    only_second = np.flatnonzero(second.right_N & ~first.right_N)
    only_first = only_first[np.argsort(-gap_N[only_first], kind="stable")]
    only_second = only_second[np.argsort(gap_N[only_second], kind="stable")]
    turns = [row for pair in zip(only_first, only_second, strict=False) for row in pair]
    rest = np.argsort(-np.abs(gap_N), kind="stable")
    return np.array(list(dict.fromkeys(int(row) for row in [*turns, *rest]))[:count])

"""Belief: the class probabilities after each step, and where the prediction changed."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.style import (
    FAINT,
    INK,
    NEUTRAL,
    QUIET,
    RIGHT,
    WRONG,
    Sheet,
    counted,
    shrunk,
    spread_apart,
    step_ticks,
)

TOP = 5


def verdict(record: PhotoRecord) -> tuple[str, str]:
    """One line about the prediction, and its colour."""
    said = sorted(record.answer, key=lambda label: -record.belief_N[label])
    named = [f"{record.classes[label]} ({percent(record.belief_N[label])})" for label in said]
    says = f"says {', '.join(named) or record.name_of(())}"
    if record.truth is None:
        return says, INK
    if record.correct:
        return f"✓ {says}", RIGHT
    return f"✗ {says}, is {record.name_of(record.truth)}", WRONG


def stop_words(record: PhotoRecord) -> str:
    """Where it stopped, to follow the verdict; empty where it was not made to stop."""
    if record.stop is None:
        return ""
    if not record.steps:
        return ", the glance was enough"
    if record.stopped:
        return f", stopped after {used_words(record)}"
    return f", needed {used_words(record)}"


def used_words(record: PhotoRecord) -> str:
    """`2 of 6 glimpses`, `all 6 glimpses`, or `glance alone`."""
    if not record.steps:
        return "glance alone"
    whole = counted(record.all_steps, "glimpse")
    return f"{record.steps} of {whole}" if record.stopped else f"all {whole}"


def percent(probability: float) -> str:
    """A probability as text; `100 %` only where it is exactly 1."""
    if probability >= 0.995:
        return "> 99 %" if probability < 1 else "100 %"
    return "< 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def colour_of(record: PhotoRecord, label: int) -> str:
    """The colour of a class in this photo's drawings: of the true class, or of another."""
    if record.truth is None:
        return NEUTRAL
    return RIGHT if label in record.truth else WRONG


def is_true(record: PhotoRecord, label: int) -> bool:
    """Whether the photo is known to have this class."""
    return record.truth is not None and label in record.truth


def beliefs(record: PhotoRecord) -> tuple[np.ndarray, np.ndarray]:
    """Steps (0: after the glance, where there is one) and the belief after each."""
    if record.glance_belief_N is None:
        return np.arange(1, record.steps + 1), record.beliefs_TN
    return np.arange(record.steps + 1), np.vstack([record.glance_belief_N, record.beliefs_TN])


def leading(record: PhotoRecord, most: int = TOP) -> list[int]:
    """Classes that get a line: the true one, all that were ever predicted, the likeliest."""
    _, belief = beliefs(record)
    wanted = [*record.followed, *record.answer, *said_in(record, belief)]
    wanted += [*np.argsort(-belief.max(0), kind="stable")]
    return list(dict.fromkeys(int(label) for label in wanted))[: min(most, len(record.classes))]


def said_in(record: PhotoRecord, belief: np.ndarray) -> list[int]:
    """The classes that were said after each of these steps."""
    return [label for belief_N in belief for label in record.answer_of(belief_N)]


def draw_lines(
    axes: Axes, record: PhotoRecord, width: float, height: float, last: int | None = None
) -> None:
    """Probabilities over the steps, the true class in its own colour, names at the right; above
    them a ribbon of the predictions.

    width, height: of the axes in inches. last: draw only the first `last` steps.
    """
    steps, belief = beliefs(record)
    shown = steps <= (record.steps if last is None else last)
    names = min(1.25, 0.36 * width)
    every = np.arange(steps[0], record.all_steps + 1)
    per_step = (width - names) / len(every)
    right = every[-1] + 0.5
    ticks = step_ticks(every, width - names)
    axes.set(
        xlim=(steps[0] - 0.5, right + names / per_step),
        ylim=(0, 1.0),
        yticks=[0, 0.5, 1],
        yticklabels=["0", "50", "100 %"],
        xticks=ticks,
        xticklabels=["glance" if step == 0 else str(step) for step in ticks],
    )
    axes.spines["bottom"].set_bounds(steps[0] - 0.5, right)
    axes.set_xlabel("after glimpse", labelpad=2, x=(width - names) / width / 2)
    axes.hlines([0.5, 1], steps[0] - 0.5, right, color=FAINT, linewidth=0.5, zorder=0)
    colours = record.colours
    lines = leading(record)
    predictions = set(said_in(record, belief[shown]))
    for rank, label in reversed(list(enumerate(lines))):
        first = rank == 0 and (record.thresholds_N is None or label in predictions)
        main = is_true(record, label) or first
        second = label in predictions
        tint = colour_of(record, label) if main or second else QUIET
        axes.plot(
            steps[shown], belief[shown, label], color=tint, zorder=4 if main else 3,
            linewidth=2.0 if main else 1.5 if second else 0.9, alpha=1 if main or second else 0.6,
            marker="o" if len(steps) == 1 else None, markersize=3.5,
        )  # fmt: skip
        if main:
            for step, value in zip(steps[shown], belief[shown, label], strict=True):
                axes.plot(
                    step, value, "o", markersize=5, zorder=5, clip_on=False,
                    color=colours[step - 1] if step else QUIET, markeredgecolor="white",
                    markeredgewidth=0.8,
                )  # fmt: skip
    end = int(np.flatnonzero(shown)[-1])
    places = [float(belief[end, label]) for label in lines]
    least = 9.5 / 72 / height
    # names stand at the right; in an animation, beside the ends of unfinished lines
    names_at = right if steps[end] == every[-1] else steps[end] + 0.4
    for label, value, place in zip(
        lines, places, spread_apart(places, least, least / 2, 1 - least / 2), strict=True
    ):
        strong = is_true(record, label) or label in predictions
        axes.plot(
            [steps[end] + 0.12, names_at + 0.06 / per_step], [value, place], color=FAINT,
            linewidth=0.5, zorder=1, clip_on=False,
        )  # fmt: skip
        weight = "bold" if strong else "normal"
        name, size = shrunk(record.classes[label], names - 0.12, 7, 5, weight)
        axes.text(
            names_at + 0.09 / per_step, place, name, va="center", fontsize=size,
            color=colour_of(record, label) if strong else QUIET,
            fontweight=weight,
        )  # fmt: skip
    draw_ribbon(axes, record, per_step, height, int(shown.sum()), right)
    if record.stop is not None and record.stop.by == "belief" and record.thresholds_N is None:
        axes.hlines(record.stop.at, steps[0] - 0.5, right, color=INK, linewidth=0.7, zorder=0)
        axes.text(steps[0] - 0.45, record.stop.at, f"stops at {percent(record.stop.at)}",
                  fontsize=6, va="top" if record.stop.at > 0.9 else "bottom")  # fmt: skip


def draw_ribbon(
    axes: Axes, record: PhotoRecord, per_step: float, height: float, count: int, right: float
) -> None:
    """A ribbon over the axes: the class predicted after each step, equal neighbours joined."""
    steps, belief = beliefs(record)
    predictions = [record.answer_of(belief_N) for belief_N in belief[:count]]
    low, tall = 1 + 0.06 / height, 0.16 / height
    start = 0
    for answer, group in itertools.groupby(predictions):
        length = len(list(group))
        tint = NEUTRAL if record.truth is None else RIGHT if answer == record.truth else WRONG
        left = steps[start] - 0.5
        axes.add_patch(
            Rectangle(
                (left, low), length, tall, facecolor=tint, edgecolor="white", linewidth=1.2,
                clip_on=False, zorder=6,
            )
        )  # fmt: skip
        name, size = shrunk(record.name_of(answer), length * per_step - 0.05, 6.5, 5, "bold")
        axes.text(
            left + length / 2, low + tall / 2, name, ha="center", va="center_baseline",
            fontsize=size, color="white", zorder=7, fontweight="bold",
        )  # fmt: skip
        start += length
    ended = record.stopped and count == len(steps)
    axes.text(
        (steps[-1] + 0.5 if ended else right) + 0.09 / per_step, low + tall / 2,
        "■ stopped here" if ended else "← its prediction", va="center_baseline", fontsize=6.5,
        color=INK if ended else QUIET, fontweight="bold" if ended else "normal",
    )  # fmt: skip


def likely(record: PhotoRecord, column: int) -> list[int]:
    """The likeliest classes after a step, at most TOP, without those below 1 % that follow the
    first. column: index among `beliefs`."""
    belief_N = beliefs(record)[1][column]
    order = np.argsort(-belief_N, kind="stable")[:TOP]
    return [int(label) for rank, label in enumerate(order) if not rank or belief_N[label] >= 0.005]


def top_rows(record: PhotoRecord) -> int:
    """How many classes `draw_top` writes at most after any step."""
    return max(len(likely(record, column)) for column in range(len(beliefs(record)[0])))


def draw_top(
    sheet: Sheet, record: PhotoRecord, column: int, x: float, y: float, width: float, row: float
) -> None:
    """The likeliest classes after a step as bars with their names in them: rows as high as `row`,
    from (x, y). column: index among `beliefs`."""
    belief_N = beliefs(record)[1][column]
    size = min(6.8, row * 72 * 0.62)
    said = record.answer_of(belief_N)
    for rank, label in enumerate(likely(record, column)):
        probability, top = float(belief_N[label]), y + rank * row
        true = is_true(record, label)
        known = record.truth is None or true or label in said
        tint = colour_of(record, label) if known else "#8d99a8"
        sheet.bar(x, top + 0.01, width, row - 0.02, "#f1f3f6")
        sheet.bar(x, top + 0.01, width * probability, row - 0.02, tint, 0.38)
        if record.thresholds_N is not None:
            at = x + width * float(record.thresholds_N[label])
            sheet.bar(at - 0.005, top + 0.015, 0.01, row - 0.03, INK)
        number = percent(probability).removesuffix(" %").replace(" ", "")
        weight = "bold" if true else "normal"
        name, small = shrunk(record.classes[label], width - 0.27, size, min(size, 5.5), weight)
        style = {"va": "center_baseline"}
        sheet.text(x + 0.03, top + row / 2, name, fontsize=small, fontweight=weight, **style)
        sheet.text(x + width - 0.03, top + row / 2, number, fontsize=size, ha="right", **style)

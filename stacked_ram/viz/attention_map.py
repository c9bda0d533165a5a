"""Attention maps: where the attention would look at each step, as light on the photo.

Weights over regions (soft attention, policies that read a map): each region as bright as its
weight. Gaussian policies: its mean and standard deviation, over the density of sampled paths.
"""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from stacked_ram.models.ram import RAM
from stacked_ram.viz.belief import percent
from stacked_ram.viz.boxes import draw_tag, fit, visible
from stacked_ram.viz.figures import draw_title, title_height
from stacked_ram.viz.key import LOOKED, MEAN, SPREAD, draw_key, key_height, long_marks
from stacked_ram.viz.overview import odd
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.records import grey_photo, sampled_locations
from stacked_ram.viz.style import (
    EDGE,
    FAINT,
    QUIET,
    Sheet,
    fitted,
    frame,
    is_dark,
    is_narrow,
    page_width,
    styled,
    text_width,
)

SAMPLES = 400
FINE = 33  # cells over the longer side for densities of sampled paths
LIGHT = mpl.colors.ListedColormap(mpl.colormaps["inferno"](np.linspace(0.12, 0.97, 256)))


@styled
def attention_figure(record: PhotoRecord, model: RAM) -> Figure:
    """One panel for each step, in a row for each level; region weights exist for the last level
    alone. model: draws the sampled scan paths of a policy without weights."""
    all_levels = range(record.locations_TS2.shape[1])
    weights_TYX = record.region_weights_TYX
    levels = all_levels if weights_TYX is None else all_levels[-1:]
    columns = record.steps if record.steps <= 4 else min(5, math.ceil(record.steps / 2))
    inner, title = page_width() - 2 * EDGE, title_height()
    columns = min(max(columns, 2), int(inner / 1.3))
    side = (inner + 0.1) / columns - 0.1
    wide, tall = fit(visible(record.photo.true_aspect), side, 2.6)
    rows = -(-record.steps // columns)
    if weights_TYX is None:
        sampled_MTS2 = sampled_locations(model, record.photo, SAMPLES, record.steps)
        text = f"Light: density of {SAMPLES} sampled scan paths."
        marks = [MEAN] if record.std is None else [MEAN, SPREAD]
    else:
        text, marks = "Light: weight of each region before the glimpse.", [LOOKED]
    marks += long_marks([record])
    top = title + (0.5 if is_narrow() else 0.34)
    below = top + len(levels) * rows * (tall + 0.34)
    sheet = Sheet(page_width(), below + key_height(marks, inner))
    draw_title(sheet, record, EDGE, inner)
    draw_light_scale(sheet, EDGE + inner, top - 0.08)
    sheet.text(EDGE, title + 0.06, fitted(text, inner, 7), fontsize=7, color=QUIET)
    colours = record.colours
    for row, level in enumerate(levels):
        for step in range(record.steps):
            x = EDGE + step % columns * (side + 0.1) + (side - wide) / 2
            y = top + (row * rows + step // columns) * (tall + 0.34)
            draw_tag(sheet.page, (x + 0.09, y + 0.14), str(step + 1), colours[step])
            axes = sheet.axes(x, y + 0.26, wide, tall)
            if weights_TYX is None:
                text = draw_policy(axes, record, sampled_MTS2[:, step, level], step, level)
            else:
                text = draw_weights(axes, record, weights_TYX[step], step)
            if len(all_levels) > 1:
                text = f"level {level + 1}: {text}"
            text = fitted(text, (side + wide) / 2 - 0.22, 7)
            sheet.text(x + 0.22, y + 0.14, text, fontsize=7, color=QUIET, va="center_baseline")
    draw_key(sheet, marks, EDGE, below, inner)
    return sheet.figure


def draw_light_scale(sheet: Sheet, x: float, y: float) -> None:
    """The scale of the light, with its right end at x and its foot at y."""
    words, wide = "most in this panel", 0.7
    left = x - text_width(words, 6.5) - 0.05 - wide
    axes = sheet.axes(left, y - 0.09, wide, 0.09)
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=LIGHT, aspect="auto")
    frame(axes, FAINT, 0.5)
    sheet.text(left - 0.05, y - 0.01, "none", fontsize=6.5, color=QUIET, ha="right")
    sheet.text(x, y - 0.01, words, fontsize=6.5, color=QUIET, ha="right")


def draw_weights(axes: Axes, record: PhotoRecord, weights: np.ndarray, step: int) -> str:
    """Draw the regions' weights (rows x columns) as light; returns a caption."""
    chosen = bool(weights.sum() > 0)
    draw_light(axes, record, weights, least=2 / weights.size)
    cell_high = axes.bbox.height * 72 / axes.figure.dpi / weights.shape[0]
    if chosen and weights.size <= 16 and cell_high > 9:  # points: there is room for numbers
        write_weights(axes, record, weights)
    draw_cross(axes, record, record.locations_TS2[step, -1])
    return f"strongest region {percent(float(weights.max()))}" if chosen else "not chosen"


def write_weights(axes: Axes, record: PhotoRecord, weights: np.ndarray) -> None:
    height, width = record.photo.size
    rows, columns = weights.shape
    for row in range(rows):
        for column in range(columns):
            brightness = weights[row, column] / max(weights.max(), 2 / weights.size)
            dark = brightness < 0.6 or is_dark(mpl.colors.to_hex(LIGHT(brightness)))
            axes.text(
                (column + 0.04) * width / columns, (row + 0.96) * height / rows,
                f"{100 * weights[row, column]:.0f}", fontsize=6.5, ha="left", va="bottom",
                color="white" if dark else "#14161a", zorder=6,
            )  # fmt: skip


def draw_policy(
    axes: Axes, record: PhotoRecord, sampled_M2: np.ndarray, step: int, level: int
) -> str:
    """Draw the density of sampled locations and the policy's mean and std; returns a caption."""
    height, width = record.photo.size
    shape = record.photo.true_aspect
    columns = FINE if shape <= 1 else odd(FINE / shape)
    rows = odd(columns * shape)
    counts, _, _ = np.histogram2d(
        sampled_M2[:, 1], sampled_M2[:, 0], bins=(rows, columns), range=((-1, 1), (-1, 1))
    )
    draw_light(axes, record, np.sqrt(counts))
    mean = record.means_TS2[step, level]
    chosen = bool(record.chosen_T[step])
    if chosen and record.std is not None:
        centre = (mean + 1) / 2 * (width, height)
        for colour, line in (("#14161a", 2.4), ("#ffffff", 1.2)):
            axes.add_patch(
                Ellipse(centre, record.std * width, record.std * height, fill=False, linewidth=line,
                        edgecolor=colour, zorder=7)
            )  # fmt: skip
    draw_cross(axes, record, mean)
    if not chosen:
        return "not chosen"
    return f"x {mean[0]:+.2f}, y {mean[1]:+.2f}".replace("-", "−")


def draw_light(axes: Axes, record: PhotoRecord, values: np.ndarray, least: float = 1e-9) -> None:
    """The photo in dark grey, lit where values are high.

    least: smallest maximum that counts as full light, so that equal regions stay dim.
    """
    height, width = record.photo.size
    extent = (0, width, height, 0)
    axes.imshow(grey_photo(record), cmap="gray", vmin=0, vmax=1.1, extent=extent, aspect="auto",
                zorder=1)  # fmt: skip
    brightness = values / max(float(values.max()), least)
    colours = LIGHT(brightness)
    colours[..., 3] = 0.6 * brightness  # the photo stays visible where the light is full
    axes.imshow(colours, extent=extent, aspect="auto", interpolation="nearest", zorder=2)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_cross(axes: Axes, record: PhotoRecord, location: np.ndarray) -> None:
    height, width = record.photo.size
    point = (location + 1) / 2 * (width, height)
    for colour, line, size in (("#14161a", 3.4, 9), ("#ffffff", 1.6, 8)):
        axes.plot(*point, "+", color=colour, markersize=size, markeredgewidth=line, zorder=8,
                  clip_on=False)  # fmt: skip

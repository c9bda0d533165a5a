"""Boxes on a photo: nested, a colour for each step, dashed outside the photo, numbered, joined by
arrows.

Everything is drawn in the units of the boxes, so that each box lies exactly where it was read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import FancyArrowPatch, Rectangle

from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import FAINT, OUTSIDE, halo_of, ink_on, show_image

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

BEYOND = 0.3  # fraction of a side shown beyond each edge of the photo, at most
SAME = 0.006  # fraction of the photo's longer side; boxes closer than this are drawn as one
GAP = 7.0  # points
SMALL = 15.0  # points; the number of a narrower box stands at a distance, so as not to hide it
LONG = 8.0  # a side of a photo over the other
TAG = 5.2  # radius of a number's disk, points

View = tuple[float, float, float, float]
"""What a drawing shows: (left, top, right, bottom) in the units of the boxes."""


def view_of(size: tuple[float, float], boxes_TK4: np.ndarray) -> View:
    """The photo and its boxes, as far as BEYOND outside the photo."""
    height, width = size
    if not boxes_TK4.size:
        return (0, 0, width, height)
    least, most = boxes_TK4.reshape(-1, 4).min(0), boxes_TK4.reshape(-1, 4).max(0)
    rim = 0.02 * min(height, width)
    return (
        max(min(0, least[0] - rim), -BEYOND * width),
        max(min(0, least[1] - rim), -BEYOND * height),
        min(max(width, most[2] + rim), (1 + BEYOND) * width),
        min(max(height, most[3] + rim), (1 + BEYOND) * height),
    )


def view_shape(record: PhotoRecord, surface: Surface, view: View) -> float:
    """Height over width of a drawing of this view, at the photo's true shape."""
    true = record.photo.true_aspect
    scale_y = (view[3] - view[1]) / surface.size[0]
    scale_x = (view[2] - view[0]) / surface.size[1]
    return true * scale_y / scale_x


def visible(shape: float) -> float:
    """The shape of a small picture of a photo: one that is LONG or more is drawn thicker than it
    is, as a line would show nothing."""
    return min(max(shape, 1 / LONG), LONG)


def fit(shape: float, width: float, height: float) -> tuple[float, float]:
    """Largest (width, height) of this shape (height over width) that fits."""
    return (width, width * shape) if width * shape <= height else (height / shape, height)


def draw_surface(
    axes: Axes,
    surface: Surface,
    view: View,
    colours: Sequence[str],
    *,
    last: int | None = None,
    weight: float = 1.0,
    nested: bool = True,
    numbers: bool = True,
    detail: tuple[np.ndarray, View] | None = None,
) -> None:
    """The photo with the boxes of the first `last` steps (default: all).

    The axes must have the shape of the view. colours: of the steps. weight: of lines and numbers.
    nested: draw all boxes of a glimpse, or (in small pictures) the narrowest alone. detail: a finer
    picture of a part of the photo, and the part.
    """
    height, width = surface.size
    left, top, right, bottom = view
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], facecolor=OUTSIDE)
    axes.spines[:].set_visible(False)
    show_image(axes, surface.image_HWC, (0, width, height, 0))
    if detail is not None:
        image_HWC, (first_x, first_y, last_x, last_y) = detail
        show_image(axes, image_HWC, (first_x, last_x, last_y, first_y))
    edge = Rectangle((0, 0), width, height, fill=False, edgecolor=FAINT, linewidth=0.5, zorder=2)
    axes.add_patch(edge)
    all_shown = range(len(surface.boxes_TK4) if last is None else last)
    middles_T2 = centres(surface)
    shown = [
        step
        for step in all_shown
        if (middles_T2[step] >= view[:2]).all() and (middles_T2[step] <= view[2:]).all()
    ]
    for step in all_shown:
        boxes_K4 = surface.boxes_TK4[step, : None if nested else 1]
        below = coinciding(surface.boxes_TK4, step, surface.size)
        draw_boxes(axes, boxes_K4, surface.size, colours[step], weight, 3 + step, below)
    draw_path(axes, surface, view, shown, colours, weight)
    paper = points_a_unit(axes, view) * [right - left, bottom - top]
    if not numbers or min(paper) < 4 * TAG * weight:  # numbers would lie outside a thin drawing
        return
    tags = place_tags(axes, surface, view, shown, TAG * weight)
    for step, place in zip(shown, tags, strict=True):
        if drawn_side(axes, surface, view, step) < SMALL * weight:
            draw_leader(axes, middles_T2[step], place, colours[step], weight)
        draw_tag(axes, place, str(step + 1), colours[step], TAG * weight)


def draw_object(axes: Axes, record: PhotoRecord, surface: Surface) -> None:
    """The object's box, where the data set has one: dotted, black on white."""
    if record.object_4 is None:
        return
    height, width = surface.size
    left, top, right, bottom = record.object_4
    for colour, style, thick in (("#ffffff", "-", 1.8), ("#14161a", (0, (1, 1.2)), 1.4)):
        axes.add_patch(
            Rectangle(
                (left * width, top * height), (right - left) * width, (bottom - top) * height,
                fill=False, edgecolor=colour, linestyle=style, linewidth=thick, zorder=2.6,
            )
        )  # fmt: skip


def drawn_side(axes: Axes, surface: Surface, view: View, step: int) -> float:
    """Shorter side of a step's narrowest box on paper, in points."""
    box_4 = surface.boxes_TK4[step, 0]
    return float(((box_4[2:] - box_4[:2]) * points_a_unit(axes, view)).min())


def draw_leader(
    axes: Axes, middle_2: np.ndarray, place: tuple[float, float], colour: str, weight: float
) -> None:
    """A line from a small box to its number, which stands at a distance."""
    for tint, thick in ((halo_of(colour), 2.0), (colour, 1.0)):
        axes.plot(*zip(middle_2, place, strict=True), color=tint, linewidth=thick * weight,
                  zorder=38, scalex=False, scaley=False)  # fmt: skip


def draw_boxes(
    axes: Axes,
    boxes_K4: np.ndarray,
    size: tuple[float, float],
    colour: str,
    weight: float = 1.0,
    zorder: float = 3,
    below: int = 0,
) -> None:
    """The boxes of one glimpse, the narrowest with the thickest line.

    below: how many earlier glimpses lie in the same place; gaps in the line show them.
    """
    for k in range(len(boxes_K4) - 1, -1, -1):
        line = weight * (1.7 if k == 0 else 1.0)
        inside, outside = split_at_edges(boxes_K4[k], size)
        strokes: list[tuple[list[np.ndarray], str, float, float, LineStyleType]] = []
        if not below:  # a line with gaps, or outside the photo, has nothing to stand out from
            strokes.append((inside, halo_of(colour), line + 1.1 * weight, 0.55, "-"))
        gaps = (0, (GAP / line, below * GAP / line))
        strokes.append((inside, colour, line, 1.0, gaps if below else "-"))
        strokes.append((outside, colour, line, 1.0, (0, (3, 2))))
        for pieces, tint, thick, alpha, style in strokes:
            if pieces:
                axes.add_collection(
                    LineCollection(
                        pieces, colors=tint, linewidths=thick, linestyles=[style], alpha=alpha,
                        capstyle="projecting" if style == "-" else "butt",
                        zorder=zorder + (0.5 if tint == colour else 0),
                    ),
                    autolim=False,
                )  # fmt: skip


def coinciding(boxes_TK4: np.ndarray, step: int, size: tuple[float, float]) -> int:
    """How many earlier steps read boxes that look the same."""
    moved_T = np.abs(boxes_TK4[:step] - boxes_TK4[step]).max(axis=(1, 2))
    wide = boxes_TK4[step, 0, 2] - boxes_TK4[step, 0, 0]
    return int((moved_T < min(SAME * max(size), wide / 5)).sum())


def split_at_edges(
    box_4: np.ndarray, size: tuple[float, float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A box's four sides cut at the photo's edges: segments inside it and segments outside it, each
    two points (x, y)."""
    left, top, right, bottom = (float(side) for side in box_4)
    height, width = size
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    for fixed, low, high, limit, span, level in (
        (top, left, right, height, width, True),
        (bottom, left, right, height, width, True),
        (left, top, bottom, width, height, False),
        (right, top, bottom, width, height, False),
    ):
        cuts = [low, *(edge for edge in (0.0, float(span)) if low < edge < high), high]
        for start, end in itertools.pairwise(cuts):
            middle = (start + end) / 2
            line = [(start, fixed), (end, fixed)] if level else [(fixed, start), (fixed, end)]
            is_inside = 0 <= fixed <= limit and 0 <= middle <= span
            (inside if is_inside else outside).append(np.array(line))
    return inside, outside


def centres(surface: Surface) -> np.ndarray:
    """Centre of each glimpse's narrowest box, T x 2."""
    boxes_T4 = surface.boxes_TK4[:, 0]
    return (boxes_T4[:, :2] + boxes_T4[:, 2:]) / 2


def draw_path(
    axes: Axes,
    surface: Surface,
    view: View,
    steps: Sequence[int],
    colours: Sequence[str],
    weight: float = 1.0,
) -> None:
    """A dot at each glimpse's centre and an arrow from each to the next."""
    points_T2 = centres(surface)
    scale = points_a_unit(axes, view)
    for step, following in itertools.pairwise(steps):
        if following != step + 1:
            continue
        way = float(np.hypot(*((points_T2[following] - points_T2[step]) * scale)))
        if way < 6 * weight:
            continue
        head = min(7.0 * weight, 0.4 * way)
        arrow = FancyArrowPatch(
            points_T2[step], points_T2[following], arrowstyle="-|>", mutation_scale=head,
            connectionstyle="arc3,rad=0.12", shrinkA=2.2, shrinkB=2.2, linewidth=1.1 * weight,
            color="#ffffff", zorder=40,
        )  # fmt: skip
        outline = patheffects.Stroke(linewidth=2.6 * weight, foreground="#14161a")
        arrow.set_path_effects([outline, patheffects.Normal()])
        axes.add_patch(arrow)
    for step in steps:
        dot = min(3.4, drawn_side(axes, surface, view, step) / 4) * weight
        if dot < 1:
            continue
        axes.plot(
            *points_T2[step], "o", markersize=dot, markerfacecolor=colours[step],
            markeredgecolor="#ffffff", markeredgewidth=0.8 * weight, zorder=41, clip_on=False,
        )  # fmt: skip


def points_a_unit(axes: Axes, view: View) -> np.ndarray:
    """Points of paper for a unit of x and of y."""
    sides = np.array([axes.bbox.width, axes.bbox.height]) * 72 / axes.figure.dpi
    return sides / [view[2] - view[0], view[3] - view[1]]


def place_tags(
    axes: Axes, surface: Surface, view: View, steps: Sequence[int], tag: float = TAG
) -> list[tuple[float, float]]:
    """Where each step's number goes: at its narrowest box, covering as little as possible.

    Outside a corner or a side where the view has room, away from other numbers, the narrowest
    boxes and the centres of glimpses.
    """
    scale = points_a_unit(axes, view)
    origin = np.array(view[:2])
    boxes_T4 = surface.boxes_TK4[:, 0].reshape(-1, 2, 2)
    boxes_T4 = ((boxes_T4 - origin) * scale).reshape(-1, 4)  # in points of the axes
    limits = (np.array(view[2:]) - origin) * scale
    middles = np.stack([boxes_T4[:, [0, 2]].mean(1), boxes_T4[:, [1, 3]].mean(1)], 1)
    ways = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (0, -1), (1, 0), (0, 1), (-1, 0)])
    placed: list[np.ndarray] = []
    for step in steps:
        box = boxes_T4[step]
        half = (box[2:] - box[:2]) / 2
        reaches = ((tag * 0.8, 0.0), (-tag * 1.15, 1.5), (tag * 2.9, 4.0))
        if 2 * half.min() < SMALL * tag / TAG:
            reaches = ((tag * 2.2, 0.0), (tag * 3.2, 1.0), (tag * 4.5, 2.0))
        best, least = middles[step], np.inf
        for rank, way in enumerate(ways):
            for reach, cost in reaches:
                place = middles[step] + way * (half + reach)
                cost = cost + rank * 0.15
                if ((place < tag) | (place > limits - tag)).any():
                    cost += 60
                for taken in placed:
                    cost += 40 * max(0.0, 1 - np.hypot(*(place - taken)) / (2 * tag + 1.5))
                for other in steps:
                    near = np.hypot(*(place - middles[other])) / (tag + 4)
                    cost += 25 * max(0.0, 1 - near)
                    inside = (place > boxes_T4[other, :2]) & (place < boxes_T4[other, 2:])
                    cost += 2.0 if other != step and inside.all() else 0.0
                    if other + 1 in steps:
                        distance = from_line(place, middles[other], middles[other + 1])
                        cost += 3 * max(0.0, 1 - distance / (tag + 1))
                if cost < least:
                    best, least = place, cost
        placed.append(best)
    return [(float(x), float(y)) for x, y in (place / scale + origin for place in placed)]


def from_line(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Distance of a point from a line segment."""
    along = end - start
    along_by = np.clip((point - start) @ along / max(float(along @ along), 1e-9), 0, 1)
    return float(np.hypot(*(point - start - along_by * along)))


def draw_tag(
    axes: Axes, place: tuple[float, float], text: str, colour: str, size: float = TAG
) -> None:
    """A number in a disk of its step's colour."""
    axes.plot(
        *place, "o", markersize=2 * size, markerfacecolor=colour, zorder=50, clip_on=False,
        markeredgecolor="#ffffff", markeredgewidth=0.9,
    )  # fmt: skip
    axes.text(
        *place, text, ha="center", va="center_baseline", fontsize=1.36 * size, zorder=51,
        fontweight="bold", color=ink_on(colour), clip_on=False,
    )  # fmt: skip

"""The key of a picture: what its lines and colours mean. Each mark means one thing everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stacked_ram.viz.boxes import LONG, coinciding, visible
from stacked_ram.viz.feature_colours import MEANING
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import (
    INK,
    QUIET,
    RIGHT,
    WRONG,
    Sheet,
    fitted,
    step_colours,
    text_width,
)

LINE = 0.135  # inches of a line of the key
SWATCH = 0.2
TYPE = 6.5

Mark = tuple[str, dict[str, Any]]
"""What a mark means, and how it looks: `lines` or `signs` (their styles), or `fill` (a colour)."""

OUTSIDE: Mark = ("outside the photo", {"lines": [{"linestyle": (0, (3, 2)), "linewidth": 1.2}]})
AGAIN: Mark = (
    "the same place again",
    {
        "lines": [
            {"linewidth": 1.7},
            {"linewidth": 1.7, "linestyle": (0, (2.5, 2.5)), "color": "#e7c000"},
        ]
    },
)
CENTRE: Mark = (
    "middle of the photo",
    {
        "signs": [
            {"marker": "+", "markersize": 6, "markeredgewidth": 2.0, "color": "white"},
            {"marker": "+", "markersize": 5, "markeredgewidth": 0.8},
        ]
    },
)
LOOKED: Mark = (
    "where the model looked",
    {
        "signs": [
            {"marker": "+", "markersize": 8, "markeredgewidth": 3.2, "color": "#14161a"},
            {"marker": "+", "markersize": 7, "markeredgewidth": 1.5, "color": "#ffffff"},
        ]
    },
)
MEAN: Mark = ("mean of the policy", LOOKED[1])
SPREAD: Mark = (
    "its standard deviation",
    {
        "signs": [
            {"marker": "o", "markersize": 7, "markeredgewidth": 2.2, "color": "#14161a",
             "markerfacecolor": "none"},
            {"marker": "o", "markersize": 7, "markeredgewidth": 1.1, "color": "#ffffff",
             "markerfacecolor": "none"},
        ]
    },
)  # fmt: skip
OBJECT: Mark = (
    "the object, as the data set says",
    {
        "lines": [
            {"color": "#d5dae1", "linewidth": 2.2},
            {"color": "#14161a", "linewidth": 1.4, "linestyle": (0, (1, 1.2))},
        ]
    },
)
TRUE: Mark = ("true class", {"fill": RIGHT})
OTHER: Mark = ("another class", {"fill": WRONG})
THRESHOLD: Mark = ("line in a bar: said from there on", {})
KNOWN: Mark = ("dark: not seen; dim: by the glance alone", {})
MAPS: Mark = (MEANING, {})
THICKER: Mark = (f"small pictures of photos of more than {LONG:.0f} : 1 are drawn thicker", {})


def box_marks(records: Sequence[PhotoRecord], *, nested: bool = True) -> list[Mark]:
    """Marks of the boxes that these pictures hold. nested: all boxes of a glimpse are drawn."""
    surfaces = [surface for record in records for surface in record.surfaces]
    surfaces = [surface for surface in surfaces if len(surface.boxes_TK4)]
    marks: list[Mark] = []
    if nested and any(surface.boxes_TK4.shape[1] > 1 for surface in surfaces):
        lines = {"lines": [{"linewidth": 2.0}]}
        marks.append(("narrowest box of a glimpse; thin: the wider ones", lines))
    if any(reaches_outside(surface, nested) for surface in surfaces):
        marks.append(OUTSIDE)
    if any(repeats(surface) for surface in surfaces):
        marks.append(AGAIN)
    if any(record.maps for record in records):
        marks.append(MAPS)
    return [*marks, *long_marks(records)]


def long_marks(records: Sequence[PhotoRecord]) -> list[Mark]:
    """A note where small pictures have not the shape of the photo."""
    shapes = [record.photo.true_aspect for record in records]
    return [THICKER] if any(visible(shape) != shape for shape in shapes) else []


def object_marks(record: PhotoRecord) -> list[Mark]:
    return [] if record.object_4 is None else [OBJECT]


def reaches_outside(surface: Surface, nested: bool) -> bool:
    height, width = surface.size
    boxes = surface.boxes_TK4 if nested else surface.boxes_TK4[:, :1]
    return bool((boxes[..., :2] < 0).any() or (boxes[..., 2:] > (width, height)).any())


def repeats(surface: Surface) -> bool:
    steps = range(1, len(surface.boxes_TK4))
    return any(coinciding(surface.boxes_TK4, step, surface.size) for step in steps)


def step_marks(steps: int, has_glance: bool) -> list[Mark]:
    """The colours of the steps in curves and frames."""
    marks: list[Mark] = [(f"glimpse {step + 1}", {"signs": [sign(colour)]})
                         for step, colour in enumerate(step_colours(steps))]  # fmt: skip
    return [("glance", {"signs": [sign(QUIET)]}), *marks] if has_glance else marks


def sign(colour: str) -> dict[str, Any]:
    return {"marker": "o", "markersize": 5, "color": colour, "markeredgecolor": "white"}


def belief_marks(records: Sequence[PhotoRecord]) -> list[Mark]:
    """The colours of classes, where true classes are known; thresholds, where there are any."""
    known = any(record.truth is not None for record in records)
    several = any(record.thresholds_N is not None for record in records)
    return [*([TRUE, OTHER] if known else []), *([THRESHOLD] if several else [])]


def places(marks: Sequence[Mark], width: float) -> tuple[list[tuple[float, int]], int]:
    """(x, line) of each mark in this width, and the number of lines."""
    found, x, line = [], 0.0, 0
    for words, look in marks:
        wide = text_width(words, TYPE) + (SWATCH + 0.06 if look else 0) + 0.2
        if x and x + wide - 0.2 > width:
            x, line = 0.0, line + 1
        found.append((x, line))
        x += wide
    return found, line + 1 if marks else 0


def key_height(marks: Sequence[Mark], width: float) -> float:
    """Inches that `draw_key` takes; 0 without marks."""
    lines = places(marks, width)[1]
    return lines * LINE + 0.08 if lines else 0.0


def draw_key(sheet: Sheet, marks: Sequence[Mark], x: float, y: float, width: float) -> None:
    """The marks with their meanings, in as many lines as they need."""
    for (words, look), (along, line) in zip(marks, places(marks, width)[0], strict=True):
        left, middle = x + along, y + 0.04 + (line + 0.5) * LINE
        for style in look.get("lines", ()):
            ends = [left, left + SWATCH], [middle, middle]
            sheet.page.plot(*ends, **{"color": INK, "solid_capstyle": "butt", **style})
        for style in look.get("signs", ()):
            sheet.page.plot(left + SWATCH / 2, middle, linestyle="", **{"color": INK, **style})
        if "fill" in look:
            sheet.bar(left, middle - 0.035, SWATCH, 0.07, look["fill"])
        if look:
            left += SWATCH + 0.06
        sheet.text(left, middle, fitted(words, x + width - left, TYPE), fontsize=TYPE, color=QUIET,
                   va="center_baseline")  # fmt: skip

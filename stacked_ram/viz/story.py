"""All about one photo on one sheet, and its parts as sheets of their own.

One surface: the photo and the belief above, the strip with what was known and believed below.
Several (levels of a stack, feature maps): one row each, the surface beside its patches.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from stacked_ram.viz import strip
from stacked_ram.viz.belief import draw_lines, verdict
from stacked_ram.viz.boxes import draw_surface, view_of
from stacked_ram.viz.records import PhotoRecord, Surface
from stacked_ram.viz.style import INK, PAGE, QUIET, Sheet, fitted, styled, text_width

EDGE = 0.08
TITLE = 0.3
LINES_LEFT = 0.42  # room for the numbers of an axis
LINES_TOP = 0.28  # for the ribbon
LINES_BOTTOM = 0.36


def view_shape(seen: PhotoRecord, surface: Surface, view: tuple) -> float:
    """Height over width of a drawing of this view, at the photo's true shape."""
    true = seen.photo.shape[0] / seen.photo.shape[1]
    share_y = (view[3] - view[1]) / surface.size[0]
    share_x = (view[2] - view[0]) / surface.size[1]
    return true * share_y / share_x


def fit(shape: float, width: float, height: float) -> tuple[float, float]:
    """Largest (width, height) of this shape in a room."""
    return (width, width * shape) if width * shape <= height else (height / shape, height)


def draw_title(sheet: Sheet, seen: PhotoRecord, x: float, y: float, width: float) -> None:
    """The answer, and the photo's name at the right."""
    words, colour = verdict(seen)
    sheet.text(x, y, fitted(words, width, 10, "bold"), color=colour, fontsize=10,
               fontweight="bold")  # fmt: skip
    left = width - text_width(words, 10, "bold") - 0.3
    name = fitted(seen.photo.name, left, 7) if left > 0.5 else ""
    sheet.text(x + width, y, name, color=QUIET, fontsize=7, ha="right")


@styled
def story_figure(seen: PhotoRecord) -> Figure:
    """Scan path, patch strip, what was known, and belief of one photo."""
    return single_story(seen) if len(seen.surfaces) == 1 else stacked_story(seen)


def page_width(seen: PhotoRecord) -> float:
    """A page, or more where the columns of many steps need it."""
    return max(PAGE, 2 * EDGE + strip.LABEL + strip.columns_of(seen) * 0.8)


def single_story(seen: PhotoRecord) -> Figure:
    width = page_width(seen)
    inner = width - 2 * EDGE
    surface = seen.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    photo_width, photo_height = fit(view_shape(seen, surface, view), inner * 0.56, 3.6)
    cell = strip.cell_size(seen, inner)
    top = max(photo_height, 1.9)
    height = (
        TITLE + top + 0.14 + strip.strip_height(seen, cell) + strip.so_far_height(seen, cell)
        + strip.top_height(seen) + EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, seen, EDGE, 0.2, inner)
    axes = sheet.axes(EDGE, TITLE, photo_width, photo_height)
    draw_surface(axes, surface, view)
    left = EDGE + photo_width + 0.15
    draw_belief(sheet, seen, left, TITLE, width - EDGE - left, top)
    y = TITLE + top + 0.14
    y = strip.draw_head(sheet, seen, EDGE, y, cell)
    y = draw_glance(sheet, seen, EDGE, y, cell)
    y = strip.draw_patches(sheet, seen, surface, EDGE, y, cell)
    y = strip.draw_so_far(sheet, seen, EDGE, y, cell)
    strip.draw_top_row(sheet, seen, EDGE, y, cell)
    return sheet.figure


def stacked_story(seen: PhotoRecord) -> Figure:
    width = page_width(seen)
    inner = width - 2 * EDGE
    rows = []
    strip_left = EDGE + 0.36 * inner
    cell = strip.cell_size(seen, width - EDGE - strip_left)
    for number, surface in enumerate(seen.surfaces):
        view = view_of(surface.size, surface.boxes_TK4)
        shape = view_shape(seen, surface, view)
        photo_width, photo_height = fit(shape, 0.36 * inner - 0.05, 2.6)
        patches = strip.patch_rows(surface) * (cell + strip.GAP)
        patches += strip.HEAD if number == 0 else 0
        rows.append((surface, view, photo_width, photo_height, max(photo_height, patches) + 0.3))
    full = strip.cell_size(seen, inner)
    lines = 1.9
    height = (
        TITLE + sum(row[-1] for row in rows) + strip.HEAD + strip.so_far_height(seen, full)
        + strip.top_height(seen) + lines + 2 * EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, seen, EDGE, 0.2, inner)
    y = TITLE
    for number, (surface, view, photo_width, photo_height, tall) in enumerate(rows):
        sheet.text(EDGE, y + 0.12, surface.title, fontsize=7.5, fontweight="bold", color=INK)
        axes = sheet.axes(EDGE, y + 0.18, photo_width, photo_height)
        draw_surface(axes, surface, view, weight=0.85)
        below = y + 0.18
        if number == 0:
            below = strip.draw_head(sheet, seen, strip_left, below - 0.08, cell)
        strip.draw_patches(sheet, seen, surface, strip_left, below, cell)
        y += tall
    y = strip.draw_head(sheet, seen, EDGE, y, full)
    y = strip.draw_so_far(sheet, seen, EDGE, y, full)
    y = strip.draw_top_row(sheet, seen, EDGE, y, full)
    draw_belief(sheet, seen, EDGE + strip.LABEL - LINES_LEFT, y, inner - strip.LABEL, lines)
    return sheet.figure


def draw_glance(sheet: Sheet, seen: PhotoRecord, x: float, y: float, cell: float) -> float:
    """What the glance saw, in the first column beside the first row of patches."""
    from stacked_ram.viz.style import FAINT, frame, show_image

    if seen.glance_HWC is not None and strip.columns_of(seen) > seen.steps:
        wide, tall = fit(seen.photo.shape[0] / seen.photo.shape[1], cell, cell)
        left = strip.column_x(seen, x, cell, 0)
        axes = sheet.axes(left + (cell - wide) / 2, y + (cell - tall) / 2, wide, tall)
        show_image(axes, seen.glance_HWC)
        frame(axes, FAINT, 0.6)
    return y


def draw_belief(
    sheet: Sheet, seen: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """The belief's lines in this room, ribbon and numbers of the axes included."""
    inner_width = width - LINES_LEFT
    inner_height = height - LINES_TOP - LINES_BOTTOM
    axes = sheet.axes(x + LINES_LEFT, y + LINES_TOP, inner_width, inner_height)
    draw_lines(axes, seen, inner_width, inner_height)


@styled
def strip_figure(seen: PhotoRecord) -> Figure:
    """The patch strip alone: every surface's patches, and what was known."""
    width = page_width(seen)
    inner = width - 2 * EDGE
    cell = strip.cell_size(seen, inner)
    titles = len(seen.surfaces) > 1
    height = (
        EDGE + strip.strip_height(seen, cell, len(seen.surfaces))
        + (0.2 * len(seen.surfaces) if titles else 0) + strip.so_far_height(seen, cell) + EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    y = strip.draw_head(sheet, seen, EDGE, EDGE, cell)
    draw_glance(sheet, seen, EDGE, y, cell)
    for surface in seen.surfaces:
        if titles:
            sheet.text(EDGE + strip.LABEL, y + 0.13, surface.title, fontsize=7.5)
            y += 0.2
        y = strip.draw_patches(sheet, seen, surface, EDGE, y, cell)
    strip.draw_so_far(sheet, seen, EDGE, y, cell)
    return sheet.figure


@styled
def belief_figure(seen: PhotoRecord) -> Figure:
    """The belief alone: lines, and the five likeliest classes after each step."""
    width = page_width(seen)
    inner = width - 2 * EDGE
    cell = strip.cell_size(seen, inner)
    height = TITLE + 2.2 + strip.HEAD + strip.top_height(seen) + EDGE
    sheet = Sheet(width, height)
    draw_title(sheet, seen, EDGE, 0.2, inner)
    draw_belief(sheet, seen, EDGE + strip.LABEL - LINES_LEFT, TITLE, inner - strip.LABEL, 2.2)
    y = strip.draw_head(sheet, seen, EDGE, TITLE + 2.2, cell)
    strip.draw_top_row(sheet, seen, EDGE, y, cell)
    return sheet.figure

"""Figures of one photo: everything on one sheet (`story`), or its parts alone.

With one surface: photo and belief above, patches and likeliest classes below. With several
(levels of a stack, feature maps): a row for each, the surface beside its patches.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from stacked_ram.viz.belief import draw_lines, stop_words, verdict
from stacked_ram.viz.boxes import View, draw_surface, fit, view_of, view_shape
from stacked_ram.viz.key import (
    KNOWN,
    MAPS,
    Mark,
    belief_marks,
    box_marks,
    draw_key,
    key_height,
)
from stacked_ram.viz.patch_strip import (
    GAP,
    HEAD,
    LABEL,
    cell_size,
    columns_of,
    draw_foveated,
    draw_glance,
    draw_head,
    draw_patches,
    draw_top_row,
    foveated_height,
    rows_of,
    strip_height,
    top_height,
)
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import (
    EDGE,
    INK,
    PAGE,
    QUIET,
    TITLE,
    Sheet,
    fitted,
    styled,
    text_width,
)
from stacked_ram.viz.zoom import HIGH as ZOOM
from stacked_ram.viz.zoom import draw_zoom, is_tiny

LINES_LEFT = 0.42  # room for the numbers of an axis
LINES_TOP = 0.28  # for the ribbon
LINES_BOTTOM = 0.36


def draw_title(sheet: Sheet, record: PhotoRecord, x: float, y: float, width: float) -> None:
    """The prediction and where it stopped, and the photo's name at the right."""
    text, colour = verdict(record)
    text = fitted(text + stop_words(record), width, 10, "bold")
    sheet.text(x, y, text, color=colour, fontsize=10, fontweight="bold")
    left = width - text_width(text, 10, "bold") - 0.3
    name = fitted(record.photo.name, left, 7) if left > 0.5 else ""
    sheet.text(x + width, y, name, color=QUIET, fontsize=7, ha="right")


@styled
def story(record: PhotoRecord) -> Figure:
    """One photo on one sheet: scan path, belief, patches and the photo as known so far."""
    return single_story(record) if len(record.surfaces) == 1 else stacked_story(record)


def page_width(record: PhotoRecord) -> float:
    """A page, or more where the columns of many steps need it."""
    return max(PAGE, 2 * EDGE + LABEL + columns_of(record) * 0.8)


def single_story(record: PhotoRecord) -> Figure:
    width = page_width(record)
    inner = width - 2 * EDGE
    surface = record.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    most = inner * 0.56
    photo_width, photo_height = fit(view_shape(record, surface, view), most, 3.6)
    zoom = zoom_place(surface, view, photo_width, photo_height, most)
    cell = cell_size(record, inner)
    top = max(photo_height, 1.9, 0 if zoom is None else zoom[1] + zoom[3])
    marks = story_marks(record)
    height = (
        TITLE + top + 0.14 + strip_height(record, cell) + foveated_height(record, cell)
        + top_height(record) + key_height(marks, inner) + EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, 0.2, inner)
    axes = sheet.axes(EDGE, TITLE, photo_width, photo_height)
    draw_surface(axes, surface, view, record.colours)
    left = EDGE + photo_width + 0.15
    if zoom is not None:
        x, y, wide, tall = zoom
        draw_zoom(sheet, record, surface, axes, (EDGE + x, TITLE + y, wide, tall))
        left = max(left, EDGE + x + wide + 0.15)
    draw_belief(sheet, record, left, TITLE, width - EDGE - left, top)
    y = TITLE + top + 0.14
    y = draw_head(sheet, record, EDGE, y, cell)
    draw_glance(sheet, record, EDGE, y, cell)
    y = draw_patches(sheet, record, surface, EDGE, y, cell)
    y = draw_foveated(sheet, record, EDGE, y, cell)
    y = draw_top_row(sheet, record, EDGE, y, cell)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


def story_marks(record: PhotoRecord) -> list[Mark]:
    """The key of a whole sheet."""
    known = [KNOWN] if record.photo_surfaces else []
    return [*box_marks([record]), *belief_marks([record]), *known]


def zoom_place(
    surface: Surface, view: View, width: float, height: float, most: float
) -> tuple[float, float, float, float] | None:
    """Where the neighbourhood of a tiny box is drawn: (x, y, width, height) from the corner of the
    photo's drawing, which is width x height; None where no box is tiny. Below the photo; beside
    one that is narrower than half the room (`most`)."""
    if not is_tiny(surface, view, width, height):
        return None
    if width < most / 2:
        return width + 0.15, 0.0, most - width - 0.15, min(height, 2.2)
    return 0.0, height + 0.12, width, ZOOM


def stacked_story(record: PhotoRecord) -> Figure:
    width = page_width(record)
    inner = width - 2 * EDGE
    rows = []
    strip_left = EDGE + 0.36 * inner
    cell = cell_size(record, width - EDGE - strip_left)
    for number, surface in enumerate(record.surfaces):
        view = view_of(surface.size, surface.boxes_TK4)
        shape = view_shape(record, surface, view)
        most = 0.36 * inner - 0.05
        photo_width, photo_height = fit(shape, most, 2.6)
        zoom = zoom_place(surface, view, photo_width, photo_height, most)
        patches = rows_of(record, surface) * (cell + GAP)
        patches += HEAD if number == 0 else 0
        below = 0 if zoom is None else zoom[1] + zoom[3]
        tall = max(photo_height, below, patches) + 0.3
        rows.append((surface, view, photo_width, photo_height, zoom, tall))
    full = cell_size(record, inner)
    lines, marks = 1.9, story_marks(record)
    height = (
        TITLE + sum(row[-1] for row in rows) + HEAD + foveated_height(record, full)
        + top_height(record) + lines + key_height(marks, inner) + 2 * EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, 0.2, inner)
    y = TITLE
    for number, (surface, view, photo_width, photo_height, zoom, tall) in enumerate(rows):
        sheet.text(EDGE, y + 0.12, surface.title, fontsize=7.5, fontweight="bold", color=INK)
        axes = sheet.axes(EDGE, y + 0.18, photo_width, photo_height)
        draw_surface(axes, surface, view, record.colours, weight=0.85)
        below = y + 0.18
        if zoom is not None:
            across, down, wide, high = zoom
            place = (EDGE + across, below + down, wide, high)
            draw_zoom(sheet, record, surface, axes, place)
        if number == 0:
            below = draw_head(sheet, record, strip_left, below - 0.08, cell)
        draw_patches(sheet, record, surface, strip_left, below, cell)
        y += tall
    y = draw_head(sheet, record, EDGE, y, full)
    y = draw_foveated(sheet, record, EDGE, y, full)
    y = draw_top_row(sheet, record, EDGE, y, full)
    draw_belief(sheet, record, EDGE + LABEL - LINES_LEFT, y, inner - LABEL, lines)
    draw_key(sheet, marks, EDGE, y + lines, inner)
    return sheet.figure


def draw_belief(
    sheet: Sheet, record: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """The lines of the belief in this area, with the ribbon and the numbers of the axes."""
    inner_width = width - LINES_LEFT
    inner_height = height - LINES_TOP - LINES_BOTTOM
    axes = sheet.axes(x + LINES_LEFT, y + LINES_TOP, inner_width, inner_height)
    draw_lines(axes, record, inner_width, inner_height)


@styled
def scan_path(record: PhotoRecord) -> Figure:
    """The scan path alone; of a stack, a row for each level or map, as it sees the photo."""
    width, many = PAGE * 0.62, len(record.surfaces) > 1
    rows = []
    for surface in record.surfaces:
        view = view_of(surface.size, surface.boxes_TK4)
        room = 3.0 if many else 4.4
        rows.append(
            (surface, view, *fit(view_shape(record, surface, view), width - 2 * EDGE, room))
        )
    head = 0.22 if many else 0
    marks, inner = box_marks([record]), width - 2 * EDGE
    surface, view, wide, tall = rows[0]
    zoomed = not many and is_tiny(surface, view, wide, tall)
    tall_zoom = ZOOM + 0.12 if zoomed else 0.0
    height = sum(row[3] + head + EDGE for row in rows) + tall_zoom
    sheet = Sheet(width, TITLE + height + key_height(marks, inner))
    draw_title(sheet, record, EDGE, 0.2, width - 2 * EDGE)
    y = TITLE
    for surface, view, wide, tall in rows:
        if many:
            sheet.text(EDGE, y + 0.13, surface.title, fontsize=7.5, fontweight="bold", color=INK)
        axes = sheet.axes((width - wide) / 2, y + head, wide, tall)
        draw_surface(axes, surface, view, record.colours)
        y += tall + head + EDGE
    if zoomed:
        draw_zoom(sheet, record, surface, axes, (EDGE, y, inner, ZOOM))
    draw_key(sheet, marks, EDGE, y + tall_zoom, inner)
    return sheet.figure


@styled
def strip(record: PhotoRecord) -> Figure:
    """The patch strip alone: every surface's patches, and the photo as known so far."""
    width = page_width(record)
    inner = width - 2 * EDGE
    cell = cell_size(record, inner)
    titles = len(record.surfaces) > 1
    marks = [*([MAPS] if record.maps else []), *([KNOWN] if record.photo_surfaces else [])]
    height = (
        EDGE + strip_height(record, cell, len(record.surfaces))
        + (0.2 * len(record.surfaces) if titles else 0) + foveated_height(record, cell)
        + key_height(marks, inner) + EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    y = draw_head(sheet, record, EDGE, EDGE, cell)
    draw_glance(sheet, record, EDGE, y, cell)
    for surface in record.surfaces:
        if titles:
            sheet.text(EDGE + LABEL, y + 0.13, surface.title, fontsize=7.5)
            y += 0.2
        y = draw_patches(sheet, record, surface, EDGE, y, cell)
    y = draw_foveated(sheet, record, EDGE, y, cell)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


@styled
def belief(record: PhotoRecord) -> Figure:
    """The belief alone: lines, and the likeliest classes after each step."""
    width = page_width(record)
    inner = width - 2 * EDGE
    cell = cell_size(record, inner)
    marks = belief_marks([record])
    height = TITLE + 2.2 + HEAD + top_height(record) + key_height(marks, inner) + EDGE
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, 0.2, inner)
    draw_belief(sheet, record, EDGE + LABEL - LINES_LEFT, TITLE, inner - LABEL, 2.2)
    y = draw_head(sheet, record, EDGE, TITLE + 2.2, cell)
    y = draw_top_row(sheet, record, EDGE, y, cell)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


PARTS: dict[str, Callable[[PhotoRecord], Figure]] = {
    "scan_path": scan_path,
    "strip": strip,
    "belief": belief,
}
"""The parts of `story` as separate figures."""

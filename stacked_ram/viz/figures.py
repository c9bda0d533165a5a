"""Figures of one photo: everything on one sheet (`story`), or its parts alone.

With one surface: photo and belief above, patches and likeliest classes below. With several
(levels of a stack, feature maps): a row for each, the surface beside its patches. In the width of a
column everything stands below each other.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from stacked_ram.viz.belief import draw_lines, stop_words, verdict
from stacked_ram.viz.boxes import View, draw_object, draw_surface, fit, view_of, view_shape
from stacked_ram.viz.key import (
    KNOWN,
    MAPS,
    Mark,
    belief_marks,
    box_marks,
    draw_key,
    key_height,
    object_marks,
)
from stacked_ram.viz.patch_strip import (
    HEAD,
    LABEL,
    bands_of,
    draw_foveated,
    draw_glance,
    draw_head,
    draw_patches,
    draw_top_row,
    foveated_height,
    patches_height,
    top_height,
)
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import (
    EDGE,
    INK,
    QUIET,
    Sheet,
    fitted,
    is_narrow,
    page_width,
    shrunk,
    styled,
    text_width,
)
from stacked_ram.viz.zoom import HIGH as ZOOM
from stacked_ram.viz.zoom import draw_zoom, is_tiny

LINES_LEFT = 0.42  # room for the numbers of an axis
LINES_TOP = 0.28  # for the ribbon
LINES_BOTTOM = 0.36


def title_height() -> float:
    """Inches that `draw_title` takes."""
    return 0.42 if is_narrow() else 0.3


def draw_title(sheet: Sheet, record: PhotoRecord, x: float, width: float) -> None:
    """The prediction and where it stopped, at the top of a sheet, and the photo's name at the
    right, or below."""
    text, colour = verdict(record)
    stopped, name = stop_words(record), record.photo.name
    if is_narrow():
        text, size = shrunk(text, width, 10, 8, "bold")
        sheet.text(x, 0.2, text, color=colour, fontsize=size, fontweight="bold")
        name = f"{stopped.removeprefix(', ')}: {name}" if stopped else name
        sheet.text(x, 0.34, fitted(name, width, 7), color=QUIET, fontsize=7)
        return
    text = fitted(text + stopped, width, 10, "bold")
    sheet.text(x, 0.2, text, color=colour, fontsize=10, fontweight="bold")
    left = width - text_width(text, 10, "bold") - 0.3
    name = fitted(name, left, 7) if left > 0.5 else ""
    sheet.text(x + width, 0.2, name, color=QUIET, fontsize=7, ha="right")


@styled
def story(record: PhotoRecord) -> Figure:
    """One photo on one sheet: scan path, belief, patches and the photo as known so far."""
    return single_story(record) if len(record.surfaces) == 1 else stacked_story(record)


def single_story(record: PhotoRecord) -> Figure:
    width, narrow, title = page_width(), is_narrow(), title_height()
    inner = width - 2 * EDGE
    surface = record.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    most = inner if narrow else inner * 0.56
    photo_width, photo_height = fit(view_shape(record, surface, view), most, 3.6)
    zoom = zoom_place(surface, view, photo_width, photo_height, most)
    bands = bands_of(record, EDGE, inner)
    top = max(photo_height, 0 if zoom is None else zoom[1] + zoom[3])
    top = top + 1.9 if narrow else max(top, 1.9)
    marks = story_marks(record)
    height = (
        title + top + 0.14 + len(bands) * HEAD + patches_height(bands, surface)
        + foveated_height(bands) + top_height(bands) + key_height(marks, inner) + EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, inner)
    axes = sheet.axes(EDGE, title, photo_width, photo_height)
    draw_surface(axes, surface, view, record.colours)
    draw_object(axes, record, surface)
    left = EDGE + photo_width + 0.15
    if zoom is not None:
        x, y, wide, tall = zoom
        draw_zoom(sheet, record, surface, axes, (EDGE + x, title + y, wide, tall))
        left = max(left, EDGE + x + wide + 0.15)
    if narrow:
        draw_belief(sheet, record, EDGE, title + top - 1.9, inner, 1.9)
    else:
        draw_belief(sheet, record, left, title, width - EDGE - left, top)
    y = title + top + 0.14
    for band in bands:
        y = draw_head(sheet, band, y)
        draw_glance(sheet, band, y)
        y = draw_patches(sheet, band, surface, y)
        y = draw_foveated(sheet, band, y)
        y = draw_top_row(sheet, band, y)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


def story_marks(record: PhotoRecord) -> list[Mark]:
    """The key of a whole sheet."""
    known = [KNOWN] if record.photo_surfaces else []
    return [*box_marks([record]), *object_marks(record), *belief_marks([record]), *known]


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
    width, narrow, title = page_width(), is_narrow(), title_height()
    inner = width - 2 * EDGE
    most = inner if narrow else 0.36 * inner - 0.05
    strip_left = EDGE if narrow else EDGE + 0.36 * inner
    strips = bands_of(record, strip_left, width - EDGE - strip_left, least=0.4)
    rows = []
    read = [surface for surface in record.surfaces if surface.patch_rows]
    for surface in record.surfaces:
        view = view_of(surface.size, surface.boxes_TK4)
        size = fit(view_shape(record, surface, view), most, 2.6)
        zoom = zoom_place(surface, view, *size, most)
        heads = surface is read[0] or (len(strips) > 1 and surface.patch_rows > 0)
        below = size[1] if zoom is None else max(size[1], zoom[1] + zoom[3])
        patches = patches_height(strips, surface) + len(strips) * HEAD * heads
        tall = (below + patches + 0.06 if narrow else max(below, patches)) + 0.3
        rows.append((surface, view, size, zoom, below, heads, tall))
    bands = bands_of(record, EDGE, inner)
    lines, marks = 1.9, story_marks(record)
    height = (
        title + sum(row[-1] for row in rows) + len(bands) * HEAD + foveated_height(bands)
        + top_height(bands) + lines + key_height(marks, inner) + 2 * EDGE
    )  # fmt: skip
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, inner)
    y = title
    for surface, view, size, zoom, below, heads, tall in rows:
        sheet.text(EDGE, y + 0.12, surface.title, fontsize=7.5, fontweight="bold", color=INK)
        top = y + 0.18
        axes = sheet.axes(EDGE, top, *size)
        draw_surface(axes, surface, view, record.colours, weight=0.85)
        if not surface.is_map:
            draw_object(axes, record, surface)
        if zoom is not None:
            across, down, wide, high = zoom
            draw_zoom(sheet, record, surface, axes, (EDGE + across, top + down, wide, high))
        strip_y = top + below + 0.06 if narrow else top - (0.08 if heads else 0)
        for band in strips:
            if heads:
                strip_y = draw_head(sheet, band, strip_y, glance=surface is read[0])
            if surface is read[0]:
                draw_glance(sheet, band, strip_y)
            strip_y = draw_patches(sheet, band, surface, strip_y)
        y += tall
    for band in bands:
        y = draw_head(sheet, band, y)
        y = draw_foveated(sheet, band, y)
        y = draw_top_row(sheet, band, y)
    left = 0.0 if narrow else LABEL - LINES_LEFT
    draw_belief(sheet, record, EDGE + left, y, inner - left, lines)
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
    width, many, title = min(page_width(), 4.5), len(record.surfaces) > 1, title_height()
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
    sheet = Sheet(width, title + height + key_height(marks, inner))
    draw_title(sheet, record, EDGE, inner)
    y = title
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
    inner = page_width() - 2 * EDGE
    bands = bands_of(record, EDGE, inner)
    surfaces = [surface for surface in record.surfaces if surface.patch_rows]
    named = 0.2 if len(surfaces) > 1 else 0.0
    marks = [*([MAPS] if record.maps else []), *([KNOWN] if record.photo_surfaces else [])]
    height = (
        EDGE + len(bands) * (HEAD + named * len(surfaces)) + patches_height(bands, *surfaces)
        + foveated_height(bands) + key_height(marks, inner) + EDGE
    )  # fmt: skip
    sheet = Sheet(page_width(), height)
    y = EDGE
    for band in bands:
        y = draw_head(sheet, band, y)
        draw_glance(sheet, band, y + named)
        for surface in surfaces:
            if named:
                sheet.text(EDGE + LABEL, y + 0.13, surface.title, fontsize=7.5)
                y += named
            y = draw_patches(sheet, band, surface, y)
        y = draw_foveated(sheet, band, y)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


@styled
def belief(record: PhotoRecord) -> Figure:
    """The belief alone: lines, and the likeliest classes after each step."""
    width, title = page_width(), title_height()
    inner = width - 2 * EDGE
    bands = bands_of(record, EDGE, inner)
    marks = belief_marks([record])
    height = title + 2.2 + len(bands) * HEAD + top_height(bands) + key_height(marks, inner) + EDGE
    sheet = Sheet(width, height)
    draw_title(sheet, record, EDGE, inner)
    left = 0.0 if is_narrow() else LABEL - LINES_LEFT
    draw_belief(sheet, record, EDGE + left, title, inner - left, 2.2)
    y = title + 2.2
    for band in bands:
        y = draw_head(sheet, band, y)
        y = draw_top_row(sheet, band, y)
    draw_key(sheet, marks, EDGE, y, inner)
    return sheet.figure


PARTS: dict[str, Callable[[PhotoRecord], Figure]] = {
    "scan_path": scan_path,
    "strip": strip,
    "belief": belief,
}
"""The parts of `story` as separate figures."""

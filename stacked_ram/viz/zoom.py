"""The neighbourhood of the last glimpse, enlarged, where its box is too small to be seen."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from stacked_ram.viz.boxes import View, draw_surface
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.records import DRAWN, as_rgb
from stacked_ram.viz.style import INK, Sheet

TINY = 16  # points; narrower boxes are enlarged
AROUND = 5  # times as high as the box
HIGH = 1.5  # inches


def is_tiny(surface: Surface, view: View, width: float, height: float) -> bool:
    """Whether the last glimpse's narrowest box cannot be seen well on a drawing of this size
    (inches)."""
    if not len(surface.boxes_TK4) or surface.is_map:
        return False
    left, top, right, bottom = surface.boxes_TK4[-1, 0]
    wide = (right - left) / (view[2] - view[0]) * width * 72
    high = (bottom - top) / (view[3] - view[1]) * height * 72
    return bool(min(wide, high) < TINY)


def zoom_view(record: PhotoRecord, surface: Surface, width: float, height: float) -> View:
    """The part of the photo around the last glimpse, of the shape of a picture of width x
    height."""
    tall, wide = surface.size
    left, top, right, bottom = surface.boxes_TK4[-1, 0]
    unit = record.photo.true_aspect * wide / tall  # height of a unit of y over width of a unit of x
    across = max(right - left, (bottom - top) * unit) * AROUND * width / height
    down = across * height / width / unit
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    start = middle - np.array([across, down]) / 2
    low, high = np.zeros(2), np.array([wide - across, tall - down])
    # the picture stays inside the photo where the photo is large enough
    start = np.where(high > low, np.clip(start, low, np.maximum(high, low)), start)
    x, y = start.tolist()
    return (x, y, x + across, y + down)


def pixels_of(record: PhotoRecord, view: View) -> tuple[np.ndarray, View]:
    """The photo's pixels in a view, H x W x 3, and the part of the photo that they cover."""
    photo = record.photo
    height, width = photo.size
    left, top = (max(0, int(np.floor(edge))) for edge in view[:2])
    right = min(width, int(np.ceil(view[2])))
    bottom = min(height, int(np.ceil(view[3])))
    if photo.large is None:
        return as_rgb(photo.pixels_CHW[:, top:bottom, left:right]), (left, top, right, bottom)
    reduced = max(1.0, np.sqrt((right - left) * (bottom - top) / DRAWN))
    cells = max(1, int((bottom - top) / reduced)), max(1, int((right - left) / reduced))
    window = photo.large.window((left, top), (right - left, bottom - top), cells)
    (x, y), (wide, high) = window.corner, window.factors
    rows, columns = window.pixels_CHW.shape[1:]
    return as_rgb(window.pixels_CHW), (x * wide, y * high, (x + columns) * wide, (y + rows) * high)


def draw_zoom(
    sheet: Sheet,
    record: PhotoRecord,
    surface: Surface,
    parent: Axes,
    place: tuple[float, float, float, float],
) -> None:
    """The enlarged part in this place (x, y, width, height in inches), and a frame where it lies in
    the drawing of the whole photo (parent: its axes)."""
    x, y, width, height = place
    view = zoom_view(record, surface, width, height)
    axes = sheet.axes(x, y, width, height)
    # a level that sees the photo pooled is enlarged as it sees it
    as_taken = surface.image_HWC is record.surfaces[0].image_HWC
    detail = pixels_of(record, view) if as_taken else None
    draw_surface(axes, surface, view, record.colours, detail=detail)
    axes.spines[:].set(visible=True, color=INK, linewidth=0.8)
    bounds = (view[0], view[1], view[2] - view[0], view[3] - view[1])
    parent.indicate_inset(bounds, edgecolor=INK, alpha=0.9, linewidth=0.8, zorder=60)
    words = f"enlarged: around glimpse {len(surface.boxes_TK4)}"
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
    axes.text(0.006, 0.985, words, transform=axes.transAxes, va="top", fontsize=6.5, zorder=70,
              bbox=box)  # fmt: skip

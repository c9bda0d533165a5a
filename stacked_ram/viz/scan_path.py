"""Scan paths: where the model looked, in which order, as boxes on the photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.trace import Trace
from stacked_ram.viz.belief import percent, verdict
from stacked_ram.viz.boxes import draw_surface, view_of
from stacked_ram.viz.records import Photo, PhotoRecord, seen_in
from stacked_ram.viz.sources import large_photo
from stacked_ram.viz.story import EDGE, TITLE, draw_title, fit, view_shape
from stacked_ram.viz.style import INK, PAGE, Sheet, shrunk, styled

ROOMY = 1.2  # inches from which on a small picture has room for numbers


@styled
def scan_path_figure(seen: PhotoRecord) -> Figure:
    """The scan path of one photo; of a stack, one row a level or map, each as it sees the photo."""
    width, many = PAGE * 0.62, len(seen.surfaces) > 1
    rows = []
    for surface in seen.surfaces:
        view = view_of(surface.size, surface.boxes_TK4)
        room = 3.0 if many else 4.4
        rows.append((surface, view, *fit(view_shape(seen, surface, view), width - 2 * EDGE, room)))
    head = 0.22 if many else 0
    sheet = Sheet(width, TITLE + sum(row[3] + head + EDGE for row in rows))
    draw_title(sheet, seen, EDGE, 0.2, width - 2 * EDGE)
    y = TITLE
    for surface, view, wide, tall in rows:
        if many:
            sheet.text(EDGE, y + 0.13, surface.title, fontsize=7.5, fontweight="bold", color=INK)
        draw_surface(sheet.axes((width - wide) / 2, y + head, wide, tall), surface, view)
        y += tall + head + EDGE
    return sheet.figure


@styled
def scan_path_grid(photos: Sequence[PhotoRecord], columns: int = 4, width: float = PAGE) -> Figure:
    """Many scan paths, small, each with the answer below; of a stack, its last level."""
    side = (width - EDGE) / columns - EDGE
    tall = max(
        fit(view_shape(one, one.surfaces[-1], view_of_seen(one)), side, side * 1.1)[1]
        for one in photos
    )
    rows = -(-len(photos) // columns)
    sheet = Sheet(width, rows * (tall + 0.36) + EDGE)
    for number, one in enumerate(photos):
        x = EDGE + number % columns * (side + EDGE)
        y = EDGE + number // columns * (tall + 0.36)
        draw_small(sheet, one, x, y, side, tall)
    return sheet.figure


def view_of_seen(seen: PhotoRecord) -> tuple:
    """What a small picture shows: it has the narrowest boxes alone."""
    surface = seen.surfaces[-1]
    return view_of(surface.size, surface.boxes_TK4[:, :1])


def draw_small(
    sheet: Sheet, seen: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """A small scan path in this room, and its verdict in one line or two below."""
    surface, view = seen.surfaces[-1], view_of_seen(seen)
    wide, tall = fit(view_shape(seen, surface, view), width, height)
    axes = sheet.axes(x + (width - wide) / 2, y + (height - tall), wide, tall)
    roomy = width >= ROOMY
    draw_surface(axes, surface, view, weight=0.8 if roomy else 0.6, nested=False, numbers=roomy)
    lines, colour = caption(seen, roomy)
    for number, words in enumerate(lines):
        words, size = shrunk(words, width, 6.8, 5.5)
        sheet.text(x + width / 2, y + height + 0.13 + 0.115 * number, words, fontsize=size,
                   color=INK if number else colour, ha="center")  # fmt: skip


def caption(seen: PhotoRecord, roomy: bool) -> tuple[list[str], str]:
    """A line or two about the answer, and the colour of the first."""
    words, colour = verdict(seen)
    if roomy:
        said, _, true = words.partition(", is ")
        return ([said, f"is {true}"] if true else [said]), colour
    tick = "" if seen.right is None else "✓ " if seen.right else "✗ "
    below = (
        percent(seen.sure) if seen.right is not False else f"is {seen.classes[seen.photo.label]}"
    )
    return [tick + seen.classes[seen.says], below], colour


def draw_scan_paths(
    pixels_BCHW: Tensor | LazyPhotos,
    trace: Trace,
    classes: Sequence[str],
    labels_B: Tensor | Sequence[int] | None = None,
    sizes_B2: Tensor | None = None,
) -> Figure:
    """The scan paths of a batch (uint8 pixels, its trace) as a grid: TensorBoard's pictures.

    sizes_B2: (height, width) of each photo inside the padding; None: all of it.
    """
    seen = []
    for b in range(len(trace.logits_BTN) // trace.rollouts):
        label = None if labels_B is None else int(torch.as_tensor(labels_B[b]))
        if isinstance(pixels_BCHW, LazyPhotos):
            photo = large_photo("", pixels_BCHW.photos[b], label)
        else:
            pixels_CHW = pixels_BCHW[b].detach().cpu()
            height, width = pixels_CHW.shape[1:] if sizes_B2 is None else sizes_B2[b].tolist()
            photo = Photo("", pixels_CHW[:, :height, :width].numpy(), (height, width), label)
        seen.append(seen_in(trace, b * trace.rollouts, photo, classes))
    return scan_path_grid(seen)

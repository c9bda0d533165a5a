"""Small scan paths, alone or in a grid, each with the prediction below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.trace import Trace
from stacked_ram.viz.belief import percent, verdict
from stacked_ram.viz.boxes import View, draw_surface, fit, view_of, view_shape
from stacked_ram.viz.photos import Photo, large_photo
from stacked_ram.viz.records import PhotoRecord, record_of
from stacked_ram.viz.style import EDGE, INK, PAGE, Sheet, shrunk, styled

ROOMY = 1.2  # inches from which on a small picture has room for numbers


@styled
def scan_path_grid(photos: Sequence[PhotoRecord], columns: int = 4, width: float = PAGE) -> Figure:
    """Many scan paths, small, each with the answer below; of a stack, its last level."""
    side = (width - EDGE) / columns - EDGE
    tall = max(
        fit(view_shape(one, one.surfaces[-1], small_view(one)), side, side * 1.1)[1]
        for one in photos
    )
    rows = -(-len(photos) // columns)
    sheet = Sheet(width, rows * (tall + 0.36) + EDGE)
    for number, one in enumerate(photos):
        x = EDGE + number % columns * (side + EDGE)
        y = EDGE + number // columns * (tall + 0.36)
        draw_small(sheet, one, x, y, side, tall)
    return sheet.figure


def small_view(record: PhotoRecord) -> View:
    """What a small picture shows: it has the narrowest boxes alone."""
    surface = record.surfaces[-1]
    return view_of(surface.size, surface.boxes_TK4[:, :1])


def draw_small(
    sheet: Sheet, record: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """A small scan path in this room, and its verdict in one line or two below."""
    surface, view = record.surfaces[-1], small_view(record)
    wide, tall = fit(view_shape(record, surface, view), width, height)
    axes = sheet.axes(x + (width - wide) / 2, y + (height - tall), wide, tall)
    roomy = width >= ROOMY
    draw_surface(axes, surface, view, weight=0.8 if roomy else 0.6, nested=False, numbers=roomy)
    lines, colour = caption(record, roomy)
    for number, words in enumerate(lines):
        words, size = shrunk(words, width, 6.8, 5.5)
        sheet.text(x + width / 2, y + height + 0.13 + 0.115 * number, words, fontsize=size,
                   color=INK if number else colour, ha="center")  # fmt: skip


def caption(record: PhotoRecord, roomy: bool) -> tuple[list[str], str]:
    """A line or two about the answer, and the colour of the first."""
    words, colour = verdict(record)
    if roomy:
        said, _, true = words.partition(", is ")
        return ([said, f"is {true}"] if true else [said]), colour
    predicted = record.classes[record.predicted]
    if record.correct is None:
        return [predicted, percent(record.confidence)], colour
    if record.correct:
        return [f"✓ {predicted}", percent(record.confidence)], colour
    return [f"✗ {predicted}", f"is {record.classes[record.photo.label]}"], colour


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
    record = []
    for b in range(len(trace.logits_BTN) // trace.rollouts):
        label = None if labels_B is None else int(torch.as_tensor(labels_B[b]))
        if isinstance(pixels_BCHW, LazyPhotos):
            photo = large_photo("", pixels_BCHW.photos[b], label)
        else:
            pixels_CHW = pixels_BCHW[b].detach().cpu()
            height, width = pixels_CHW.shape[1:] if sizes_B2 is None else sizes_B2[b].tolist()
            photo = Photo("", pixels_CHW[:, :height, :width].numpy(), (height, width), label)
        record.append(record_of(trace, b * trace.rollouts, photo, classes))
    return scan_path_grid(record)

"""The photo as the model knows it: all patches where they were read, the finest on top."""

from __future__ import annotations

import math

import numpy as np

from stacked_ram.viz.photo_record import PhotoRecord

MOST = 300_000  # pixels of the canvas

UNSEEN = 18  # brightness where nothing was read
GLANCED = 0.45  # factor on the brightness of what only the glance saw


def foveated(record: PhotoRecord, steps: int) -> np.ndarray:
    """The photo (H x W x 3, uint8) from the patches of its first `steps` steps.

    Where patches overlap, the finest shows, and of equally fine ones the last. Regions that only
    the glance saw are dimmed, unseen regions dark.
    """
    height, width = record.photo.pixels_CHW.shape[1:]
    reduced = min(1.0, math.sqrt(MOST / (height * width)))
    height, width = max(1, round(height * reduced)), max(1, round(width * reduced))
    canvas_HWC = np.full((height, width, 3), UNSEEN, np.uint8)
    if record.glance_HWC is not None:
        rows, columns = cells(0, height, height, record.glance_HWC.shape[0])
        across, along = cells(0, width, width, record.glance_HWC.shape[1])
        glanced = record.glance_HWC[columns][:, along] * GLANCED + UNSEEN * (1 - GLANCED)
        canvas_HWC[np.ix_(rows, across)] = glanced.astype(np.uint8)
    pieces = [
        (surface.boxes_TK4[step, k], surface.patches_TKPPC[step, k], step)
        for surface in record.photo_surfaces
        for step in range(steps)
        for k in range(surface.boxes_TK4.shape[1])
    ]
    # boxes are in pixels of the photo, the canvas may be a reduced picture of it
    scale = height / record.photo.size[0], width / record.photo.size[1]
    pieces.sort(key=lambda piece: (-(piece[0][2] - piece[0][0]) / len(piece[1]), piece[2]))
    for (left, top, right, bottom), patch_PPC, _ in pieces:
        rows, from_rows = cells(top * scale[0], bottom * scale[0], height, len(patch_PPC))
        columns, from_columns = cells(left * scale[1], right * scale[1], width, len(patch_PPC))
        canvas_HWC[np.ix_(rows, columns)] = patch_PPC[np.ix_(from_rows, from_columns)]
    return canvas_HWC


def cells(start: float, end: float, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels along a side of `size` whose centres lie between start and end, and for each the
    index of its cell among the `count` equal cells from start to end."""
    centres = np.arange(size) + 0.5
    inside = np.flatnonzero((centres >= start) & (centres < end))
    index = (centres[inside] - start) / max(end - start, 1e-9) * count
    return inside, np.minimum(index.astype(int), count - 1)

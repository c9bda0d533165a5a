"""Keeping a box on its object while the photo is turned and reduced."""

from __future__ import annotations

from stacked_ram.preparing.records import Box


def turn_box(box: Box, width: int, height: int, orientation: int) -> Box:
    """The box after the EXIF `orientation` (1 to 8) of a `width` x `height` photo is applied."""
    left, top, right, bottom = box
    if orientation in (5, 6, 7, 8):  # these exchange rows and columns
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def scale_box(box: Box, across: float, down: float) -> Box:
    """The box after the photo was resized by these factors."""
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """The part of the box on the photo, to hundredths of a pixel; None where nothing is left."""
    left, right = (round(min(max(x, 0.0), width), 2) for x in (box[0], box[2]))
    top, bottom = (round(min(max(y, 0.0), height), 2) for y in (box[1], box[3]))
    return (left, top, right, bottom) if left < right and top < bottom else None

"""Adjust boxes when photos are rotated and reduced."""

from __future__ import annotations

from collections.abc import Iterable

from stacked_ram.preparation.records import Box


def largest_box(boxes: Iterable[tuple[str, Box]]) -> Box | None:
    """Return the box with the largest area, the first of equal ones; None if there is none."""
    return max((box for _, box in boxes), key=_area, default=None)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def turn_box(box: Box, width: int, height: int, orientation: int) -> Box:
    """Return the box after applying EXIF `orientation` (1 to 8) to a `width` x `height` photo."""
    left, top, right, bottom = box
    if orientation in (5, 6, 7, 8):  # these exchange rows and columns
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Clip the box to the photo, rounded to 0.01 pixels; None if it is outside."""
    left, right = (round(min(max(x, 0.0), width), 2) for x in (box[0], box[2]))
    top, bottom = (round(min(max(y, 0.0), height), 2) for y in (box[1], box[3]))
    return (left, top, right, bottom) if left < right and top < bottom else None


def fits_photo(box: str, raw_width: int, raw_height: int) -> Box | None:
    """Parse a box of the catalogue: four numbers in pixels, and perhaps the size of its photo.

    Returns None if it was drawn on a photo of another size.
    """
    left, top, right, bottom, *size = (float(number) for number in box.split())
    return None if size and size != [raw_width, raw_height] else (left, top, right, bottom)


def stored_box(
    text: str | None, raw_width: int, raw_height: int, orientation: int, width: int, height: int
) -> Box | None:
    """Convert a box of the catalogue to pixels of the stored, upright photo."""
    box = fits_photo(text, raw_width, raw_height) if text else None
    if box is None:
        return None
    left, top, right, bottom = turn_box(box, raw_width, raw_height, orientation)
    if orientation >= 5:
        raw_width, raw_height = raw_height, raw_width
    across, down = width / raw_width, height / raw_height
    return left * across, top * down, right * across, bottom * down

"""Adjust boxes when photos are rotated and reduced."""

from __future__ import annotations

from collections.abc import Iterable

from stacked_ram.preparation.records import FRACTIONS, Box


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


def box_text(box: Box, box_of: tuple[int, int] | None) -> str:
    """Return a box for the catalogue: four numbers, and the size of its photo if that is known."""
    return " ".join(str(number) for number in (*box, *(box_of or ())))


def stored_box(
    text: str | None, raw_width: int, raw_height: int, orientation: int, width: int, height: int
) -> Box | None:
    """Convert a box of the catalogue to pixels of the stored, upright photo.

    Returns None for no box, or one that was drawn on a photo of another size.
    """
    if not text:
        return None
    left, top, right, bottom, *size = (float(number) for number in text.split())
    box = left, top, right, bottom
    upright = [float(raw_height), raw_width] if orientation >= 5 else [float(raw_width), raw_height]
    if size == list(FRACTIONS):
        upright = size
    elif not size or size == [raw_width, raw_height]:
        box = turn_box(box, raw_width, raw_height, orientation)
    elif size != upright:  # else it was drawn on the photo as a viewer turns it
        return None
    across, down = width / upright[0], height / upright[1]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down

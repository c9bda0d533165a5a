"""Checked photos of rectangles whose proportions are their class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from stacked_ram.preparation.records import CheckedRecord

MAGENTA = (255, 0, 255)
# each class has its own proportions, which would show if they leaked out of the box
SIZES = {"tall": (30, 60), "wide": (60, 30), "square": (45, 45)}


def checked_rectangles(folder: Path, count: int) -> list[CheckedRecord]:
    """Return 3 photos for valid, 3 for test and the rest for training; the classes alternate."""
    made = []
    for number in range(count):
        name = list(SIZES)[number % 3]
        split = {0: "valid", 1: "test"}.get(number // 3, "train")
        file = folder / f"{number}.png"
        Image.new("RGB", SIZES[name], MAGENTA).save(file)
        source = f"{name}/{number}.png"
        made.append(CheckedRecord(source, name, split, "", None, None, file, *SIZES[name], ()))
    return made

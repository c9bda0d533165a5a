"""Write report.html and report.csv of a prepared data set of digits."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stacked_ram.preparation.encoding import TILE, thumbnail
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.report import REPORT_COLUMNS, SHEET_TILES, write_pages

_FROM_EACH = SHEET_TILES // len(SPLITS)


def write_digit_reports(
    tree: Path, info: Mapping[str, Any], sources: Mapping[str, tuple[str, np.ndarray]]
) -> None:
    """Write `tree/report.html` and `tree/report.csv`.

    Args:
        tree: the folder of the data set, with its arrays.
        info: the content of dataset.yaml.
        sources: split -> (name of the file the digits came from, their numbers in it, from 0).
    """
    with open(tree / "report.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(REPORT_COLUMNS)
        for split in SPLITS:
            name, numbers = sources[split]
            labels_N = np.load(tree / split / "labels.npy")
            for row, (number, label) in enumerate(
                zip(numbers.tolist(), labels_N.tolist(), strict=True)
            ):
                source, path = f"{name}:{number}", f"{split}/images.npy:{row}"
                table.writerow([source, info["classes"][label], "stored", "", "", "", path])
        file.flush()
        os.fsync(file.fileno())
    write_pages(tree, info, _sheets(tree, info["classes"]))


def _sheets(tree: Path, classes: list[str]) -> Iterator[tuple[str, list[Image.Image]]]:
    """Iterate over the classes, with the first stored digits of every split."""
    images = {split: np.load(tree / split / "images.npy", mmap_mode="r") for split in SPLITS}
    labels = {split: np.load(tree / split / "labels.npy") for split in SPLITS}
    for label, name in enumerate(classes):
        yield (
            name,
            [
                _tile(images[split][row])
                for split in SPLITS
                for row in np.flatnonzero(labels[split] == label)[:_FROM_EACH]
            ],
        )


def _tile(digit_HW: np.ndarray) -> Image.Image:
    """Resize a digit to a tile: enlarged by a whole factor, or reduced."""
    image = Image.fromarray(np.ascontiguousarray(digit_HW))
    times = TILE // max(image.size)
    if times > 1:
        image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    return thumbnail(image)

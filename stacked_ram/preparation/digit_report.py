"""Write report.html and report.csv of a prepared data set of digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stacked_ram.preparation.encoding import TILE, thumbnail
from stacked_ram.preparation.multi_label import join_labels
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.report import REPORT_COLUMNS, SHEET_TILES, write_pages
from stacked_ram.preparation.workdir import write_table

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
    rows = (
        [
            f"{name}:{number}",
            class_text(info["classes"], label),
            "stored",
            "",
            "",
            "",
            f"{split}/images.npy:{row}",
        ]
        for split in SPLITS
        for name, numbers in [sources[split]]
        for row, (number, label) in enumerate(
            zip(numbers, np.load(tree / split / "labels.npy"), strict=True)
        )
    )
    write_table(tree / "report.csv", REPORT_COLUMNS, rows)
    write_pages(tree, info, _sheets(tree, info["classes"], tuple(info["canvas"])))


def class_text(classes: list[str], label: np.ndarray) -> str:
    """Return the name of a class by its number, or the text of several, given as 0 and 1."""
    return join_labels(np.array(classes)[label.astype(bool)]) if label.ndim else classes[label]


def _sheets(
    tree: Path, classes: list[str], size: tuple[int, int]
) -> Iterator[tuple[str, list[Image.Image], list[str]]]:
    """Iterate over the classes, with the first stored digits of every split."""
    canvases = {split: _canvases(tree / split, size) for split in SPLITS}
    labels = {split: np.load(tree / split / "labels.npy") for split in SPLITS}
    for label, name in enumerate(classes):
        yield (
            name,
            [
                _tile(canvases[split](row))
                for split in SPLITS
                for row in np.flatnonzero(has(labels[split], label))[:_FROM_EACH]
            ],
            [],
        )


def has(labels: np.ndarray, label: int) -> np.ndarray:
    """Return which digits or canvases have a class. labels: of one class each, N, or of several,
    N x C."""
    return labels[:, label] == 1 if labels.ndim == 2 else labels == label


def _canvases(folder: Path, size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """What gives the pixels of a row of the split."""
    images_NHW = np.load(folder / "images.npy", mmap_mode="r")
    if not (folder / "pieces.npy").is_file():
        return lambda row: images_NHW[row]
    import torch

    from stacked_ram.data.canvas import paste

    patterns_NHW = torch.from_numpy(np.array(images_NHW))
    pieces_NP3 = torch.from_numpy(np.load(folder / "pieces.npy"))
    return lambda row: paste(patterns_NHW, pieces_NP3[[row]], size)[0, 0].numpy()


def _tile(digit_HW: np.ndarray) -> Image.Image:
    """Resize a digit to a tile: enlarged by a whole factor, or reduced."""
    image = Image.fromarray(np.ascontiguousarray(digit_HW))
    times = TILE // max(image.size)
    if times > 1:
        image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    return thumbnail(image)

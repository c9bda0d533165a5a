"""The arrays of a digit data set: images, labels, boxes, and canvases that are stored as pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.data.manifest import MOST_PIXELS
from stacked_ram.runtime.errors import UserError


def check_canvas(folder: Path, info: dict[str, Any]) -> None:
    """Raise UserError if what dataset.yaml says of the canvases of digits is not valid."""
    for name, least in {"clutter": 0, "clutter_size": 1, "seed": 0}.items():
        value = info.get(name, least)
        if type(value) is not int or not least <= value < 2**63:
            raise UserError(f"{folder / 'dataset.yaml'}: {name}: {value!r} is not valid")
    canvas = info.get("canvas")
    sides = canvas if isinstance(canvas, list) else []
    fine = len(sides) == 2 and all(type(side) is int and 0 < side <= MOST_PIXELS for side in sides)
    if canvas and not fine:
        raise UserError(f"{folder / 'dataset.yaml'}: canvas: {canvas!r} is not (height, width)")


def read_arrays(
    folder: Path, split: str, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read images_NHW (uint8), labels_N (int64) and objects_NO4 (float32) of one split of digits.

    training: read the digits alone, also from a split that holds canvases made of them.
    """
    home = folder / split
    raw = training and (home / "digits.npy").is_file()
    images = read_array(home / ("digits.npy" if raw else "images.npy"), split)
    labels = read_array(home / "labels.npy", split)
    in_pieces = (home / "pieces.npy").is_file()
    objects = np.full((len(labels), 1, 4), np.nan)
    if (in_pieces or not training) and (home / "boxes.npy").is_file():
        objects = read_array(home / "boxes.npy", split)
        objects = objects[:, None] if objects.ndim == 2 else objects
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or (len(labels) != len(images) and not in_pieces)
        or objects.ndim != 3
        or objects.shape[::2] != (len(labels), 4)
    ):
        raise UserError(f"{home}: its arrays do not belong together; prepare the data set again")
    return images, labels.astype(np.int64), objects.astype(np.float32)


def read_pieces(folder: Path, parts: list[tuple[str, int]]) -> np.ndarray | None:
    """Read the pieces of canvases, N x P x 3; None if canvases are not stored as pieces. parts:
    splits, and the number of patterns of each."""
    if not (folder / parts[0][0] / "pieces.npy").is_file():
        return None
    found, before = [], 0
    for split, patterns in parts:
        pieces_NP3 = read_array(folder / split / "pieces.npy", split)
        found.append(pieces_NP3 + np.array([before, 0, 0], np.int32))
        before += patterns
    return np.concatenate(found)


def read_array(path: Path, split: str) -> np.ndarray:
    """Read a file of a split. Raises UserError if it is missing or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; the data set has no {split} split, or is damaged"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the data set again") from None

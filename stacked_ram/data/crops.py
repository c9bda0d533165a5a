"""Random crops and mirror images of training photos, and where their boxes go.

A crop keeps the photo's own proportions, but for a mild change: its width and height for its area
may be up to 4/3 apart from the photo's. Whole batches at once, no pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.batching import Rows
from stacked_ram.data.rng import random_numbers

MILD = np.log(4 / 3)


class Crops(NamedTuple):
    """One crop of each photo."""

    windows_B4: np.ndarray
    """int64 (left, top, right, bottom) of the crop, in pixels of the photo."""
    flips_B: np.ndarray
    """bool, whether it is mirrored afterwards."""

    @property
    def sizes_B2(self) -> np.ndarray:
        """(height, width) of each crop."""
        return (self.windows_B4[:, 2:] - self.windows_B4[:, :2])[:, ::-1]


def no_crops(sizes_B2: np.ndarray) -> Crops:
    """The whole photos as they are."""
    windows_B4 = np.zeros((len(sizes_B2), 4), np.int64)
    windows_B4[:, 2:] = sizes_B2[:, ::-1]
    return Crops(windows_B4, np.zeros(len(sizes_B2), bool))


def random_crops(
    data: DataConfig,
    seed: int,
    epoch: int,
    rows: Rows,
    sizes_B2: np.ndarray,
    boxes_B4: np.ndarray,
) -> Crops:
    """Draw the crops of training photos of these sizes, by flip and crop_area.

    A photo whose object is cut off would have a wrong label. So where the box of the object is
    known, its crop holds all of the box, or lies in it if the box is larger.

    Args:
        boxes_B4: (left, top, right, bottom) of the object in pixels of the photo; nan: not known.
    """
    windows_B4, flips_B = no_crops(sizes_B2)
    draws_B5 = random_numbers(5, seed, epoch, *rows)
    if data.flip:
        flips_B = draws_B5[:, 0] < 0.5
    low, high = data.crop_area
    if low < 1:
        area_B = low + (high - low) * draws_B5[:, 1]
        aspect_B = np.exp(MILD * (2 * draws_B5[:, 2] - 1))
        fractions_B2 = np.sqrt(np.stack([area_B / aspect_B, area_B * aspect_B], axis=1))
        # a fraction above 1 does not fit: the other side makes up for it, so that the area is kept
        fractions_B2 = np.minimum(fractions_B2, 1)
        fractions_B2 = np.clip(area_B[:, None] / fractions_B2[:, ::-1], None, 1)
        crop_B2 = np.clip(np.rint(sizes_B2 * fractions_B2), 1, sizes_B2).astype(np.int64)
        most_B2 = sizes_B2 - crop_B2
        first_B2 = np.nan_to_num(np.ceil(boxes_B4[:, 2:])[:, ::-1] - crop_B2, nan=0)
        last_B2 = np.nan_to_num(np.floor(boxes_B4[:, :2])[:, ::-1], nan=np.inf)
        first_B2, last_B2 = np.minimum(first_B2, last_B2), np.maximum(first_B2, last_B2)
        first_B2, last_B2 = np.clip(first_B2, 0, most_B2), np.clip(last_B2, 0, most_B2)
        start_B2 = first_B2 + np.floor(draws_B5[:, 3:] * (last_B2 - first_B2 + 1))
        start_B2 = start_B2.astype(np.int64)
        windows_B4[:, :2] = start_B2[:, ::-1]
        windows_B4[:, 2:] = (start_B2 + crop_B2)[:, ::-1]
    return Crops(windows_B4, flips_B)


def crop_boxes(boxes_B4: np.ndarray, crops: Crops) -> np.ndarray:
    """Move boxes into the crops; nan where nothing of the box is left."""
    low_B2, high_B2 = crops.windows_B4[:, :2], crops.windows_B4[:, 2:]
    low_B4, high_B4 = np.tile(low_B2, 2), np.tile(high_B2, 2)
    boxes_B4 = np.clip(boxes_B4, low_B4, high_B4) - low_B4
    empty_B = ~((boxes_B4[:, 2] > boxes_B4[:, 0]) & (boxes_B4[:, 3] > boxes_B4[:, 1]))
    boxes_B4[empty_B] = np.nan
    width_B1 = (high_B2 - low_B2)[:, :1]
    mirrored_B4 = boxes_B4.copy()
    mirrored_B4[:, [0, 2]] = width_B1 - boxes_B4[:, [2, 0]]
    return np.where(crops.flips_B[:, None], mirrored_B4, boxes_B4)

"""What is cut out of a training photo, whether it is mirrored, and where its box goes.

A crop keeps the photo's own proportions, but for a mild change: its width and height for its area
may be up to 4/3 apart from the photo's. Whole batches at once, no pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.batching import Rows
from stacked_ram.data.rng import chances

MILD = np.log(4 / 3)


class Cuts(NamedTuple):
    """One cut a photo."""

    windows_B4: np.ndarray
    """int64 (left, top, right, bottom) of what is kept of each photo, in its pixels."""
    flips_B: np.ndarray
    """bool, whether it is mirrored afterwards."""

    @property
    def sizes_B2(self) -> np.ndarray:
        """(height, width) of what is kept."""
        return (self.windows_B4[:, 2:] - self.windows_B4[:, :2])[:, ::-1]


def no_cuts(sizes_B2: np.ndarray) -> Cuts:
    """The whole photos as they are."""
    windows_B4 = np.zeros((len(sizes_B2), 4), np.int64)
    windows_B4[:, 2:] = sizes_B2[:, ::-1]
    return Cuts(windows_B4, np.zeros(len(sizes_B2), bool))


def random_cuts(data: DataConfig, seed: int, epoch: int, rows: Rows, sizes_B2: np.ndarray) -> Cuts:
    """The cuts of training photos of these sizes, by flip and crop_area."""
    windows_B4, flips_B = no_cuts(sizes_B2)
    draws_B5 = chances(5, seed, epoch, *rows)
    if data.flip:
        flips_B = draws_B5[:, 0] < 0.5
    low, high = data.crop_area
    if low < 1:
        area_B = low + (high - low) * draws_B5[:, 1]
        aspect_B = np.exp(MILD * (2 * draws_B5[:, 2] - 1))
        shares_B2 = np.sqrt(np.stack([area_B / aspect_B, area_B * aspect_B], axis=1))
        # a share above 1 does not fit: the other side makes up for it, so that the area is kept
        shares_B2 = np.minimum(shares_B2, 1)
        shares_B2 = np.clip(area_B[:, None] / shares_B2[:, ::-1], None, 1)
        cut_B2 = np.clip(np.rint(sizes_B2 * shares_B2), 1, sizes_B2).astype(np.int64)
        start_B2 = np.floor(draws_B5[:, 3:] * (sizes_B2 - cut_B2 + 1)).astype(np.int64)
        windows_B4[:, :2] = start_B2[:, ::-1]
        windows_B4[:, 2:] = (start_B2 + cut_B2)[:, ::-1]
    return Cuts(windows_B4, flips_B)


def cut_boxes(boxes_B4: np.ndarray, cuts: Cuts) -> np.ndarray:
    """Boxes as they lie in what was kept; nan where nothing of the box is left."""
    low_B2, high_B2 = cuts.windows_B4[:, :2], cuts.windows_B4[:, 2:]
    low_B4, high_B4 = np.tile(low_B2, 2), np.tile(high_B2, 2)
    boxes_B4 = np.clip(boxes_B4, low_B4, high_B4) - low_B4
    empty_B = ~((boxes_B4[:, 2] > boxes_B4[:, 0]) & (boxes_B4[:, 3] > boxes_B4[:, 1]))
    boxes_B4[empty_B] = np.nan
    width_B1 = (high_B2 - low_B2)[:, :1]
    mirrored_B4 = boxes_B4.copy()
    mirrored_B4[:, [0, 2]] = width_B1 - boxes_B4[:, [2, 0]]
    return np.where(cuts.flips_B[:, None], mirrored_B4, boxes_B4)

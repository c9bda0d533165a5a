"""Feature maps as colours: their first three principal components as red, green and blue."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MEANING = (
    "Feature maps: first three principal components over the set as red, green and blue;"
    " equal colours mean similar features"
)


CELLS = 100_000  # that colours are fitted on


def thinned(map_CHW: np.ndarray, most: int) -> np.ndarray:
    """Every k-th row and column of a map of more than `most` cells."""
    cells = map_CHW.shape[1] * map_CHW.shape[2]
    every = math.ceil(math.sqrt(cells / max(most, 1)))
    return map_CHW[:, :: max(every, 1), :: max(every, 1)]


class FeatureColours:
    """Colours of maps and of the patches cut from them, fitted on several maps together, so that
    a colour means the same in all of them.

    maps: each C x H x W, with any number of channels; with 1 or 2 the other colours stay in the
    middle.
    """

    def __init__(self, maps: Sequence[np.ndarray]) -> None:
        cells_XC = np.concatenate(
            [thinned(each, CELLS // len(maps)).reshape(len(each), -1).T for each in maps]
        )
        cells_XC = cells_XC.astype(np.float64)
        self.mean_C = cells_XC.mean(0)
        centred = cells_XC - self.mean_C
        _, vectors = np.linalg.eigh(centred.T @ centred)
        axes_C3 = vectors[:, ::-1][:, :3]
        # a component's sign is arbitrary: its largest weight is positive, everywhere the same
        largest = np.abs(axes_C3).argmax(0)
        self.axes_C3 = axes_C3 * np.sign(axes_C3[largest, np.arange(axes_C3.shape[1])])
        scores = centred @ self.axes_C3
        self.low, self.high = np.percentile(scores, [1, 99], axis=0)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """... C x H x W -> ... H x W x 3, uint8."""
        scores = (np.moveaxis(features, -3, -1) - self.mean_C) @ self.axes_C3
        scores = (scores - self.low) / np.maximum(self.high - self.low, 1e-9)
        colours = np.full((*scores.shape[:-1], 3), 0.5)
        colours[..., : scores.shape[-1]] = scores
        return (colours.clip(0, 1) * 255).round().astype(np.uint8)

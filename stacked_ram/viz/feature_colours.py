"""Feature maps as colours: their first three principal components as red, green and blue."""

from __future__ import annotations

import numpy as np


class FeatureColours:
    """Colours of a map and of the patches cut from it, fitted on the map.

    map_CHW: any number of channels; with 1 or 2 the other colours stay in the middle.
    """

    def __init__(self, map_CHW: np.ndarray) -> None:
        cells_XC = map_CHW.reshape(len(map_CHW), -1).T.astype(np.float64)
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

"""Augment single photos with albumentations, which only this module uses.

It is imported only if one of its options is on. Each photo has its own seed, on which alone its
augmentation depends.
"""

from __future__ import annotations

import os
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look into the network on import

import albumentations as A
import cv2
import numpy as np

from stacked_ram.config.schema import DataConfig

EDGE = cv2.BORDER_REFLECT_101  # what comes in from outside: the photo, mirrored; no black corners
OPERATIONS = 2  # of RandAugment, on each photo
STRONGEST = 30  # RandAugment's largest magnitude

cv2.setNumThreads(0)  # the workers are the parallelism


class Augment:
    """Apply colour_jitter, rotate, rand_augment and random_erasing to one photo.

    moves: whether the content of the photo may move, so that boxes are no longer valid.
    """

    def __init__(self, data: DataConfig, channels: int):
        steps: list[A.BasicTransform | A.BaseCompose] = []
        if data.rotate:
            steps.append(A.Rotate(limit=(-data.rotate, data.rotate), border_mode=EDGE, p=1))
        if data.rand_augment:
            operations = rand_augment(data.rand_augment, channels)
            steps.append(A.SomeOf(operations, n=OPERATIONS, replace=True, p=1))
        if data.colour_jitter:
            spread = span(0.8 * data.colour_jitter)
            colour = (
                {"saturation": spread, "hue": (-0.2 * data.colour_jitter, 0.2 * data.colour_jitter)}
                if channels == 3
                else {"saturation": (1, 1), "hue": (0, 0)}
            )
            steps.append(A.ColorJitter(brightness=spread, contrast=spread, **colour, p=1))
        if data.random_erasing:
            steps.append(A.Erasing(scale=(0.02, 0.33), fill="random", p=data.random_erasing))
        self.moves = data.rotate > 0 or data.rand_augment > 0
        self.compose = A.Compose(steps)

    def __call__(self, photo_CHW: np.ndarray, seed: int) -> np.ndarray:
        """Return the augmented photo, uint8, same shape; a seed always gives the same result."""
        # One source for all transforms: with set_random_seed each would begin with the same draw.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        photo_HWC = cv2.merge(list(photo_CHW))
        photo_HWC = photo_HWC if photo_HWC.ndim == 3 else photo_HWC[:, :, None]
        photo_HWC = self.compose(image=photo_HWC)["image"]
        return np.stack(cv2.split(photo_HWC))


def rand_augment(magnitude: int, channels: int) -> list[A.BasicTransform]:
    """Return the operations of RandAugment (Cubuk et al. 2020, section 3.1 and its code),
    at a magnitude of 1 to 30."""
    fraction = magnitude / STRONGEST
    keep = (1, 1)
    strength = span(0.9 * fraction)

    def colour(**which: tuple[float, float]) -> A.BasicTransform:
        rest = {"brightness": keep, "contrast": keep, "saturation": keep, "hue": (0, 0)}
        return A.ColorJitter(**{**rest, **which}, p=1)

    slant, move = 17 * fraction, 0.3 * fraction
    operations = [
        A.NoOp(p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
        A.Posterize(num_bits=min(7, 8 - round(4 * fraction)), p=1),
        A.Solarize(threshold_range=(1 - fraction, 1 - fraction), p=1),
        A.Sharpen(alpha=(0, 0.9 * fraction), p=1),
        colour(brightness=strength),
        colour(contrast=strength),
        A.Rotate(limit=(-30 * fraction, 30 * fraction), border_mode=EDGE, p=1),
        A.Affine(shear={"x": (-slant, slant), "y": (0, 0)}, border_mode=EDGE, p=1),
        A.Affine(shear={"x": (0, 0), "y": (-slant, slant)}, border_mode=EDGE, p=1),
        A.Affine(translate_percent={"x": (-move, move), "y": (0, 0)}, border_mode=EDGE, p=1),
        A.Affine(translate_percent={"x": (0, 0), "y": (-move, move)}, border_mode=EDGE, p=1),
    ]
    if channels == 3:
        operations.append(colour(saturation=strength))
    return operations


def span(strength: float) -> tuple[float, float]:
    """Return a range of factors around 1."""
    return max(0.0, 1 - strength), 1 + strength

"""Megapixel MNIST (Katharopoulos & Fleuret, 2019): five digits on a large canvas among scribbles.

Three of the digits are of one class, which is the label (the task "majority"); or the labels are
all the classes on the canvas (the task "multi", with --multi-label). The canvases are
those of the public benchmark, pixel for pixel: the numbers are drawn in the same order from numpy's
legacy generator, seed 1 for the 5,000 training canvases and seed 0 for the 1,000 test canvases.
Validation canvases are drawn out of the training ones.

A canvas is stored as the list of its pieces, not as pixels: `digits.npy` holds the patterns of a
split (digits, then scribbles), `pieces.npy` which of them stand where, in the order of drawing, and
`boxes.npy` the boxes of the five digits. The loader draws them batch by batch.

N canvases   K = 5 digits   L scribbles   P = L + K pieces
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stacked_ram.runtime.errors import UserError

SIDE = 28  # of a digit and of a scribble, in pixels
DIGITS = 5  # on a canvas
SAME = 3  # of them are of the label's class
CANVASES = {"train": 5000, "t10k": 1000}
SEEDS = {"train": 1, "t10k": 0}


@dataclass(frozen=True)
class Canvases:
    """The canvases of one split."""

    labels_N: np.ndarray
    """int64: the class of three of the digits."""
    digits_NK: np.ndarray
    """Numbers of the digits in the MNIST file, the three of the label's class first."""
    labels_NC: np.ndarray
    """uint8, N x 10: 1 for each class that the canvas shows."""
    patterns: np.ndarray
    """uint8, patterns x 28 x 28: the digits that the canvases show, then the scribbles."""
    pieces_NP3: np.ndarray
    """int32: (pattern, row, column) of each piece, in the order of drawing: the scribbles, then
    the digits over them."""

    def boxes(self, count: int = SAME) -> np.ndarray:
        """Return the boxes of the digits of the canvas's class, or of the first `count` digits,
        N x count x 4 (left, top, right, bottom), int64."""
        corners_NK2 = self.pieces_NP3[:, -DIGITS:, :0:-1][:, :count].astype(np.int64)
        return np.concatenate([corners_NK2, corners_NK2 + SIDE], 2)


def draw_canvases(
    images_MHW: np.ndarray, labels_M: np.ndarray, count: int, side: int, scribbles: int, seed: int
) -> Canvases:
    """Draw the canvases of one split, `side` x `side` pixels each.

    images_MHW, labels_M: MNIST's digits, in the order of their file.

    Raises UserError if the canvas is too small, or if a class has no digit.
    """
    if images_MHW.shape[1:] != (SIDE, SIDE) or set(np.unique(labels_M)) != set(range(10)):
        raise UserError("--megapixel: needs digits of 28x28 pixels, of all ten classes")
    if side < 4 * SIDE:
        raise UserError(f"--megapixel {side}: must be at least {4 * SIDE}")
    rng = np.random.RandomState(seed)
    digits_NK, classes_N = draw_digits(rng, labels_M, count)
    places_NK2 = np.array([draw_places(rng, side) for _ in range(count)])
    patterns = draw_scribbles(rng, scribbles)
    scribble_places = (rng.rand(count, scribbles, 2) * (side - 2 * SIDE) + SIDE).astype(int)
    which = (rng.rand(count, scribbles) * scribbles).astype(int)
    used, digit_NK = np.unique(digits_NK, return_inverse=True)
    pieces_NP = np.concatenate([len(used) + which, digit_NK.reshape(digits_NK.shape)], 1)
    places_NP2 = np.concatenate([scribble_places, places_NK2], 1)
    return Canvases(
        labels_N=classes_N,
        digits_NK=digits_NK,
        labels_NC=(labels_M[digits_NK][:, :, None] == np.arange(10)).any(1).astype(np.uint8),
        patterns=np.concatenate([images_MHW[used], patterns]),
        pieces_NP3=np.concatenate([pieces_NP[..., None], places_NP2], 2).astype(np.int32),
    )


def draw_digits(
    rng: np.random.RandomState, labels_M: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the digits (their numbers) of each canvas, N x K, and its label, N."""
    of_class = [np.flatnonzero(labels_M == digit) for digit in range(10)]
    of_others = [np.flatnonzero(labels_M != digit) for digit in range(10)]
    digits_NK, classes_N = np.empty((count, DIGITS), np.int64), np.empty(count, np.int64)
    for row in range(count):
        classes_N[row] = digit = int(rng.rand() * 10)
        digits_NK[row, :SAME] = rng.choice(of_class[digit], SAME)
        digits_NK[row, SAME:] = rng.choice(of_others[digit], DIGITS - SAME)
    return digits_NK, classes_N


def draw_places(rng: np.random.RandomState, side: int) -> list[np.ndarray]:
    """Draw corners (row, column) for five digits; those that would overlap are drawn again."""
    places: list[np.ndarray] = []
    while len(places) < DIGITS:
        place = np.round(rng.rand(2) * (side - SIDE)).astype(int)
        if all((np.abs(place - other) >= SIDE).any() for other in places):
            places.append(place)
    return places


def draw_scribbles(rng: np.random.RandomState, count: int) -> np.ndarray:
    """Draw patterns of two straight lines from a corner, with grain: count x 28 x 28, uint8."""
    slopes = np.tan(rng.rand(count) * np.pi / 2.5)
    lines = np.zeros((count, SIDE, SIDE))
    for line, slope in zip(lines, slopes, strict=True):
        x = np.linspace(0, min(27.49, 27.49 / slope), 2 * SIDE)
        line[np.round(x).astype(int), np.round(slope * x).astype(int)] = 1
    others = lines.copy()
    rng.shuffle(others)
    for _ in range(2):  # the public code flips the same axis twice
        flipped = rng.rand(count) < 0.33
        others[flipped] = others[flipped][:, :, ::-1]
    grain = rng.rand(count, SIDE, SIDE) * 0.2 + 0.8
    shades = ((lines + others > 0) * grain).astype(np.float32)
    return (255 * shades).astype(np.uint8)

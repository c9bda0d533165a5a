"""Compute fingerprints of photos: a perceptual hash, a tiny copy and sums of the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

_SIDE = 32
_LUMA = np.array([0.299, 0.587, 0.114])
TINY_SIDE = 8
_MOST_PIXELS = 2**16
_SAMPLED_PIXELS = 2**13


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a photo.

    Attributes:
        phash: 64-bit perceptual hash (as an unsigned number).
        tiny: the photo reduced to 8x8 RGB, 192 bytes; distinguishes photos whose hashes are
            equal by accident.
        channel_sums, channel_squares: as in `EncodedPhoto`.
    """

    phash: int
    tiny: bytes
    channel_sums: tuple[int, ...]
    channel_squares: tuple[int, ...]


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of an image of mode RGB or L.

    The hash: reduce to 32x32 luminance, take the 8x8 lowest frequencies of its cosine transform,
    one bit each: above the median of all but the constant one (whose bit is 0). It survives a
    change of size, of JPEG quality and of brightness, not a crop or a mirror image.
    """
    small = image
    while min(small.size) >= 8 * _SIDE:
        small = small.reduce(4)  # Pillow has a fast loop for this factor
    small = small.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("RGB")
    luminance = np.asarray(small, dtype=np.float64) @ _LUMA
    # Rounded, so that rounding errors do not decide the hash of a flat picture.
    frequencies = np.round(_cosines() @ luminance @ _cosines().T, 6).ravel()
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False
    phash = int.from_bytes(np.packbits(bits).tobytes(), "big")
    tiny = small.resize((TINY_SIDE, TINY_SIDE), Image.Resampling.BOX).tobytes()
    return Fingerprint(phash, tiny, *_channel_sums(image))


def _channel_sums(image: Image.Image) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sum and the sum of squares of each channel over all pixels.

    Exact up to 2**16 pixels. In larger pictures, a grid of at least 2**13 pixels represents all,
    which changes the mean over a training set by far less than one grey level.
    """
    sampled = image
    if image.width * image.height > _MOST_PIXELS:
        step = int((image.width * image.height / _SAMPLED_PIXELS) ** 0.5)
        grid = (max(1, image.width // step), max(1, image.height // step))
        sampled = image.resize(grid, Image.Resampling.NEAREST)
    weight = image.width * image.height / (sampled.width * sampled.height)
    counts = np.array(sampled.histogram(), dtype=np.int64).reshape(-1, 256)
    values = np.arange(256, dtype=np.int64)
    sums, squares = (
        tuple(round(weight * int(n)) for n in counts @ values**power) for power in (1, 2)
    )
    return sums, squares


def same_picture(tiny_a: bytes, tiny_b: bytes) -> bool:
    """Return whether two tiny copies show the same photo, perhaps brighter or re-encoded.

    A copy may differ from its original by a shift of brightness. The remaining difference must be
    small compared with the contrast of the photo. Two flat pictures never count as the same, since
    only their bytes could show it.
    """
    a, b = (np.frombuffer(t, dtype=np.uint8).astype(np.float64) for t in (tiny_a, tiny_b))
    shift = np.abs(a.mean() - b.mean())
    spread = min(a.std(), b.std())
    rest = np.sqrt(np.mean((a - a.mean() - b + b.mean()) ** 2))
    return bool(spread >= 6 and shift <= 40 and rest <= max(4.0, 0.35 * spread))


@cache
def _cosines() -> np.ndarray:
    """Return the eight lowest rows of the orthonormal cosine transform (DCT-II) of 32 samples."""
    rows = np.arange(8)[:, None]
    columns = np.arange(_SIDE)[None, :]
    return np.cos(np.pi * (2 * columns + 1) * rows / (2 * _SIDE)) * np.sqrt(2 / _SIDE)

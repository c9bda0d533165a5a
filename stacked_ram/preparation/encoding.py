"""Encode pictures: photos to store, and small pictures for the report."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

TILE = 96  # long side of a small picture


def encode_image(image: Image.Image, suffix: str, quality: int = 92) -> bytes:
    """Encode a picture as ".jpg" or ".png"; the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    if suffix == ".jpg":
        image.save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def thumbnail(image: Image.Image, side: int = TILE) -> Image.Image:
    """Reduce a picture to RGB with a long side of at most `side` pixels. Changes `image`."""
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image.convert("RGB")


def thumbnail_of(photo: Path | bytes, side: int = TILE) -> Image.Image:
    """Return the `thumbnail` of a stored photo or of JPEG bytes."""
    with Image.open(io.BytesIO(photo) if isinstance(photo, bytes) else photo) as image:
        image.draft("RGB", (side, side))
        return thumbnail(image, side)


def small_jpeg(image: Image.Image) -> bytes:
    """Encode a small picture as JPEG for the report."""
    return encode_image(image, ".jpg", quality=80)

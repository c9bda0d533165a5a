"""Check photos that somebody else sent, before their pixels are decoded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from PIL import Image

from stacked_ram.images.formats import formats, size_in_file
from stacked_ram.runtime.errors import UserError

MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
MOST_SIDE = 30_000  # pixels; reducing a photo of one endless row takes gigabytes


class TooLarge(UserError):
    """The photo has more bytes or pixels than are taken."""


def check_upload(path: str | Path, most_pixels: int = MOST_PIXELS) -> int:
    """Return the number of pixels of a photo, from its header alone.

    Raises TooLarge for a file of more than MOST_BYTES or `most_pixels`, and UserError for one that
    is no image.
    """
    if os.path.getsize(path) > MOST_BYTES:
        raise TooLarge(f"{path}: more than {MOST_BYTES // 1_000_000} MB; reduce it first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large photos
            with Image.open(path, formats=formats()) as image:
                width, height = size_in_file(image)
    except Image.DecompressionBombError:
        raise TooLarge(f"{path}: more than {most_pixels / 1e6:g} million pixels") from None
    except Exception:  # decoders raise errors of any kind on broken files
        raise UserError(f"{path}: not an image that can be read") from None
    if height * width > most_pixels:
        raise TooLarge(f"{path}: more than {most_pixels / 1e6:g} million pixels")
    if max(height, width) > MOST_SIDE:
        raise TooLarge(f"{path}: more than {MOST_SIDE:,} pixels wide or high; reduce it first")
    return height * width

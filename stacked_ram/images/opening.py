"""Open photos of any size: small ones as pixels, large files to be read by region."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from stacked_ram.images.decoding import MAX_PIXELS, image_pixels, read_photo, reduced_size
from stacked_ram.images.formats import formats
from stacked_ram.images.in_memory import InMemory, array_image
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos, UnreadablePhoto
from stacked_ram.images.pyramid import level_factors
from stacked_ram.runtime.errors import UserError

LARGE = 32_000_000  # pixels; more are not decoded whole
SLIDES = {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"}
SUB_IMAGES = 330  # TIFF tag
TOO_LARGE = (
    "too large to be held in memory, but stack conv and backbone make maps of the whole photo; use"
    " a model of stack none or rnn, or one trained with short_side"
)


def photo_endings() -> set[str]:
    """Return the suffixes of files that may be photos (".jpg"), in lower case."""
    opened = {*formats(), "MPO"}  # a JPEG of several pictures
    known = Image.registered_extensions()
    return SLIDES | {ending for ending, kind in known.items() if kind in opened}


def open_photo(
    photo: str | Path | InMemory,
    *,
    short_side: int | None = None,
    photo_size: tuple[int, int] | None = None,
    channels: int = 3,
    whole: bool = False,
) -> np.ndarray | LazyPhoto:
    """Open a photo of any size: pixels_CHW (uint8), or a LazyPhoto that is read by region.

    Large photos, tiled pyramids and slides are read by region, at their full resolution, unless
    `short_side` or `photo_size` reduces them; then a smaller level is read.

    Args:
        photo: a path, a PIL image, an array H x W x C (or H x W), or a tensor C x H x W; arrays
            and tensors hold uint8, or floats from 0 to 1.
        short_side: reduce to this short side, in pixels; smaller photos are unchanged.
        photo_size: resize to this (height, width) in pixels.
        channels: 3 (RGB) or 1 (grayscale).
        whole: whether all pixels are needed in memory, as for maps of the whole photo.

    Raises:
        UserError: the file (named in the message) cannot be read, or is too large with `whole`.
    """
    if not isinstance(photo, str | Path):
        image = photo.copy() if isinstance(photo, Image.Image) else array_image(photo)
        return image_pixels(image, short_side, photo_size, channels)
    reduces = short_side is not None or photo_size is not None
    in_memory = reduces or whole
    if not is_large(photo, MAX_PIXELS if in_memory else LARGE, pyramids=not in_memory):
        return read_photo(photo, short_side, photo_size, channels)
    if whole and not reduces:
        raise UserError(f"{photo}: {TOO_LARGE}")
    large = LazyPhoto(photo, channels)
    if not reduces:
        return large
    return reduced(large, reduced_size(*large.size, short_side, photo_size))


def reduced(photo: LazyPhoto, size: tuple[int, int]) -> np.ndarray:
    """Reduce the whole photo to this (height, width) by area averages; pixels_CHW, uint8."""
    try:
        values_CHW = LazyPhotos([photo]).resized(size)[0]
    except UnreadablePhoto as error:
        raise UserError(str(error)) from None
    return (values_CHW * 255).round().byte().numpy()


def is_slide(path: str | Path) -> bool:
    """Return whether the suffix belongs to a format of slide scanners."""
    return os.path.splitext(path)[1].lower() in SLIDES


def is_large(path: str | Path, limit: int = LARGE, pyramids: bool = True) -> bool:
    """Return whether a file must be read by region.

    This is so if it has more pixels than the limit, is a slide, or (with `pyramids`) is a TIFF with
    smaller levels. Only the header is read. False for a file that cannot be read and, without
    pyvips, for photos that fit in memory.
    """
    if is_slide(path):
        return True
    if importlib.util.find_spec("pyvips") is None:
        limit, pyramids = MAX_PIXELS, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats()) as image:
                if image.width * image.height > limit:
                    return True
                return pyramids and isinstance(image, TiffImageFile) and has_levels(image)
    except Image.DecompressionBombError:
        return True
    except Exception:  # decoders raise errors of any kind; whoever reads the file reports them
        return False


def has_levels(image: TiffImageFile) -> bool:
    """Return whether an opened TIFF holds smaller levels."""
    if SUB_IMAGES in image.tag_v2:
        return True
    whole = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    return level_factors(whole, image.size) is not None

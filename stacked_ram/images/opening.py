"""Photos of any size: small ones as pixels, large files opened and read piece by piece."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from stacked_ram.config.schema import Config
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
    """Endings of files that may be photos (".jpg"), lower case."""
    opened = {*formats(), "MPO"}  # a JPEG of several pictures
    known = Image.registered_extensions()
    return SLIDES | {ending for ending, kind in known.items() if kind in opened}


def open_photo(
    photo: str | Path | InMemory, config: Config, channels: int
) -> np.ndarray | LazyPhoto:
    """A photo as a model of this config wants it: pixels_CHW (uint8), or a LazyPhoto.

    photo: a path, a PIL image, an array H x W x C (or H x W), or a tensor C x H x W; arrays and
    tensors hold uint8, or floats from 0 to 1.

    Large photos, tiled pyramids and slides are read piece by piece, at their full resolution. Where
    the data are reduced (short_side, photo_size), so are they, from their nearest smaller level. A
    model that makes maps of the whole photo gets it in memory, while it fits.
    Raises UserError, naming the file, when it cannot be read.
    """
    data, whole = config.data, config.model.needs_whole_photo
    if not isinstance(photo, str | Path):
        image = photo if isinstance(photo, Image.Image) else array_image(photo)
        return open_image(image, config, channels)
    reduces = data.short_side is not None or data.photo_size is not None
    in_memory = reduces or whole
    if not is_large(photo, MAX_PIXELS if in_memory else LARGE, pyramids=not in_memory):
        return read_photo(photo, data.short_side, data.photo_size, channels)
    if whole and not reduces:
        raise UserError(f"{photo}: {TOO_LARGE}")
    large = LazyPhoto(photo, channels)
    if not reduces:
        return large
    return reduced(large, reduced_size(*large.size, data.short_side, data.photo_size))


def open_image(image: Image.Image, config: Config, channels: int) -> np.ndarray:
    """pixels_CHW (uint8) of a PIL image, turned upright and reduced as those of a file."""
    return image_pixels(image, config.data.short_side, config.data.photo_size, channels)


def reduced(photo: LazyPhoto, size: tuple[int, int]) -> np.ndarray:
    """pixels_CHW (uint8) of the whole photo at this (height, width), by averages."""
    try:
        shares_CHW = LazyPhotos([photo]).resized(size)[0]
    except UnreadablePhoto as error:
        raise UserError(str(error)) from None
    return (shares_CHW * 255).round().byte().numpy()


def is_slide(path: str | Path) -> bool:
    return os.path.splitext(path)[1].lower() in SLIDES


def is_large(path: str | Path, limit: int = LARGE, pyramids: bool = True) -> bool:
    """Whether a file is to be read piece by piece: more pixels than the limit, a slide, or (with
    `pyramids`) a TIFF with smaller levels. Only its header is read; what cannot be read is not
    large.

    Without pyvips, what fits in memory all the same is not large either.
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
                return pyramids and image.format == "TIFF" and has_levels(image)
    except Image.DecompressionBombError:
        return True
    except Exception:  # decoders raise anything at all on broken files; who reads it says so
        return False


def has_levels(image: Image.Image) -> bool:
    """Whether an opened TIFF carries smaller pictures of itself."""
    if SUB_IMAGES in image.tag_v2:
        return True
    whole = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    return level_factors(whole, image.size) is not None

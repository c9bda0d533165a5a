"""Pixels of one photo file, made what the model expects: upright, 8-bit, RGB or grayscale, sRGB.

The one place that reads photos, for prepared data sets and for arbitrary files alike. Free of
torch. Reduction: a JPEG is decoded at the smallest of its scales (1/2, 1/4, 1/8 in the DCT) that
is not below the wanted size, and what is left is Pillow's antialiased BILINEAR filter, whose
support grows with the reduction (the filter of torchvision's Resize).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stacked_ram.errors import UserError

MAX_PIXELS = 178_956_970  # of one photo; larger ones are refused before their pixels are made
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that swap height and width


def read_photo(
    path: str | Path,
    short_side: int | None = None,
    photo_size: tuple[int, int] | None = None,
    channels: int = 3,
) -> np.ndarray:
    """The photo's pixels_CHW, uint8.

    short_side: reduce so that the shorter side is this many pixels (never enlarge).
    photo_size: resize to this (height, width).
    channels: 3 (grayscale is repeated) or 1.

    Raises UserError, naming the file, when it cannot be read, is no image, is damaged or is larger
    than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _pixels(image, path, short_side, photo_size, channels)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such photo") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; leave it out") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; reduce it first") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise UserError(f"{path}: cannot read this photo ({error}); leave it out") from None


def reduced_size(
    height: int, width: int, short_side: int | None, photo_size: tuple[int, int] | None
) -> tuple[int, int]:
    """(height, width) of a photo after reading; `read_photo` says how."""
    if photo_size is not None:
        return photo_size
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    share = short_side / shorter
    return max(1, round(height * share)), max(1, round(width * share))


def upright_rgb(image: Image.Image, channels: int = 3) -> Image.Image:
    """The image turned as its EXIF says, in sRGB, 8 bits a channel; transparency on white."""
    ImageOps.exif_transpose(image, in_place=True)
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(ground, layer).convert("RGB")
    elif "icc_profile" in image.info and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image)
    return image if image.mode == mode else image.convert(mode)


def _pixels(
    image: Image.Image,
    path: str | Path,
    short_side: int | None,
    photo_size: tuple[int, int] | None,
    channels: int,
) -> np.ndarray:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; reduce it first")
    sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    if sideways:
        width, height = height, width
    new_height, new_width = reduced_size(height, width, short_side, photo_size)
    if image.format == "JPEG":
        smallest = (new_height, new_width) if sideways else (new_width, new_height)
        image.draft(None, smallest)
    image = upright_rgb(image, channels)
    if image.size != (new_width, new_height):
        image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    return to_CHW(image)


def to_CHW(image: Image.Image) -> np.ndarray:
    """pixels_CHW of an 8-bit image. Plane by plane: faster than moving single bytes about."""
    return np.stack([np.asarray(plane) for plane in image.split()])


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16- and 32-bit grayscale: the top 8 of 16 bits; floats are taken as 0..1 or as 0..255."""
    values_HW = np.asarray(image)
    if values_HW.dtype.kind == "f":
        values_HW = values_HW * (255 if values_HW.max(initial=0) <= 1 else 1)
    elif values_HW.max(initial=0) > 255 or image.mode.startswith("I;16"):
        values_HW = values_HW / 257
    return Image.fromarray(np.rint(values_HW).clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """By the embedded colour profile; a profile that cannot be used is left out."""
    from PIL import ImageCms

    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image
    return image

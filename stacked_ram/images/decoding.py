"""Read the pixels of a photo file as the model expects them: upright 8-bit sRGB or grayscale.

Used for prepared data sets and for arbitrary files. To reduce a photo, a JPEG is decoded at the
smallest scale (1/2, 1/4, 1/8 in the DCT) that is not below the wanted size; torch's antialiased
bilinear filter does the rest. That filter is the same as in torchvision's Resize and in Pillow,
which takes four times as long. A JPEG at its own size is decoded by torchvision, to the same pixels
as by Pillow in half the time (benchmarks/README.md). Torch is imported for these two only.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stacked_ram.images.colour import to_srgb
from stacked_ram.images.formats import formats, size_in_file
from stacked_ram.runtime.errors import UserError

MAX_PIXELS = 178_956_970  # of one photo; larger ones are refused before their pixels are made
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that swap height and width


def read_photo(
    path: str | Path,
    short_side: int | None = None,
    photo_size: tuple[int, int] | None = None,
    channels: int = 3,
    stored_size: tuple[int, int] | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """Read pixels_CHW (uint8) of a photo file.

    short_side: reduce the shorter side to this many pixels (never enlarge).
    photo_size: resize to this (height, width).
    channels: 3 (grayscale is repeated) or 1.
    stored_size: the (height, width) in the manifest, upright, before any reduction.
    content: of the file, if it does not lie at `path`, which then only names it.

    Raises UserError, which names the file, if it cannot be read, is not an image, is damaged, has
    more than MAX_PIXELS, or does not have its stored_size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large photos, and of torch on Pillow's buffers
            file = path if content is None else io.BytesIO(content)
            with Image.open(file, formats=formats()) as image:
                return image_pixels(image, short_side, photo_size, channels, stored_size, path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such photo") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; leave it out") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; reduce it first") from None
    except Exception as error:  # decoders raise errors of any kind on broken files
        why = " ".join(str(error).split()) or type(error).__name__  # libheif says several lines
        raise UserError(f"{path}: cannot read this photo ({why}); leave it out") from None


def image_pixels(
    image: Image.Image,
    short_side: int | None = None,
    photo_size: tuple[int, int] | None = None,
    channels: int = 3,
    stored_size: tuple[int, int] | None = None,
    path: str | Path = "photo",
) -> np.ndarray:
    """Return pixels_CHW (uint8) of a PIL image, which this may change; arguments as `read_photo`.

    path: the name of the photo in errors.

    Raises UserError if it has more than MAX_PIXELS or not its stored_size.
    """
    width, height = size_in_file(image)
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; reduce it first")
    sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    if sideways:
        width, height = height, width
    if stored_size is not None and (height, width) != stored_size:
        raise UserError(
            f"{path}: {width}x{height} pixels, where manifest.csv says {stored_size[1]}x"
            f"{stored_size[0]}; prepare the data set again"
        )
    new_height, new_width = reduced_size(height, width, short_side, photo_size)
    if image.format == "JPEG" and (new_height, new_width) == (height, width) and channels == 3:
        pixels_CHW = whole_jpeg(image)
        if pixels_CHW is not None:
            return pixels_CHW
    if image.format == "JPEG":
        smallest = (new_height, new_width) if sideways else (new_width, new_height)
        image.draft(None, smallest)
    ImageOps.exif_transpose(image, in_place=True)
    upright, _ = to_srgb(image)
    if channels == 1:
        upright = upright.convert("L")
    if upright.size == (new_width, new_height):
        return to_CHW(upright)
    return resized(np.asarray(upright), new_height, new_width)


def whole_jpeg(image: Image.Image) -> np.ndarray | None:
    """Return pixels_CHW of an opened JPEG, decoded by torchvision; None where Pillow must do it: it
    is not upright RGB without a colour profile, or damaged (Pillow's error names the cause)."""
    upright = image.getexif().get(ORIENTATION, 1) == 1
    file = getattr(image, "fp", None)
    if file is None or image.mode != "RGB" or "icc_profile" in image.info or not upright:
        return None
    import cv2
    import torch

    try:
        from torchvision.io import decode_jpeg

        file.seek(0)
        decoded = decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8))
    except (ImportError, RuntimeError):
        return None
    pixels_CHW = np.empty(decoded.shape, np.uint8)
    cv2.split(decoded.permute(1, 2, 0).numpy(), list(pixels_CHW))
    return pixels_CHW


def true_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) of a photo file, upright."""
    with Image.open(path, formats=formats()) as image:
        width, height = size_in_file(image)
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def reduced_size(
    height: int, width: int, short_side: int | None, photo_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Return (height, width) of a photo after it was reduced as by `read_photo`."""
    if photo_size is not None:
        return photo_size
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    scale = short_side / shorter
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_CHW(image: Image.Image) -> np.ndarray:
    """Return pixels_CHW of an 8-bit image, channel by channel, which is faster than a transpose."""
    return np.stack([np.asarray(plane) for plane in image.split()])


def resized(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a photo (HWC or HW) to pixels_CHW of this size, antialiased, uint8."""
    import torch
    from torch.nn.functional import interpolate

    pixels_CHW = torch.from_numpy(pixels_HWC).view(*pixels_HWC.shape[:2], -1).permute(2, 0, 1)
    size = (height, width)
    pixels_1CHW = interpolate(pixels_CHW[None], size, mode="bilinear", antialias=True)
    return pixels_1CHW[0].contiguous().numpy()

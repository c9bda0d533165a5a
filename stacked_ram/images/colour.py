"""Convert photos of any mode and colour profile to 8-bit sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

_BITS, _MOST = 258, 281  # TIFF tags: bits of a sample, largest sample


def to_srgb(image: Image.Image, white: int = 0) -> tuple[Image.Image, list[str]]:
    """Convert a picture to mode RGB; return it with the names of the repairs.

    An embedded profile is applied unless it is sRGB; an invalid one is ignored. Transparent parts
    are placed on white.

    Args:
        white: the value of 16-bit grayscale that becomes 255. 0: what a TIFF declares, otherwise
            65535.
    """
    white = white or declared_white(image) or 65535
    repairs = []
    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode == "CMYK":
        repairs.append("cmyk")
    elif mode in ("P", "PA"):
        repairs.append("palette")
    elif mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16"):
        repairs.append("grayscale")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        repairs.append("colour_space")
    if "transparency" in image.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        repairs.append("transparency")
        image = _on_white(image)
    elif mode in ("I", "F") or mode.startswith("I;16"):
        image = _to_8_bits(image, white)
    elif mode == "P":
        image = image.convert("RGB")
    if profile:
        converted = _by_profile(image, profile)
        if converted is not None:
            image = converted
            if "cmyk" not in repairs:
                repairs.append("colour_profile")
    return image if image.mode == "RGB" else image.convert("RGB"), repairs


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def declared_white(image: Image.Image) -> int:
    """Return the value of white that a TIFF of 9 to 16 bits declares below 65535; 0: none."""
    if not isinstance(image, TiffImageFile):
        return 0
    bits = max(image.tag_v2.get(_BITS, (8,)), default=8)
    most = max(image.tag_v2.get(_MOST, (0,)), default=0)
    if 8 < bits < 16:
        return 2**bits - 1
    return most if bits == 16 and 255 < most < 65535 else 0


def _to_8_bits(image: Image.Image, white: int) -> Image.Image:
    """Convert grayscale of 16 bits, 32 bits or floating point to mode L."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:  # fractions of white
            values = values * 255
        elif low < 0 or high > 255:  # unknown unit: use the whole range
            values = (values - low) * (255 / (high - low))
    else:
        values = values.astype(np.int64)
        # Mode I holds 16-bit values of PNG and PGM; a real 32-bit picture has larger ones.
        values = values * (255 / white) if values.max() <= 65535 else values / 16843009
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert a picture from its profile to sRGB; None if that changes nothing or is impossible."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        if image.mode not in ("RGB", "L", "CMYK", "LAB"):
            image = image.convert("RGB")
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None

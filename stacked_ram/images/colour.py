"""Convert photos of any mode and colour profile to 8-bit sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms


def to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Convert a picture to mode RGB; return it with the names of the repairs.

    An embedded profile is applied unless it is sRGB; an invalid one is ignored. Transparent parts
    are placed on white. 16-bit values are divided by 257, which maps the whole range to 0..255.
    """
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
        image = _to_8_bits(image)
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


def _to_8_bits(image: Image.Image) -> Image.Image:
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
        values = values / 257 if values.max() <= 65535 else values / 16843009
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

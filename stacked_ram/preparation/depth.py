"""Scale photos of more than 8 bits per channel to 8 bits.

A camera or microscope of 10, 12 or 14 bits often stores its values in 16 bits as they are, so that
white is 1023, 4095 or 16383. White is, in this order: what the file declares (TIFF: BitsPerSample,
MaxSampleValue; PNG: sBIT), --sixteen-bit-max, and the smallest of 1023, 4095, 16383 and 65535 that
no photo of the source exceeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from stacked_ram.images.colour import declared_white

FULL = 65535
FEW_LEVELS = 32  # a photo with fewer grey levels has probably lost most of them


@dataclass(frozen=True)
class Depth:
    """The depth of a photo of 16 bits.

    Attributes:
        white: the declared value; 0: none.
        top: the largest value, or the largest with its 8 high bits.
    """

    white: int
    top: int


def is_16_bit(image: Image.Image, content: bytes) -> bool:
    """Return whether a photo has more than 8 bits per channel."""
    if image.format == "PNG" and len(content) > 24:
        return content[24] == 16  # the bit depth in the header chunk
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(258, (8,)), default=8) > 8
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def depth_of(image: Image.Image, content: bytes) -> Depth | None:
    """Return the depth of a decoded photo; None if its values have another unit (32 bits, PPM)."""
    if image.format not in ("PNG", "TIFF") or image.mode == "F":
        return None
    if image.mode == "I" or image.mode.startswith("I;16"):
        top = int(np.asarray(image).max())
    else:  # Pillow keeps the high bits of colour
        bands = np.asarray(image.getextrema()).reshape(-1, 2)
        top = int(bands[:3, 1].max()) * 256 + 255
    if top > FULL:
        return None
    white = declared_white(image)
    if image.format == "PNG" and (bits := _significant_bits(content)) and top < 2**bits:
        white = 2**bits - 1  # the values were not scaled up, as they should have been
    return Depth(white, top)


def common_white(top: int) -> int:
    """Return the value of white of photos whose largest value is `top`."""
    return next(white for white in (1023, 4095, 16383, FULL) if top <= white)


def scaled_colour(image: Image.Image, content: bytes, white: int) -> Image.Image:
    """Return a photo of 16 bits in colour, with 8 bits, `white` becoming 255.

    Pillow drops the low bits when it decodes; OpenCV keeps them.
    """
    import cv2

    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    turned = image.format == "TIFF" and image.getexif().get(274, 1) != 1
    if turned or values is None or values.dtype != np.uint16 or values.ndim != 3:
        table = [min(255, round(high * 257 * 255 / white)) for high in range(256)]
        return image.convert("RGB").point(table * 3)
    order = cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    values = cv2.cvtColor(values, order)
    scales = np.array([255 / white] * 3 + [255 / FULL] * (values.shape[2] - 3), dtype=np.float32)
    return Image.fromarray(np.clip(np.round(values * scales), 0, 255).astype(np.uint8))


def has_few_levels(image: Image.Image) -> bool:
    """Return whether an 8-bit photo has fewer than FEW_LEVELS grey levels."""
    return sum(count > 0 for count in image.convert("L").histogram()) < FEW_LEVELS


def _significant_bits(content: bytes) -> int:
    """Return the bits that the chunk sBIT of a PNG declares for each sample; 0: none."""
    place = 33  # after the header
    while content[place + 4 : place + 8] not in (b"IDAT", b"PLTE", b""):
        length = int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] == b"sBIT":
            return max(content[place + 8 : place + 8 + min(length, 3)], default=0)
        place += 12 + length
    return 0

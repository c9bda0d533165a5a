"""The formats of photos that are opened, in preparation and afterwards."""

from __future__ import annotations

from functools import cache

from PIL import Image

# Only formats that Pillow decodes by itself: none that starts another program (EPS does).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


@cache
def formats() -> tuple[str, ...]:
    """Those of them that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)

"""The formats of photos that are opened, in preparation and afterwards."""

from __future__ import annotations

from functools import cache

from PIL import Image

# Only formats that Pillow decodes by itself: none that starts another program (EPS does).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = {  # that each may have; MPO is a JPEG of several pictures
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "DIB": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf"},
    "AVIF": {".avif"},
}


@cache
def formats() -> tuple[str, ...]:
    """Those of them that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)

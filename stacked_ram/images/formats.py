"""The supported photo formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Only formats that Pillow decodes without starting another program (as it does for EPS). HEIF needs
# the package pillow-heif.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")
SUFFIXES = {  # of the files of each format; an MPO is a JPEG of several pictures
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
    "HEIF": {".heic", ".heif", ".hif"},
}

_WIDTH, _HEIGHT = 256, 257  # TIFF tags


@cache
def formats() -> tuple[str, ...]:
    """Return the supported formats that this build of Pillow can open."""
    Image.init()
    has_heif()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def has_heif() -> bool:
    """Return whether HEIC photos can be read; if so, Pillow opens them from now on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def is_heif(content: bytes) -> bool:
    """Return whether a file is HEIC or HEIF, by its list of brands."""
    length = int.from_bytes(content[:4], "big")
    if content[4:8] != b"ftyp" or length < 16:
        return False
    brands = [content[8:12], *(content[i : i + 4] for i in range(16, min(length, 256), 4))]
    known = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
    return any(brand in known for brand in brands)


def size_in_file(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened photo as stored in the file, before the EXIF rotation.

    Pillow's `size` of a TIFF may include the rotation.
    """
    if isinstance(image, TiffImageFile):
        return image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    return image.size


@contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Make Pillow refuse photos of more than `most` pixels in this process (None: no limit).

    Pillow's default limit refuses photos that --max-megapixels allows.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, most
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before

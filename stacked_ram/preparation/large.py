"""Check large photos that are stored unchanged: tiled TIFFs.

Training reads only the regions of its glimpses (stacked_ram.images.lazy), so these photos are not
reduced. The whole photo may not fit in memory, so the tiles of all levels are decoded a few at a
time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from stacked_ram.images.formats import pixel_limit, size_in_file
from stacked_ram.preparation.encoding import small_jpeg, thumbnail
from stacked_ram.preparation.perceptual import Fingerprint, fingerprint
from stacked_ram.preparation.workdir import process_name
from stacked_ram.runtime.errors import UserError

MOST_WHOLE = 32_000_000  # pixels; training reads larger photos by region (images.opening.LARGE)
MOST_PIXELS = 2**34  # the largest slides have 10,000 megapixels; more means a decompression bomb
MOST_TILE = 2**24  # most pixels of one tile, which is decoded as a whole
NEEDS = "its tiles are checked with pyvips: pip install -r requirements-large.txt"

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how the file begins
_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES, _SUB_IMAGES = 274, 322, 323, 325, 330
_BLOCK = 1024  # side (pixels) of the blocks that are decoded at a time; a power of 2
_SMALL = 1024  # longest side (pixels) of the reduced photo, for its fingerprint
_COPY = 2**20


@dataclass(frozen=True)
class TiledHeader:
    """The header of a tiled TIFF. Sizes are in pixels as stored, before the EXIF rotation."""

    width: int
    height: int
    tile_pixels: int
    tile_bytes: int
    orientation: int
    has_levels: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def is_large(self) -> bool:
        """Whether training reads the photo by region."""
        return self.pixels > MOST_WHOLE or self.has_levels


def tiled_header(path: Path) -> TiledHeader | None:
    """Return the header of a tiled TIFF; None for any other file, readable or not."""
    try:
        with open(path, "rb") as file:
            if file.read(4) not in _TIFF:
                return None
        with pixel_limit(None), warnings.catch_warnings():  # no pixels are decoded here
            warnings.simplefilter("ignore")
            with Image.open(path, formats=["TIFF"]) as image:
                tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
                if _TILE_WIDTH not in tags or _TILE_HEIGHT not in tags:
                    return None
                orientation = tags.get(_ORIENTATION, 1)
                return TiledHeader(
                    *size_in_file(image),
                    tile_pixels=tags[_TILE_WIDTH] * tags[_TILE_HEIGHT],
                    tile_bytes=max(tags.get(_TILE_BYTES, (0,))),
                    orientation=orientation if orientation in range(1, 9) else 1,
                    has_levels=_SUB_IMAGES in tags or getattr(image, "n_frames", 1) > 1,
                )
    except Exception:  # decoders raise every kind of error; later checks report what is wrong
        return None


def has_vips() -> bool:
    """Return whether pyvips, which reads these photos, is installed."""
    return importlib.util.find_spec("pyvips") is not None


def copy_with_hash(source: Path, folder: Path) -> tuple[Path, str, int]:
    """Copy a file of any size into `folder`.

    Returns:
        The path of the copy (a temporary name), its SHA-256 and its number of bytes.

    Raises:
        UnreadableSource: the source could not be read.
        OSError: the copy could not be written.
    """
    digest, size = hashlib.sha256(), 0
    target = folder / f"large.{process_name()}.tmp"
    try:
        with open(target, "wb") as written:
            for piece in _pieces(source):
                digest.update(piece)
                size += len(piece)
                written.write(piece)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target, digest.hexdigest(), size


class UnreadableSource(Exception):
    """A source file that cannot be read; the message gives the reason."""


def _pieces(source: Path) -> Iterator[bytes]:
    try:
        with open(source, "rb") as file:
            while piece := file.read(_COPY):
                yield piece
    except OSError as error:
        raise UnreadableSource(error.strerror or str(error)) from error


def fingerprint_tiles(path: Path) -> tuple[Fingerprint, bytes, tuple[int, int]]:
    """Decode every tile of every level of a photo.

    Returns:
        The photo's fingerprint, a small JPEG of it, and its (width, height) once upright.

    Raises:
        UserError: the file is damaged; the message names it and the fault.
    """
    from stacked_ram.images.pyramid import Pyramid

    pyramid = Pyramid(path)
    height, width = pyramid.size
    factor = 1
    while max(height, width) > factor * min(_SMALL, _BLOCK):
        factor *= 2
    if factor > _BLOCK:
        raise UserError(f"{path}: {width} x {height} pixels: too long a side for a photo")
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    sums, squares, sampled = np.zeros(3), np.zeros(3), 0
    for level in pyramid.levels:
        for left, top, right, bottom in _blocks(level.size):
            block_HWC = pyramid.read(level, left, top, right, bottom)
            if level is not pyramid.levels[0]:
                continue
            image = Image.fromarray(block_HWC.squeeze(2) if block_HWC.shape[2] == 1 else block_HWC)
            small.paste(image.reduce(factor).convert("RGB"), (left // factor, top // factor))
            sample_NC = block_HWC[::4, ::4].reshape(-1, block_HWC.shape[2]).astype(np.float64)
            sums, squares = sums + sample_NC.sum(0), squares + (sample_NC**2).sum(0)
            sampled += len(sample_NC)
    reduced = fingerprint(small)
    weight = width * height / sampled
    return (
        Fingerprint(
            reduced.phash,
            reduced.tiny,
            *(tuple(round(weight * float(value)) for value in total) for total in (sums, squares)),
        ),
        small_jpeg(thumbnail(small)),
        (width, height),
    )


def _blocks(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = size
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            yield left, top, min(left + _BLOCK, width), min(top + _BLOCK, height)

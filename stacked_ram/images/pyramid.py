"""Read regions of a photo file at several resolutions, without the whole photo in memory.

Uses libvips (pyvips) for tiled TIFF with its pyramid (pages or sub-images), whole-slide formats if
libvips supports them, JPEG at the scales of its decoder (1/2, 1/4, 1/8), and all other files as a
single level. Tiled files are read tile by tile. Other files must be decoded once from the start;
libvips then holds the pixels in memory (up to 100 MB) or in a temporary file.
"""

from __future__ import annotations

import io
import logging
import math
import operator
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.runtime.errors import UserError

MAX_DECODED = 2**30  # pixels of a file that is not tiled: 3 GB in a temporary file
MAX_WIDTH = 2**19  # pixels in a row of such a file: libvips holds more than a hundred rows
MAX_READ = 2**28  # most pixels read for one patch; more means that the file needs a pyramid
MAX_LEVELS = 64
LONGEST = 512  # most pixels per side averaged in memory: libvips shrinks longer sides first, but
ENOUGH = 4  # keeps at least this many pixels per cell
CONVERTED = {"uchar": 1, "ushort": 257}  # supported pixel formats -> factor from 8 bits
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of the file
HOW = "convert it to a pyramid: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"


@dataclass(frozen=True)
class Level:
    """One resolution of a photo file, which may be shrunk by whole numbers while it is read."""

    stored: tuple[int, int]
    """(width, height) in the file."""
    steps: tuple[float, float]
    """Width and height of a stored pixel, in pixels of the photo."""
    options: tuple[tuple[str, int], ...] = ()
    """Options of the libvips loader that open this level."""
    shrink: tuple[int, int] = (1, 1)
    """Factors by which it is shrunk while it is read, across and down."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) after shrinking."""
        (width, height), (across, down) = self.stored, self.shrink
        return -(-width // across), -(-height // down)

    @property
    def factors(self) -> tuple[float, float]:
        """Width and height of a pixel after shrinking, in pixels of the photo."""
        return self.steps[0] * self.shrink[0], self.steps[1] * self.shrink[1]


class Pyramid:
    """A photo file. Only its header is read at first.

    size: (height, width), upright.

    Raises UserError, which names the file, for every fault.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.vips = import_vips(self.path)
        self.state = self._state()
        try:
            with open(self.path, "rb") as file:
                is_tiff = file.read(4) in TIFF
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        # libvips only warns of a missing tile in a TIFF, and returns black pixels.
        self.fail_on = "warning" if is_tiff else "error"
        self.opened: dict[tuple[tuple[str, int], ...], Any] = {}
        stored = self._open()
        too_many = stored.width > MAX_WIDTH or stored.width * stored.height > MAX_DECODED
        if too_many and not _tiled(stored):
            raise UserError(
                f"{self.path}: {stored.width:,} x {stored.height:,} pixels without tiles would"
                f" have to be decoded as a whole; {HOW}"
            )
        whole = self._upright(stored)
        self.size = whole.height, whole.width
        levels = [Level((whole.width, whole.height), (1.0, 1.0))]
        for number, options in enumerate(_further_levels(stored), 1):
            try:
                reduced = self._upright(self._open(options))
            except UserError as error:
                raise UserError(f"{error} (pyramid level {number})") from None
            steps = level_factors(levels[0].stored, (reduced.width, reduced.height))
            if steps is not None:
                levels.append(Level((reduced.width, reduced.height), steps, options))
        self.levels = sorted(levels, key=lambda level: level.steps)

    def level_for(self, cell: tuple[float, float], wanted: tuple[float, float]) -> Level:
        """Choose the level to read: the coarsest one that is at least as fine as the cells.

        If that level is much finer than needed, it is shrunk while it is read.

        cell: (width, height) of a cell, in pixels of the photo.
        wanted: (width, height) of the region to read, in pixels of the photo.

        Raises UserError if the region has too many pixels.
        """
        fitting = [level for level in self.levels if all(map(operator.le, level.steps, cell))]
        level = fitting[-1] if fitting else self.levels[0]
        sides = [side / step for side, step in zip(wanted, level.steps, strict=True)]
        if math.prod(sides) > MAX_READ:
            raise UserError(
                f"{self.path}: a patch would read {math.prod(sides) / 1e6:,.0f} megapixels, because"
                f" the file has no smaller level of a suitable size; {HOW}"
            )
        shrink = [
            max(1, min(int(start / step / ENOUGH), math.ceil(side / LONGEST)))
            for start, step, side in zip(cell, level.steps, sides, strict=True)
        ]
        return replace(level, shrink=(shrink[0], shrink[1]))

    def read(self, level: Level, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Read a region of a level: uint8, (H, W, bands)."""
        try:
            if level.options not in self.opened:
                self.opened[level.options] = self._upright(self._open(level.options))
            image = self.opened[level.options]
            if level.shrink != (1, 1):
                image = image.shrink(*level.shrink, ceil=True)
            data = self.vips.Region.new(image).fetch(left, top, right - left, bottom - top)
        except (self.vips.Error, UserError) as error:
            self.check_unchanged()  # a change of the file would explain the error
            raise self._unreadable(error) from None
        self.check_unchanged()
        return np.frombuffer(data, np.uint8).reshape(bottom - top, right - left, -1)

    def check_unchanged(self) -> None:
        """Raise UserError if the file has changed since it was opened."""
        if self._state() != self.state:
            raise UserError(f"{self.path}: changed while it was being read; try again")

    def _state(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: no such photo ({error.strerror})") from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _open(self, options: tuple[tuple[str, int], ...] = ()) -> Any:
        try:
            source = self.vips.Source.new_from_file(str(self.path))
            return self.vips.Image.new_from_source(
                source, "", access="random", fail_on=self.fail_on, **dict(options)
            )
        except self.vips.Error as error:
            raise self._unreadable(error) from None

    def _upright(self, image: Any) -> Any:
        """Convert to upright 8-bit grayscale or sRGB without alpha, as images.decoding does."""
        if image.format not in CONVERTED:
            raise UserError(
                f"{self.path}: unsupported pixel format {image.format}; convert to 8 or 16 bits"
            )
        try:
            image = image.autorot()
            if image.hasalpha():
                image = image.flatten(background=255 * CONVERTED[image.format])
            if image.format == "ushort":
                image = (image / 257).rint().cast("uchar")
                image = image.copy(interpretation="srgb" if image.bands == 3 else "b-w")
            profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
            if profile and not _is_srgb(profile):
                image = image.icc_transform("srgb", embedded=True, intent="perceptual")
            elif image.interpretation not in ("srgb", "b-w", "rgb", "multiband"):
                image = image.colourspace("srgb")
        except self.vips.Error as error:
            raise self._unreadable(error) from None
        if image.bands not in (1, 3):
            raise UserError(f"{self.path}: {image.bands} bands; convert to grayscale or RGB")
        return image

    def _unreadable(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1] if lines else "damaged"
        return UserError(f"{self.path}: cannot read this photo ({why}); leave it out")


def import_vips(path: str | Path) -> Any:
    """Import pyvips. Raises UserError, which names the photo, if it is not installed."""
    try:
        import pyvips
    except (ImportError, OSError):  # OSError: libvips itself is missing
        raise UserError(
            f"{path}: reading by region needs pyvips: pip install 'pyvips[binary]'"
        ) from None
    # Cached operations keep files open and return old pixels of files that have changed.
    pyvips.cache_set_max(0)
    # Its other warnings are harmless, or repeated as errors.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    return pyvips


def level_factors(whole: tuple[int, int], reduced: tuple[int, int]) -> tuple[float, float] | None:
    """Return the width and height of a pixel of a reduced picture, in pixels of the whole photo.

    None if the picture is not smaller or has another aspect ratio. Sizes are (width, height).
    Levels are made by repeated halving, rounded down or up: 517 -> 64 is a factor of 8, not 8.08.
    """
    ratios = [big / small for big, small in zip(whole, reduced, strict=True)]
    if min(ratios) <= 1:
        return None
    middle = math.sqrt(ratios[0] * ratios[1])
    for number in (2 ** round(math.log2(middle)), round(middle)):
        if number > 1 and all(
            big // number <= small <= -(-big // number)
            for big, small in zip(whole, reduced, strict=True)
        ):
            return float(number), float(number)
    return (ratios[0], ratios[1]) if 0.98 < ratios[0] / ratios[1] < 1.02 else None


def _further_levels(image: Any) -> list[tuple[tuple[str, int], ...]]:
    """Return the loader options of each page or sub-image that may be a smaller level."""

    def count(field: str) -> int:
        found = int(image.get(field)) if image.get_typeof(field) else 0
        return min(found, MAX_LEVELS)

    loader = image.get("vips-loader")
    if loader.startswith("tiffload") and count("n-subifds"):
        return [(("subifd", number),) for number in range(count("n-subifds"))]
    if loader.startswith(("tiffload", "jp2kload")):
        return [(("page", number),) for number in range(1, count("n-pages"))]
    if loader.startswith("openslideload"):
        return [(("level", number),) for number in range(1, count("openslide.level-count"))]
    if loader.startswith("jpegload"):
        return [(("shrink", shrink),) for shrink in (2, 4, 8)]
    return []


def _tiled(image: Any) -> bool:
    return bool(image.get_typeof("tile-width")) or image.get("vips-loader").startswith(
        ("openslideload", "jp2kload")
    )


def _is_srgb(profile: bytes) -> bool:
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return True  # an invalid profile is ignored
    return "srgb" in name.lower()

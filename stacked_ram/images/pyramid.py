"""Regions of a photo file, at several resolutions, without holding the photo in memory.

Through libvips (pyvips): tiled TIFF with its pyramid (pages or sub-images), whole-slide formats
where libvips has them, JPEG at the scales its decoder gives (1/2, 1/4, 1/8), and any other file
as one level. What is tiled is read tile by tile. What is not must be decoded from its start once:
libvips then keeps the pixels in memory up to 100 MB, in a temporary file beyond.
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
MAX_READ = 2**28  # pixels read for one patch; more is a pyramid that is missing
MAX_LEVELS = 64
LONGEST = 512  # pixels of a side that are averaged in memory; of more, averages are read,
ENOUGH = 4  # of at least so many a cell
CONVERTED = {"uchar": 1, "ushort": 257}  # formats of pixels, and what 8 bits are in them
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how the file begins
HOW = "make a pyramid of it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"


@dataclass(frozen=True)
class Level:
    """The photo at one resolution of its file, averaged further on the way by whole numbers."""

    stored: tuple[int, int]
    """(width, height) in the file."""
    steps: tuple[float, float]
    """Pixels of the photo that one stored pixel stands for, across and down."""
    options: tuple[tuple[str, int], ...] = ()
    """How it is opened."""
    shrink: tuple[int, int] = (1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as it is read."""
        (width, height), (across, down) = self.stored, self.shrink
        return -(-width // across), -(-height // down)

    @property
    def factors(self) -> tuple[float, float]:
        """Pixels of the photo that one pixel stands for as it is read, across and down."""
        return self.steps[0] * self.shrink[0], self.steps[1] * self.shrink[1]


class Pyramid:
    """A photo file whose header was read; it is opened when pixels are wanted.

    size: (height, width), upright. Raises UserError, naming the file, for all that is wrong.
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
        # Of a TIFF, a tile that is not there is a mere warning, and black; of a JPEG, an error.
        self.fail_on = "warning" if is_tiff else "error"
        self.opened: dict[tuple[tuple[str, int], ...], Any] = {}
        stored = self._open()
        if not _tiled(stored) and stored.width * stored.height > MAX_DECODED:
            raise UserError(
                f"{self.path}: {stored.width:,} x {stored.height:,} pixels that are not tiled would"
                f" have to be decoded whole; {HOW}"
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
        """What to read for cells of so many pixels of the photo, across and down: the nearest
        level that is not coarser; where that is much finer, averaged on the way.

        wanted: (width, height), pixels of the photo that will be read in all. Raises UserError if
        those are too many.
        """
        fitting = [level for level in self.levels if all(map(operator.le, level.steps, cell))]
        level = fitting[-1] if fitting else self.levels[0]
        sides = [side / step for side, step in zip(wanted, level.steps, strict=True)]
        if math.prod(sides) > MAX_READ:
            raise UserError(
                f"{self.path}: a patch would read {math.prod(sides) / 1e6:,.0f} megapixels, because"
                f" the file has no smaller level near it; {HOW}"
            )
        shrink = [
            max(1, min(int(start / step / ENOUGH), math.ceil(side / LONGEST)))
            for start, step, side in zip(cell, level.steps, sides, strict=True)
        ]
        return replace(level, shrink=(shrink[0], shrink[1]))

    def read(self, level: Level, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """These pixels of a level, uint8, H x W x bands."""
        try:
            if level.options not in self.opened:
                self.opened[level.options] = self._upright(self._open(level.options))
            image = self.opened[level.options]
            if level.shrink != (1, 1):
                image = image.shrink(*level.shrink, ceil=True)
            data = self.vips.Region.new(image).fetch(left, top, right - left, bottom - top)
        except (self.vips.Error, UserError) as error:
            self.check_unchanged()  # else that is what is wrong
            raise self._unreadable(error) from None
        self.check_unchanged()
        return np.frombuffer(data, np.uint8).reshape(bottom - top, right - left, -1)

    def check_unchanged(self) -> None:
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
        """8 bits, grayscale or sRGB, without transparency: as images.decoding has photos."""
        try:
            return self._converted(image.autorot())
        except self.vips.Error as error:
            raise self._unreadable(error) from None

    def _converted(self, image: Any) -> Any:
        if image.format not in CONVERTED:
            raise UserError(f"{self.path}: pixels of kind {image.format}; 8 or 16 bits are needed")
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
        if image.bands not in (1, 3):
            raise UserError(f"{self.path}: {image.bands} bands; grayscale or RGB is needed")
        return image

    def _unreadable(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[-1] if lines else "damaged"
        return UserError(f"{self.path}: cannot read this photo ({why}); leave it out")


def import_vips(path: str | Path) -> Any:
    """pyvips. Raises UserError where it is missing."""
    try:
        import pyvips
    except (ImportError, OSError):  # OSError: the module without its library
        raise UserError(
            f"{path}: is read by region, which needs pyvips: pip install 'pyvips[binary]'"
        ) from None
    # Kept operations would keep files open, and answer for files that have changed since.
    pyvips.cache_set_max(0)
    # What it warns of besides is said by its errors, or does no harm.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    return pyvips


def level_factors(whole: tuple[int, int], reduced: tuple[int, int]) -> tuple[float, float] | None:
    """How many pixels of the whole photo one of the reduced stands for, across and down; None if
    it is no smaller picture of the same shape. Sizes are (width, height).

    Levels are halved again and again, rounded down or up: so 517 -> 64 is 8, not 8.08.
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
    """How to open what may be smaller levels of an opened file."""

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
        return True  # one that cannot be used is ignored
    return "srgb" in name.lower()

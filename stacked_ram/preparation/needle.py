"""The needle: photos of 2,048 x 1,536 pixels whose class depends on an object of 64 pixels.

    python -m stacked_ram.preparation.needle datasets/needle

The object (the needle) is a disc of stripes on a textured background; the class is the direction of
the stripes. The stripes are 12 pixels apart, so they vanish in a photo reduced to 224 pixels. A
soft warm light around the needle remains visible at any size and leads to it. Cool lights, each
around a disc without stripes, are distractors. Validation and test photos have one needle. Training
photos have four of the same class, so that the random glimpses at the start of training hit one
often enough.

The photos are stored as tiled pyramids (TIFF), of which only the regions of the glimpses are read.
Making them needs pyvips (requirements-large.txt).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from tyro.conf import Positional, arg

from stacked_ram.preparation.progress import progress_bar
from stacked_ram.preparation.records import SPLITS, EncodedPhoto
from stacked_ram.runtime.errors import UserError, run_entry_point

HEIGHT, WIDTH = 1536, 2048
OBJECT = 64  # side of the disc's box
PERIOD = 12.0  # of the stripes
CLASSES = ("falling", "level", "rising", "upright")  # stripes, and their angles in degrees
ANGLES = (45.0, 0.0, -45.0, 90.0)
LIGHT = 110  # pixels: standard deviation of the Gaussian light around a disc
WARM, COOL = (46.0, 18.0, -34.0), (-34.0, 6.0, 46.0)  # added to red, green and blue
DISTRACTORS = 3  # discs without stripes
NEEDLES = {"train": 4, "valid": 1, "test": 1}  # discs with stripes
OCTAVES = ((256, 16.0), (64, 12.0), (16, 10.0), (4, 8.0))  # scale (pixels), std (grey values)
TILE, QUALITY = 128, 90  # of the stored TIFF: side in pixels, of JPEG


@dataclass(frozen=True)
class NeedleOptions:
    """Make the needle data set: a small object that decides the class, in large photos."""

    dest: Positional[Annotated[Path, arg(metavar="DEST")]]
    """Folder to make; an existing data set there is replaced."""
    photos: tuple[int, int, int] = (480, 80, 200)
    """Number of photos for training, validation and test."""
    seed: int = 0
    """Seed of all random choices."""

    def __post_init__(self) -> None:
        if min(self.photos) < len(CLASSES):
            raise UserError(f"--photos {self.photos}: each split needs at least {len(CLASSES)}")


@dataclass(frozen=True)
class NeedlePhoto:
    """A photo: pixels_HWC (uint8), its class, and the box of its (first) needle in pixels."""

    pixels_HWC: np.ndarray
    class_name: str
    box: tuple[int, int, int, int]


def prepare_needle(options: NeedleOptions) -> Path:
    """Make the data set; return DEST.

    Raises:
        UserError: DEST exists and is not a prepared data set, or pyvips is missing.
    """
    from stacked_ram.images.pyramid import import_vips
    from stacked_ram.preparation.existing import existing_info
    from stacked_ram.preparation.options import PrepareOptions
    from stacked_ram.preparation.workdir import remember_run, remove_tree, working_folder
    from stacked_ram.preparation.writing import DatasetWriter

    dest = options.dest
    existing_info(dest)  # raises before any photo is made
    import_vips(dest)
    how = PrepareOptions(source=Path("needle"), dest=dest, seed=options.seed, quality=QUALITY)
    remember_run(dest, command=f"python -m stacked_ram.preparation.needle {dest}", source="drawn")
    with (
        DatasetWriter(how, kind="photos", channels=3, classes=list(CLASSES)) as writer,
        progress_bar(total=sum(options.photos), desc="drawing needles", unit="photo") as progress,
    ):
        for split, count in zip(SPLITS, options.photos, strict=True):
            for number, photo in enumerate(needle_photos(split, count, options.seed)):
                name = f"{split}_{number:05d}"
                writer.add(
                    encode_pyramid(photo.pixels_HWC),
                    class_name=photo.class_name,
                    split=split,
                    source=name,
                    name=name,
                    group=name,
                    box=photo.box,
                )
                progress.update()
        writer.finish(rule="drawn separately for each split", layout="needle", notes=[])
    remove_tree(working_folder(dest))
    return dest


def encode_pyramid(pixels_HWC: np.ndarray) -> EncodedPhoto:
    """Encode as a tiled TIFF in which each further page has half the size of the last."""
    import pyvips

    from stacked_ram.preparation.writing import describe_photo

    content = pyvips.Image.new_from_array(pixels_HWC).tiffsave_buffer(
        tile=True, tile_width=TILE, tile_height=TILE, pyramid=True, compression="jpeg", Q=QUALITY
    )
    return describe_photo(content, ".tif", Image.fromarray(pixels_HWC))


def needle_photos(split: str, count: int, seed: int) -> Iterator[NeedlePhoto]:
    """Iterate over the photos of a split, classes in turn; a seed always gives the same photos."""
    for number in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        yield needle_photo(rng, number % len(CLASSES), NEEDLES[split])


def needle_photo(
    rng: np.random.Generator,
    label: int,
    needles: int = 1,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> NeedlePhoto:
    """Draw a photo of class number `label`, of any size that has room for the lights."""
    places = scattered(rng, needles + DISTRACTORS, height, width)
    pixels_HWC = texture(rng, height, width)
    for number, (x, y) in enumerate(places):
        is_needle = number < needles
        put_light(pixels_HWC, x, y, WARM if is_needle else COOL)
        put_disc(rng, pixels_HWC, x, y, ANGLES[label] if is_needle else None)
    left, top = places[0][0] - OBJECT // 2, places[0][1] - OBJECT // 2
    box = left, top, left + OBJECT, top + OBJECT
    return NeedlePhoto(pixels_HWC.clip(0, 255).astype(np.uint8), CLASSES[label], box)


def scattered(
    rng: np.random.Generator, count: int, height: int, width: int
) -> list[tuple[int, int]]:
    """Draw centres (x, y) of discs inside the photo, far enough apart for their lights."""
    places: list[tuple[int, int]] = []
    apart = 2.5 * LIGHT
    while len(places) < count:
        x = int(rng.integers(OBJECT, width - OBJECT))
        y = int(rng.integers(OBJECT, height - OBJECT))
        if all(math.hypot(x - other_x, y - other_y) > apart for other_x, other_y in places):
            places.append((x, y))
        else:
            apart *= 0.99  # always ends
    return places


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a texture at several scales in one colour, float32 HWC."""
    grey_hw, before = np.zeros((1, 1), np.float32), OCTAVES[0][0]
    for pixels, strength in OCTAVES:
        shape = -(-height // pixels) + 1, -(-width // pixels) + 1
        noise_hw = rng.normal(0, strength, shape).astype(np.float32)
        coarse_hw = enlarged(grey_hw, before // pixels)[: shape[0], : shape[1]]
        grey_hw, before = coarse_hw + noise_hw, pixels
    grey_HW = enlarged(grey_hw, before)[:height, :width] + np.float32(rng.uniform(105, 150))
    tint_3 = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    return grey_HW[:, :, None] * tint_3


def enlarged(grey_hw: np.ndarray, times: int) -> np.ndarray:
    """Enlarge a grey picture by a whole factor."""
    height, width = grey_hw.shape
    size = width * times, height * times
    return np.asarray(Image.fromarray(grey_hw).resize(size, Image.Resampling.BILINEAR))


def put_light(pixels_HWC: np.ndarray, x: int, y: int, colour: Sequence[float]) -> None:
    """Add a soft light around (x, y)."""
    reach = 3 * LIGHT
    top, left = max(0, y - reach), max(0, x - reach)
    part_HWC = pixels_HWC[top : y + reach, left : x + reach]
    down = np.arange(top, top + part_HWC.shape[0]) - y
    across = np.arange(left, left + part_HWC.shape[1]) - x
    light_HW = np.exp(-(down[:, None] ** 2 + across**2) / (2 * LIGHT**2)).astype(np.float32)
    part_HWC += light_HW[:, :, None] * np.array(colour, np.float32)


def put_disc(
    rng: np.random.Generator, pixels_HWC: np.ndarray, x: int, y: int, angle: float | None
) -> None:
    """Draw a disc of stripes at this angle, or (None) of noise of the same contrast."""
    half = OBJECT // 2
    down, across = np.mgrid[-half:half, -half:half].astype(np.float32) + 0.5
    if angle is None:
        ink_HW = rng.choice([-1.0, 1.0], (OBJECT // 4, OBJECT // 4)).repeat(4, 0).repeat(4, 1)
    else:
        turned = math.radians(angle + 90)
        along = across * math.cos(turned) + down * math.sin(turned)
        ink_HW = np.sin(2 * math.pi * along / PERIOD + rng.uniform(0, 2 * math.pi))
    inside_HW = np.clip(half - np.hypot(down, across), 0, 1)
    part_HWC = pixels_HWC[y - half : y + half, x - half : x + half]
    part_HWC += (inside_HW * 60 * ink_HW)[:, :, None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command at the top of this file."""

    def work() -> None:
        import tyro

        prepare_needle(tyro.cli(NeedleOptions, prog="stacked_ram.preparation.needle", args=argv))

    return run_entry_point(work)


if __name__ == "__main__":
    sys.exit(main())

"""The embedded demo: real handwritten digits at random places on two real photographs.

Everything comes with scikit-learn: 1,797 scans of handwritten digits (8x8, 16 grey levels) and
the two sample photographs, china.jpg and flower.jpg. No scan is in two splits. The background is a
random crop of either photograph in every split, and does not depend on the digit. The digit is
small, at a random place, in bright ink of a random tint with a soft dark shadow. It is easy to
read, but only for a model that looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from stacked_ram.preparation.existing import existing_info
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.progress import progress_bar
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.workdir import remember_run, remove_tree, working_folder
from stacked_ram.preparation.writing import DatasetWriter, encode_photo

HEIGHT, WIDTH = 72, 96
DIGIT_SIZES = (24, 30)  # smallest and largest side of a digit's box, pixels
# number of scans in each split, and of canvases made from each scan
SCANS = {"train": 1000, "valid": 297, "test": 500}
CANVASES_A_SCAN = {"train": 10, "valid": 2, "test": 2}
INK = (200, 255)  # red, green and blue of the ink: bright, whatever its tint
SHADOW = 2.0  # pixels by which the dark shadow extends beyond the strokes, for contrast
DARKENS = 0.8  # fraction by which the shadow darkens the background


def prepare_demo(dest: Path, *, seed: int = 0) -> Path:
    """Make the demo's data set at `dest`, replacing an existing data set; return `dest`.

    Raises:
        UserError: something else exists there.
    """
    existing_info(dest)
    origin = "scikit-learn's handwritten digits on its sample photographs"
    options = PrepareOptions(source=Path("scikit-learn"), dest=dest, seed=seed, quality=95)
    remember_run(dest, command="python main.py demo", source=origin)
    total = sum(SCANS[split] * CANVASES_A_SCAN[split] for split in SPLITS)
    with (
        DatasetWriter(options, kind="photos", channels=3, classes=list("0123456789")) as writer,
        progress_bar(total=total, desc="preparing the demo", unit="photo") as progress,
    ):
        for split in SPLITS:
            for photo in demo_photos(split, seed):
                writer.add(
                    encode_photo(Image.fromarray(photo.pixels_HWC), ".jpg", options.quality),
                    class_name=str(photo.digit),
                    split=split,
                    source=f"digit {photo.scan}",
                    name=f"scan_{photo.scan:04d}",
                    group=f"scan {photo.scan}",
                    box=photo.box,
                )
                progress.update()
        writer.finish(
            rule="scans of digits drawn by class and seed",
            layout="demo",
            notes=["no scan of a digit is in two splits; backgrounds do not depend on the digit"],
        )
    remove_tree(working_folder(dest))
    return dest


@dataclass(frozen=True)
class DemoPhoto:
    """One photo of the demo: pixels_HWC (uint8), its digit and the digit's box in pixels."""

    pixels_HWC: np.ndarray
    digit: int
    scan: int
    split: str
    box: tuple[int, int, int, int]


def demo_photos(split: str, seed: int = 0) -> Iterator[DemoPhoto]:
    """Iterate over the photos of a split; a seed always gives the same photos."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    scans = split_scans(digits.target, seed)[split]
    for turn in range(CANVASES_A_SCAN[split]):
        for scan in scans:
            rng = np.random.default_rng([seed, int(scan), turn])
            background_HWC = _background(rng, photographs)
            pixels_HWC, box = _write_digit(rng, background_HWC, digits.images[scan] / 16)
            yield DemoPhoto(pixels_HWC, int(digits.target[scan]), int(scan), split, box)


def split_scans(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Assign scans to splits: stratified by class, drawn from the seed."""
    from sklearn.model_selection import train_test_split

    scans = np.arange(len(labels))
    rest, test = train_test_split(
        scans, test_size=SCANS["test"], stratify=labels, random_state=seed
    )
    train, valid = train_test_split(
        rest, test_size=SCANS["valid"], stratify=labels[rest], random_state=seed
    )
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}


def _background(rng: np.random.Generator, photographs: list[Image.Image]) -> np.ndarray:
    """Cut a random crop of a photograph, slightly scaled, perhaps mirrored; float32 HWC."""
    photograph = photographs[rng.integers(len(photographs))]
    reduction = rng.uniform(0.8, 1.25)
    width, height = WIDTH * reduction, HEIGHT * reduction
    left = rng.uniform(0, photograph.width - width)
    top = rng.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    crop = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop, np.float32)


def _write_digit(
    rng: np.random.Generator, background_HWC: np.ndarray, scan_8x8: np.ndarray
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Paste the scan, smoothly enlarged, at a random place of the background.

    Returns:
        The photo (uint8 HWC) and the digit's box (left, top, right, bottom) in pixels.
    """
    side = int(rng.integers(DIGIT_SIZES[0], DIGIT_SIZES[1] + 1))
    enlarged = Image.fromarray(scan_8x8.astype(np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    stroke_HW = np.clip((np.asarray(enlarged) - 0.2) / 0.5, 0, 1)
    blurred = Image.fromarray((255 * stroke_HW).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(SHADOW)
    )
    shadow_HW = np.clip(2 * np.asarray(blurred, np.float32) / 255, 0, 1)
    top = int(rng.integers(HEIGHT - side + 1))
    left = int(rng.integers(WIDTH - side + 1))
    pixels_HWC = background_HWC.copy()
    under_HWC = pixels_HWC[top : top + side, left : left + side]
    under_HWC *= 1 - DARKENS * shadow_HW[:, :, None]
    under_HWC += stroke_HW[:, :, None] * (_ink(rng, under_HWC) - under_HWC)
    return np.rint(pixels_HWC).clip(0, 255).astype(np.uint8), (left, top, left + side, top + side)


def _ink(rng: np.random.Generator, under_HWC: np.ndarray) -> np.ndarray:
    """Draw a bright colour of random tint."""
    return rng.uniform(*INK, 3).astype(np.float32)

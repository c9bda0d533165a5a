"""The records of a photo during the preparation: as found, as encoded, and as checked and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels; right and bottom are one past the last pixel."""

FRACTIONS = (1, 1)
"""The `box_of` of a box in fractions of the width and height of the upright photo."""

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Record:
    """One photo as listed by a source, before it is read.

    Attributes:
        source: the file, as a path that can be opened.
        class_name: any unicode text.
        split: train, valid or test if the source has an official split, otherwise None.
        group: photos with the same group stay in the same split; "" for none.
        box: of the object, in pixels of the photo as stored in the file, before any EXIF rotation.
        box_of: (width, height) of the photo on which the box was drawn, if known. The box is not
            used for a photo of another size. If it is the size of the photo turned upright, so is
            the box.
        boxes: (class, box) of every object, if the source may list several; `box` is among them.
    """

    source: Path
    class_name: str
    split: str | None = None
    group: str = ""
    box: Box | None = None
    box_of: tuple[int, int] | None = None
    boxes: tuple[tuple[str, Box], ...] = ()


@dataclass(frozen=True)
class CheckedRecord:
    """One photo that was decoded, repaired, stored and given a split.

    Attributes:
        source: path in the source, as text for the manifest.
        class_name: any unicode text.
        split: train, valid or test.
        group: photos with the same group are in the same split; duplicates have the same group.
        box: in pixels of the stored photo, or None.
        fold: number of the fold, or None.
        file: the stored photo: RGB, 8 bit, upright, JPEG or PNG (the suffix says which); or an
            unchanged tiled TIFF.
        width, height: of the stored photo, in pixels.
        repairs: what was done to it, as in the manifest ("exif_rotation", "cmyk", ...).
        boxes: (class, box) of every object, if the source may list several.
    """

    source: str
    class_name: str
    split: str
    group: str
    box: Box | None
    fold: int | None
    file: Path
    width: int
    height: int
    repairs: tuple[str, ...]
    boxes: tuple[tuple[str, Box], ...] = ()


@dataclass(frozen=True)
class EncodedPhoto:
    """An encoded photo, with its values for the manifest.

    Attributes:
        content: the file's bytes, or the path of a file that holds them.
        suffix: ".jpg", ".png" or ".tif".
        width, height: in pixels.
        sha256: of the stored bytes, 64 hexadecimal digits.
        phash: 64-bit perceptual hash, 16 hexadecimal digits.
        channel_sums, channel_squares: sums over all pixels of each channel's values (0..255) and
            of their squares: 3 numbers for RGB, 1 for grayscale.
        preview: a small JPEG for the report, of a photo that is too large to decode for it.
    """

    content: bytes | Path
    suffix: str
    width: int
    height: int
    sha256: str
    phash: str
    channel_sums: tuple[int, ...]
    channel_squares: tuple[int, ...]
    preview: bytes | None = None

"""The section `data` of a configuration: what is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from stacked_ram.config.fields import (
    Fraction,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    convert_fields,
)
from stacked_ram.runtime.errors import check


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is looked at."""

    dataset: str = "datasets/demo"
    """Folder that prepare_data.py wrote, of photos or shards; or the URL of a folder of shards."""
    short_side: Positive | None = None
    """Reduce each photo on loading so that its shorter side is this many pixels, its shape kept;
    photos are never enlarged. None: as stored."""
    photo_size: tuple[Positive, Positive] | None = None
    """Resize every photo to this (height, width), whatever its shape. None: its own shape."""
    train_on: Literal["train", "train+valid"] = "train"
    """Splits that are trained on; `train+valid` for a last run, once every choice is made."""
    fold: NotNegative | None = None
    """Which fold of a data set prepared with --folds is the validation split."""
    limit_photos: Positive | None = None
    """Use at most this many photos of each split (a quick try)."""
    clutter: Literal["fresh", "fixed"] = "fresh"
    """Digits and scenes: compose the training canvases anew every epoch, or once."""
    shift: NotNegative = 0
    """Digits that are not put on a canvas: move each training digit by up to this many pixels."""
    flip: bool = False
    """Mirror training photos left to right, half of the time."""
    crop_area: tuple[PositiveFloat, Fraction] = (1.0, 1.0)
    """Crop training photos to a random fraction of their area, between these two; (1, 1): none.
    Where the data set knows the box of the object, the crop holds it."""
    colour_jitter: Fraction = 0.0
    """Strength of random brightness, contrast, saturation and hue of training photos, 0 to 1."""
    rotate: NotNegativeFloat = 0.0
    """Rotate training photos, or digits (and scribbles) before they are put on a canvas, by up to
    this many degrees."""
    rand_augment: Annotated[int, Ge(0), Le(30)] = 0
    """Magnitude of RandAugment on training photos, 0 (off) to 30."""
    random_erasing: Fraction = 0.0
    """Probability of erasing a random rectangle of a training photo."""
    mixup: NotNegativeFloat = 0.0
    """Alpha of MixUp (needs photo_size); 0: off."""
    cutmix: NotNegativeFloat = 0.0
    """Alpha of CutMix (needs photo_size); 0: off."""
    balanced_sampler: bool = False
    """Draw every class equally often."""
    workers: NotNegative = 2
    """Processes that read and augment photos; 0: in the training process."""
    cache: Literal["none", "disk", "memory"] = "disk"
    """Where decoded photos are kept between epochs: a memory-mapped file beside the data set,
    the training process, or nowhere. The same cache holds the glance features of a frozen
    backbone, if no augmentation changes the photos, and the linear probe of a test."""
    cache_limit: NotNegativeFloat = 20.0
    """Largest size of that cache, and of the kept glances, in GB; a data set that does not fit is
    decoded every epoch."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check()

    def _check(self) -> None:
        """Refuse values that cannot go together. Raises UserError."""
        low, high = self.crop_area
        check(low <= high, f"crop_area: {self.crop_area} is not 0 < low <= high <= 1")
        check(
            self.photo_size is None or self.short_side is None,
            "photo_size and short_side: give one of them, not both",
        )
        check(
            self.photo_size is not None or not (self.mixup or self.cutmix),
            "mixup, cutmix: blending two photos needs photos of one size; set photo_size",
        )

"""Compose new training scenes in every epoch, in the same way as the stored ones (data.scenes).

The photos that scenes consist of are stored with the data set (`pieces/`), and cached once decoded
(data.cache). If training needs scenes smaller than the stored ones, they are composed at a smaller
size. A scene depends only on its random numbers, not on the process or on earlier scenes.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from stacked_ram.data.cache import open_cache
from stacked_ram.data.dataset import PhotoDataset
from stacked_ram.data.scenes import GROUND_FRACTIONS, PIECES, choose_others, compose_scene
from stacked_ram.images.decoding import read_photo, resized, to_CHW
from stacked_ram.runtime.errors import UserError


class SceneMaker:
    """Compose new training scenes of a prepared data set.

    cache: the cache of decoded pieces, or None.
    """

    def __init__(
        self, dataset: PhotoDataset, size: tuple[int, int], cache: str = "none", limit: float = 0
    ) -> None:
        """Read the lists of pieces.

        size: (height, width) of the scenes to make.
        cache, limit: as `data.cache` and `data.cache_limit` in a config.

        Raises UserError if the data set has no pieces.
        """
        shape = dataset.scene
        assert shape is not None  # a data set of scenes
        self.size = size
        # Compose at the size at which stored scenes are decoded, then reduce as they are reduced.
        height, width = as_decoded((shape.height, shape.width), size)
        shape = dataclasses.replace(shape, height=height, width=width)
        self.shape = shape
        folder = dataset.folder / PIECES
        again = "prepare the scenes again, or train on the stored scenes with `clutter: fixed`"
        self.backgrounds = sorted((folder / "background").glob("*"))
        try:
            with open(folder / "photos.csv", encoding="utf-8", newline="") as file:
                self.photo_of = {
                    row["path"]: dataset.folder / row["piece"] for row in csv.DictReader(file)
                }
        except (OSError, KeyError) as error:
            raise UserError(f"{folder / 'photos.csv'}: cannot be read ({error}); {again}") from None
        if len(self.backgrounds) <= shape.clutter:
            raise UserError(f"{folder}: background photos are missing; {again}")

        ground = [int(np.ceil(side / GROUND_FRACTIONS[0])) for side in (shape.height, shape.width)]
        longest = int(np.ceil(shape.object_shares[1] * max(shape.height, shape.width)))
        objects = sorted(set(self.photo_of.values()))
        self.row_of = {file: row for row, file in enumerate([*self.backgrounds, *objects])}
        self.sizes_M2 = np.array(
            [as_decoded(_stored_size(file), ground) for file in self.backgrounds]
            + [as_decoded(_stored_size(file), [longest, longest]) for file in objects],
            np.int64,
        )
        cache_key = f"pieces{shape.width}x{shape.height}"
        self.cache = open_cache(dataset, self.sizes_M2, cache, limit, cache_key)

    def make(self, path: str, entropy: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Compose a new scene with the photo of a stored scene.

        path: the stored scene, as in the manifest.
        entropy: whole numbers that seed the random choices.

        Returns pixels_CHW (uint8), and box_4 of the photo in pixels of the scene.
        """
        others = choose_others(entropy, self.backgrounds, self.shape)
        rng = np.random.default_rng([*entropy, 1])  # as data.scenes.draw_scene
        scene, box = compose_scene(
            rng,
            self.shape,
            lambda *_: self.piece(self.photo_of[path]),
            [lambda *_, file=file: self.piece(file) for file in others],
        )
        box_4 = np.array(box, np.float64)
        if scene.size == self.size[::-1]:
            return to_CHW(scene), box_4
        box_4 *= np.tile(np.divide(self.size[::-1], scene.size), 2)
        return resized(np.array(scene), *self.size), box_4

    def piece(self, file: Path) -> Piece:
        """Return a decoded piece, from the cache if possible."""
        row = self.row_of[file]
        height, width = map(int, self.sizes_M2[row])
        pixels = self.cache.get(row, file) if self.cache else None
        if pixels is None:
            pixels_CHW = read_photo(file, photo_size=(height, width))
            pixels = np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))
            if self.cache:
                self.cache.put(row, file, pixels)
        # The cache keeps no shape: reshape to that of the array that was put in.
        return Piece(pixels.reshape(height, width, 3))


@dataclass(frozen=True)
class Piece:
    """A decoded photo that is resized as by Pillow, in a tenth of the time; cut at whole pixels."""

    pixels_HWC: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self.pixels_HWC.shape
        return width, height

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        pixels_HWC = self.pixels_HWC
        if box is not None:
            left, top = int(box[0]), int(box[1])
            right, bottom = max(left + 1, round(box[2])), max(top + 1, round(box[3]))
            pixels_HWC = np.ascontiguousarray(pixels_HWC[top:bottom, left:right])
        pixels_1CHW = torch.from_numpy(pixels_HWC)[None].permute(0, 3, 1, 2)
        new_1CHW = interpolate(pixels_1CHW, size[::-1], mode=resample.name.lower(), antialias=True)
        return Image.fromarray(new_1CHW[0].permute(1, 2, 0).numpy())


def as_decoded(size: tuple[int, int], least: Sequence[int]) -> tuple[int, int]:
    """Return the smallest (height, width), at least `least`, at which a JPEG of this size can be
    decoded at almost no cost."""
    for scale in (8, 4, 2):
        height, width = (-(-side // scale) for side in size)
        if height >= least[0] and width >= least[1]:
            return height, width
    return size


def _stored_size(file: Path) -> tuple[int, int]:
    """Return (height, width) of a photo file."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error}); prepare the scenes again") from None

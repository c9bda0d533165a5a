"""Training scenes made anew in every epoch, in the way of the written ones (data.scenes).

What they are made of lies beside them (`pieces/`), is decoded once and kept as decoded photos are
(data.cache). A scene that training wants smaller is composed small. Every scene is a function of
the numbers it is drawn by, whatever process makes it and whatever was made before.
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
from stacked_ram.data.dataset import Dataset
from stacked_ram.data.scenes import GROUND_SHARES, PIECES, choose_others, compose_scene
from stacked_ram.images.decoding import read_photo, resized, to_CHW
from stacked_ram.runtime.errors import UserError


class SceneMaker:
    """Makes the training scenes of a prepared data set anew.

    cache: of the decoded pieces; None where there is none.
    """

    def __init__(
        self, dataset: Dataset, size: tuple[int, int], cache: str = "none", limit: float = 0
    ):
        """size: (height, width) of the scenes to make. cache, limit: as of photos.

        Raises UserError when the data set holds no pieces to make scenes of.
        """
        shape = dataset.scene
        self.size = size
        # composed as small as the written ones are decoded, and then reduced as they are
        height, width = as_decoded((shape.height, shape.width), size)
        shape = dataclasses.replace(shape, height=height, width=width)
        self.shape = shape
        folder = dataset.folder / PIECES
        again = "prepare the scenes again, or train on them as written: clutter: fixed"
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

        ground = [int(np.ceil(side / GROUND_SHARES[0])) for side in (shape.height, shape.width)]
        longest = int(np.ceil(shape.object_shares[1] * max(shape.height, shape.width)))
        objects = sorted(set(self.photo_of.values()))
        self.row_of = {file: row for row, file in enumerate([*self.backgrounds, *objects])}
        self.sizes_M2 = np.array(
            [as_decoded(_stored_size(file), ground) for file in self.backgrounds]
            + [as_decoded(_stored_size(file), [longest, longest]) for file in objects],
            np.int64,
        )
        words = f"pieces{shape.width}x{shape.height}"
        self.cache = open_cache(dataset, self.sizes_M2, cache, limit, words)

    def make(self, path: str, entropy: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """pixels_CHW of another scene of the photo that is in the scene `path` (as in the
        manifest), and its box_4, in pixels of it. entropy: whole numbers that decide what is
        drawn."""
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
        row = self.row_of[file]
        height, width = map(int, self.sizes_M2[row])
        pixels = self.cache.get(row, file) if self.cache else None
        if pixels is None:
            pixels_CHW = read_photo(file, photo_size=(height, width))
            pixels = np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))
            if self.cache:
                self.cache.put(row, file, pixels)
        # the cache knows of numbers only: what was put in pixel by pixel comes out so
        return Piece(pixels.reshape(height, width, 3))


@dataclass(frozen=True)
class Piece:
    """A decoded photo that resizes as Pillow's do, at a tenth of the time, cut at whole pixels."""

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
    """(height, width) to which a JPEG's decoder reduces a photo of this size at next to no cost,
    no less than `least`."""
    for scale in (8, 4, 2):
        height, width = (-(-side // scale) for side in size)
        if height >= least[0] and width >= least[1]:
            return height, width
    return size


def _stored_size(file: Path) -> tuple[int, int]:
    """(height, width)"""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error}); prepare the scenes again") from None

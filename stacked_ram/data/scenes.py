"""Compose scenes: one labelled photo (the object), small, somewhere on a canvas of other photos.

Scenes are the counterpart of cluttered MNIST for photographs: a background photo, square pieces of
other photos, and the object on top, all with the same soft edges. The random choices depend neither
on the object's class nor on its shape: the object is centred in a square of random size at a random
place, as wide as the object's longer side.

The preparation stores each scene once; stacked_ram.data.fresh_scenes composes new ones in training.

Composes one scene at a time, in worker processes, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from stacked_ram.runtime.errors import UserError

PIECES = "pieces"  # folder of a data set of scenes: what its training scenes are made of

GROUND_FRACTIONS = (0.7, 1.0)  # of the largest crop of the ground that has the canvas's shape
PIECE_FRACTIONS = (0.5, 1.0)  # side of the square cut for a piece, of its photo's shorter side
EDGE_FRACTION = 0.12  # of a piece's shorter side: how far its soft edge reaches in

Box = tuple[int, int, int, int]
Range = tuple[float, float]


class Photo(Protocol):
    """A photo of a scene: an RGB image of Pillow, or an object with the same `resize`."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> Image.Image: ...


OpenAtLeast = Callable[[int, int], Photo]
"""(width, height) -> the photo: of its own size, or reduced to no less than this."""


@dataclass(frozen=True)
class SceneShape:
    """The settings of scenes: sizes in pixels, and fractions of a side of the canvas."""

    height: int
    width: int
    object_shares: tuple[float, float] = (0.12, 0.3)
    """The object's longer side, of the canvas's longer side."""
    clutter: int = 4
    """Pieces of other photos."""
    clutter_shares: tuple[float, float] = (0.08, 0.2)
    """A piece's side, of the canvas's width."""

    def info(self) -> dict[str, Any]:
        """Return the settings as values for dataset.yaml."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_info(cls, info: Any) -> SceneShape:
        """Read the settings from dataset.yaml. Raises UserError if they are invalid."""
        try:
            fields: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in info.items()
            }
            return cls(**fields)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"dataset.yaml: scene: {info!r} is not valid; prepare the scenes again"
            ) from error


def choose_others(
    entropy: Sequence[int], backgrounds: Sequence[Path], shape: SceneShape
) -> tuple[Path, ...]:
    """Choose the background photo and the pieces of one scene, all different."""
    rng = np.random.default_rng(entropy)
    chosen = rng.choice(len(backgrounds), 1 + shape.clutter, replace=False)
    return tuple(backgrounds[number] for number in chosen)


def draw_scene(
    entropy: Sequence[int], shape: SceneShape, photo: Path, others: Sequence[Path]
) -> tuple[Image.Image, Box]:
    """Compose a scene of photos in files (RGB, 8 bit, upright)."""
    rng = np.random.default_rng([*entropy, 1])  # other numbers than those that chose the photos
    return compose_scene(rng, shape, opener(photo), [opener(file) for file in others])


def opener(file: Path) -> OpenAtLeast:
    """Return a function that opens a photo, a JPEG quickly reduced to at least the wanted size."""

    def open_at_least(width: int, height: int) -> Image.Image:
        with Image.open(file) as image:
            image.draft("RGB", (width, height))
            return image.convert("RGB")

    return open_at_least


def compose_scene(
    rng: np.random.Generator, shape: SceneShape, photo: OpenAtLeast, others: list[OpenAtLeast]
) -> tuple[Image.Image, Box]:
    """Compose one scene; return it with the object's box (left, top, right, bottom; exclusive).

    others: the background photo and the `shape.clutter` pieces, in this order.
    """
    size = (shape.width, shape.height)
    scene = _crop(rng, others[0], size, GROUND_FRACTIONS)
    for other in others[1:]:
        side = _side(rng, shape.clutter_shares, shape.width, min(size))
        left, top = _place(rng, size, side)
        piece = _crop(rng, other, (side, side), PIECE_FRACTIONS)
        scene.paste(piece, (left, top), _soft_edges(side, side))
    side = _side(rng, shape.object_shares, max(size), min(size))
    left, top = _place(rng, size, side)
    piece = _fit(photo, side)
    left += (side - piece.width) // 2
    top += (side - piece.height) // 2
    scene.paste(piece, (left, top), _soft_edges(*piece.size))
    return scene, (left, top, left + piece.width, top + piece.height)


def _side(
    rng: np.random.Generator, fractions: tuple[float, float], whole: int, longest: int
) -> int:
    return int(np.clip(round(rng.uniform(*fractions) * whole), 1, longest))


def _place(rng: np.random.Generator, size: tuple[int, int], side: int) -> tuple[int, int]:
    """Draw (left, top) of a square on the canvas, uniformly."""
    return int(rng.integers(size[0] - side + 1)), int(rng.integers(size[1] - side + 1))


def _crop(
    rng: np.random.Generator,
    photo: OpenAtLeast,
    size: tuple[int, int],
    fractions: tuple[float, float],
) -> Image.Image:
    """Cut a random crop with the aspect ratio of `size`, perhaps mirror it, resize it to `size`."""
    fraction, across, down, mirror = *rng.uniform(size=3), rng.random() < 0.5
    fraction = fractions[0] + fraction * (fractions[1] - fractions[0])
    # what is left of the photo is `fraction` of its sides at least, so this is enough to open
    image = photo(*(int(np.ceil(side / fractions[0])) for side in size))
    whole_width, whole_height = image.size
    scale = fraction * min(whole_width / size[0], whole_height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = across * (whole_width - width), down * (whole_height - height)
    box = (left, top, min(left + width, whole_width), min(top + height, whole_height))
    crop = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else crop


def _fit(photo: OpenAtLeast, side: int) -> Image.Image:
    """Resize the whole photo to a longer side of `side`."""
    image = photo(side, side)
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=256)
def _soft_edges(width: int, height: int) -> Image.Image:
    """Return the opacity of a piece (0..255): 0 at its rim, full further inside."""
    edge = max(1.0, EDGE_FRACTION * min(width, height))

    def rise(length: int) -> np.ndarray:
        from_rim = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
        way = np.minimum(from_rim / edge, 1)
        return way * way * (3 - 2 * way)

    return Image.fromarray(np.rint(255 * np.outer(rise(height), rise(width))).astype(np.uint8))

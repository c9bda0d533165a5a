"""Load batches of digits: all in memory (the device's if they fit), composed batch by batch.

No workers and no loop over photos: a batch is a gather and `canvas.compose`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stacked_ram.config.schema import Config, DataConfig
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.canvas import compose, paste, rotate, shift
from stacked_ram.data.dataset import DigitDataset
from stacked_ram.data.rng import derive_seed
from stacked_ram.runtime.errors import UserError

CHUNK = 4096  # canvases composed at once when all of them are
EVALUATED = 8  # a single training batch leaves a GPU idle in evaluation, without gradients


class DigitLoader(Loader):
    """Loader of a data set of kind digits."""

    def __init__(self, dataset: DigitDataset, config: Config, **where: Any) -> None:
        super().__init__(dataset, config, **where)
        self.evaluated_at_once = EVALUATED if self.device.type == "cuda" else 1
        check_options(dataset, self.data)
        digits = dataset.digits
        self.digits = digits
        images_NHW = torch.from_numpy(digits.images_NHW)
        boxes_N4 = torch.from_numpy(dataset.boxes)
        in_pieces = digits.pieces_NP3 is not None
        fresh = self.train and self.data.clutter == "fresh"
        self.fresh = fresh and not digits.composed and not in_pieces
        if not self.fresh and not digits.composed and not in_pieces:
            images_NHW, boxes_N4 = compose_all(dataset)
        self.home = self._home(images_NHW)
        self.images_NHW = images_NHW.to(self.home)
        self.boxes_N4 = boxes_N4.to(self.home)
        self.labels_N = torch.from_numpy(dataset.targets(slice(None))).to(self.home)
        self.pieces_NP3: Tensor | None = None
        if digits.pieces_NP3 is not None:
            self.pieces_NP3 = torch.from_numpy(digits.pieces_NP3).to(self.home)
        size = digits.canvas if self.fresh or in_pieces else images_NHW.shape[1:]
        self.size_2 = torch.tensor(tuple(size), device=self.home)
        self.generator = torch.Generator(self.home)

    def _home(self, images_NHW: Tensor) -> torch.device:
        """Return where the digits are kept: the device if they fit into a quarter of its free
        memory, or else the CPU."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if images_NHW.nbytes > free / 4:
                return torch.device("cpu")
        return self.device

    def _load(self, start: int) -> Iterator[Batch]:
        left = self.batches[start:]
        if not left:  # so few photos that other processes have them all
            return
        # one copy to the device for the epoch, not one for every batch
        index_X = torch.cat([torch.from_numpy(rows.index_B) for rows in left]).to(self.home)
        parts = index_X.split([len(rows.index_B) for rows in left])
        for number, index_B in enumerate(parts, start):
            yield self.make(index_B, derive_seed(self.seed, self.epoch, number, self.rank))

    def make(self, index_B: Tensor, seed: int) -> Batch:
        """Make the batch of these digits; `seed` determines their rotation and place."""
        boxes_B4 = self.boxes_N4[index_B]
        self.generator.manual_seed(seed)
        if self.pieces_NP3 is not None:
            return self.batch(index_B, self.paste(self.pieces_NP3[index_B]), boxes_B4)
        pixels_BHW = self.images_NHW[index_B]
        if self.train and self.data.rotate:
            pixels_BHW = rotate(pixels_BHW, self.data.rotate, self.generator)
        if self.fresh:
            pixels_B1HW, boxes_B4 = compose(
                pixels_BHW, self.digits.canvas, translate=self.digits.translate,
                clutter=self.digits.clutter, clutter_size=self.digits.clutter_size,
                generator=self.generator, pool_NHW=self.images_NHW, index_B=index_B,
            )  # fmt: skip
        elif self.train and self.data.shift:
            pixels_B1HW = shift(pixels_BHW, self.data.shift, self.generator)
        else:
            pixels_B1HW = pixels_BHW[:, None]
        return self.batch(index_B, pixels_B1HW, boxes_B4)

    def paste(self, pieces_BP3: Tensor) -> Tensor:
        """Draw canvases from their pieces, each turned about its own middle if `rotate` says so."""
        patterns_NHW = self.images_NHW
        if self.train and self.data.rotate:
            pieces_BP3 = pieces_BP3.long()
            turned = patterns_NHW[pieces_BP3[..., 0].flatten()]
            patterns_NHW = rotate(turned, self.data.rotate, self.generator)
            number_BP = torch.arange(len(turned), device=turned.device).view(pieces_BP3.shape[:2])
            pieces_BP3 = torch.cat([number_BP[..., None], pieces_BP3[..., 1:]], dim=2)
        return paste(patterns_NHW, pieces_BP3, self.digits.canvas)

    def batch(self, index_B: Tensor, pixels_B1HW: Tensor, boxes_B4: Tensor) -> Batch:
        return Batch(
            pixels_BCHW=pixels_B1HW.expand(-1, self.dataset.channels, -1, -1),
            sizes_B2=self.size_2.expand(len(index_B), 2),
            labels_B=self.labels_N[index_B],
            boxes_B4=boxes_B4.float(),
            index_B=index_B,
        )


def compose_all(dataset: DigitDataset) -> tuple[Tensor, Tensor]:
    """Compose all canvases of a split by the data set's own seed: (N, H, W) and boxes.

    For `clutter: fixed`. Always on the CPU, so that the canvases are the same everywhere.
    """
    digits = dataset.digits
    images_NHW = torch.from_numpy(digits.images_NHW)
    generator = torch.Generator().manual_seed(derive_seed(digits.seed, len(dataset)))
    parts = [
        compose(
            images_NHW[index_B], digits.canvas, translate=digits.translate,
            clutter=digits.clutter, clutter_size=digits.clutter_size,
            generator=generator, pool_NHW=images_NHW, index_B=index_B,
        )
        for index_B in torch.arange(len(images_NHW)).split(CHUNK)
    ]  # fmt: skip
    return torch.cat([pixels[:, 0] for pixels, _ in parts]), torch.cat(
        [boxes for _, boxes in parts]
    )


def check_options(dataset: DigitDataset, data: DataConfig) -> None:
    """Raise UserError for options that digits do not take."""
    unused = {
        "short_side": data.short_side is not None,
        "photo_size": data.photo_size not in (None, dataset.digits.canvas),
        "flip": data.flip,
        "crop_area": data.crop_area != (1.0, 1.0),
        "colour_jitter": data.colour_jitter > 0,
        "rand_augment": data.rand_augment > 0,
        "random_erasing": data.random_erasing > 0,
    }
    for name, given in unused.items():
        if given:
            raise UserError(f"{name}: {dataset.folder} holds digits, which do not take it")
    if data.shift and not dataset.digits.composed:
        random = dataset.digits.translate
        where = "stand at random places already" if random else "stand in the middle of a canvas"
        raise UserError(
            f"shift: the digits of {dataset.folder} {where}; it is for digits that are seen as they"
            f" are stored{'' if random else ' (--translate prepares them at random places)'}"
        )
    in_pieces = dataset.digits.pieces_NP3 is not None
    if data.rotate and data.clutter == "fixed" and not dataset.digits.composed and not in_pieces:
        raise UserError(
            f"rotate: with clutter: fixed the canvases of {dataset.folder} are finished before"
            " their digits could turn; leave one of the two"
        )

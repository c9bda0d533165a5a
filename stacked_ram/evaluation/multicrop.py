"""Multi-crop evaluation: the mean belief of several crops of each photo.

The usual five or ten crops (Krizhevsky et al., 2012, section 4.1): the four corners and the centre,
and the same mirrored. That is an average over as many passes, at as many times the cost, and is
reported as such.

B photos   T steps   N classes
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from stacked_ram.models.ram import RAM
from stacked_ram.models.trace import Trace
from stacked_ram.ops.patches import Photos
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.errors import UserError

SHARE = 7 / 8  # of the photo's height and width: 224 of 256 pixels
PLACES = ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))  # (x, y) of a crop's room to move


class Crops:
    """A stand-in for the model in `predict_split`.

    count: 5, or 10 with the mirrored ones. The trace's locations and boxes are those of the first
    crop, the centre.
    """

    def __init__(self, model: RAM, count: int) -> None:
        self.model, self.count = model, count

    @property
    def thresholds_N(self) -> Tensor:
        return self.model.thresholds_N

    def eval(self) -> None:
        self.model.eval()

    def photos(self, images: Tensor | PhotoBatch, sizes_B2: Tensor) -> PhotoBatch:
        return self.model.photos(images, sizes_B2)

    def __call__(self, photos: PhotoBatch, **how: Any) -> Trace:
        """Look at one crop of all photos after the other, without their cached glance.

        Raises UserError for photos that are read by region.
        """
        if not isinstance(photos, Photos):
            raise UserError("--crops: not for photos that are read by region; set short_side")
        pixels_BCHW, sizes_B2 = photos.pixels_BCHW, photos.sizes_B2
        traces = [
            self.model(self.model.photos(*cropped(pixels_BCHW, sizes_B2, place, mirror)), **how)
            for mirror in (False, True)[: self.count // len(PLACES)]
            for place in PLACES
        ]
        beliefs_XBTN = torch.stack([self.model.beliefs(trace.logits_BTN) for trace in traces])
        beliefs_BTN = beliefs_XBTN.mean(0)
        scores_BTN = beliefs_BTN.logit(1e-6) if self.model.multi_label else beliefs_BTN.log()
        return dataclasses.replace(traces[0], logits_BTN=scores_BTN)


def crop_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a crop of such a photo."""
    return max(1, round(height * SHARE)), max(1, round(width * SHARE))


def cropped(
    pixels_BCHW: Tensor, sizes_B2: Tensor, place: tuple[float, float], mirror: bool
) -> tuple[Tensor, Tensor]:
    """The crop at this place of each photo, padded below and right with zeros, and its
    (height, width)."""
    sizes = [crop_size(*size) for size in sizes_B2.tolist()]
    cut_B2 = torch.tensor(sizes, dtype=sizes_B2.dtype)
    tallest, widest = cut_B2.amax(0).tolist()
    cut_BCHW = pixels_BCHW.new_zeros(*pixels_BCHW.shape[:2], tallest, widest)
    for row, ((whole_height, whole_width), (height, width)) in enumerate(
        zip(sizes_B2.tolist(), sizes, strict=True)
    ):
        left = round(place[0] * (whole_width - width))
        top = round(place[1] * (whole_height - height))
        crop_CHW = pixels_BCHW[row, :, top : top + height, left : left + width]
        cut_BCHW[row, :, :height, :width] = crop_CHW.flip(2) if mirror else crop_CHW
    return cut_BCHW, cut_B2.to(sizes_B2.device)

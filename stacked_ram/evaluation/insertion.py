"""Deletion and insertion: does the model need the places that it chose?

Petsiuk et al., 2018 (RISE, section 4.2), with a glimpse's narrowest patch as the unit. One order of
places after the other, the same squares are hidden in the whole photo (deletion) or shown in the
hidden one (insertion), and the model looks at each of these photos anew. The curve is its belief in
the class that it gave to the whole photo, after 0, 1, ... T places; its area is the curve's mean by
the trapezoid rule, 0 to 1. Places that matter have a large area by insertion and a small one by
deletion. Hidden means averaged over squares as wide as the patch, smoothly joined.

B photos   T steps   K = T + 1 points of a curve
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stacked_ram.data.batch import Batch
from stacked_ram.evaluation.metrics import mean_interval
from stacked_ram.evaluation.objects import narrowest
from stacked_ram.models.ram import RAM

Heat = Callable[[Batch, Tensor], list[Tensor]]
"""Photos and the class asked for, B -> a heat map over each photo, rows x columns."""
OWN, RANDOM, CENTRE = "own path", "random places", "centre"


class Curves:
    """Adds up the curves of batches. heats: further orders by name, as heat maps."""

    def __init__(self, model: RAM, heats: dict[str, Heat], seed: int = 0) -> None:
        self.model, self.heats = model, heats
        self.rng = np.random.default_rng(seed)
        self.parts: dict[str, dict[str, list[np.ndarray]]] = {"insertion": {}, "deletion": {}}

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Measure a batch whose pixels are in memory."""
        model, pixels_BCHW, sizes_B2 = self.model, batch.pixels_BCHW, batch.sizes_B2
        assert isinstance(pixels_BCHW, Tensor)
        trace = model(batch.photos(model))
        whole_BN = trace.logits_BTN[:, -1].float().softmax(1)
        asked_B = whole_BN.argmax(1)
        assert trace.boxes_BTSK4 is not None  # only traces of training have none
        own_BT4 = narrowest(trace.boxes_BTSK4.float())
        hidden_BCHW = blurred(pixels_BCHW, sizes_B2, own_BT4)
        whole_B = self.beliefs(pixels_BCHW, sizes_B2, asked_B)
        none_B = self.beliefs(hidden_BCHW, sizes_B2, asked_B)
        for name, boxes_BT4 in self.orders(batch, own_BT4, asked_B).items():
            shown_BHW = torch.zeros_like(pixels_BCHW[:, 0], dtype=torch.bool)
            inserted, deleted = [none_B], [whole_B]
            for boxes_B4 in boxes_BT4.unbind(1):
                show(shown_BHW, boxes_B4)
                shown = shown_BHW[:, None]
                for beliefs, (inside, outside) in (
                    (inserted, (pixels_BCHW, hidden_BCHW)),
                    (deleted, (hidden_BCHW, pixels_BCHW)),
                ):
                    changed = torch.where(shown, inside, outside)
                    beliefs.append(self.beliefs(changed, sizes_B2, asked_B))
            for kind, beliefs in (("insertion", inserted), ("deletion", deleted)):
                self.parts[kind].setdefault(name, []).append(np.stack(beliefs, 1))

    def beliefs(self, pixels_BCHW: Tensor, sizes_B2: Tensor, asked_B: Tensor) -> np.ndarray:
        """The model's belief in the classes asked for."""
        trace = self.model(self.model.photos(pixels_BCHW, sizes_B2))
        belief_BN = trace.logits_BTN[:, -1].float().softmax(1)
        return belief_BN.gather(1, asked_B[:, None])[:, 0].cpu().numpy()

    def orders(self, batch: Batch, own_BT4: Tensor, asked_B: Tensor) -> dict[str, Tensor]:
        """Squares of the model's own size in each order, B x T x 4."""
        steps = own_BT4.shape[1]
        width_B = own_BT4[:, 0, 2] - own_BT4[:, 0, 0]
        sides_B2 = batch.sizes_B2.flip(1).float()
        drawn_BT2 = torch.from_numpy(self.rng.random((len(batch), steps, 2))).to(own_BT4)
        ring = sorted(itertools.product(range(-steps, steps + 1), repeat=2), key=near)[:steps]
        away_T2 = torch.tensor(ring).to(own_BT4)
        centre_BT2 = sides_B2[:, None] / 2 + away_T2 * width_B[:, None, None]
        found = {
            OWN: own_BT4,
            RANDOM: squares(drawn_BT2 * sides_B2[:, None], width_B),
            CENTRE: squares(centre_BT2, width_B),
        }
        for name, heat in self.heats.items():
            peaks = [
                heat_peaks(map_YX, size, float(width), steps)
                for map_YX, size, width in zip(
                    heat(batch, asked_B), batch.sizes_B2.tolist(), width_B, strict=True
                )
            ]
            found[name] = squares(torch.stack(peaks).to(own_BT4), width_B)
        return found

    def figures(self) -> dict[str, Any]:
        """The area under each curve, its mean and 95 % confidence interval; and the mean curves."""
        found: dict[str, Any] = {}
        for kind, by_order in self.parts.items():
            found[kind] = {}
            for name, parts in by_order.items():
                curves_NK = np.concatenate(parts)
                found[kind][name] = {
                    "area": mean_interval(area(curves_NK)),
                    "curve": curves_NK.mean(0).tolist(),
                }
        return found


def near(offset: tuple[int, ...]) -> tuple[int, ...]:
    """Sorts places by distance from the centre."""
    return offset[0] ** 2 + offset[1] ** 2, *offset


def area(curves_NK: np.ndarray) -> np.ndarray:
    """Area under each curve, over the fraction of places from 0 to 1."""
    return ((curves_NK[:, 1:] + curves_NK[:, :-1]) / 2).mean(1)


def squares(centres_BT2: Tensor, width_B: Tensor) -> Tensor:
    """Boxes of these widths around centres in pixels."""
    half = width_B[:, None, None] / 2
    return torch.cat([centres_BT2 - half, centres_BT2 + half], 2)


def blurred(pixels_BCHW: Tensor, sizes_B2: Tensor, boxes_BT4: Tensor) -> Tensor:
    """Photos whose details up to the width of a patch are gone; the padding stays zero."""
    result = torch.zeros_like(pixels_BCHW)
    for row, (height, width) in enumerate(sizes_B2.tolist()):
        side = float(boxes_BT4[row, 0, 2] - boxes_BT4[row, 0, 0])
        cells = [max(1, round(length / side)) for length in (height, width)]
        photo = pixels_BCHW[row : row + 1, :, :height, :width].float()
        coarse = functional.interpolate(photo, size=cells, mode="area")
        smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
        result[row, :, :height, :width] = smooth[0].round().to(result.dtype)
    return result


def show(shown_BHW: Tensor, boxes_B4: Tensor) -> None:
    """Mark the boxes' pixels."""
    for row, box in enumerate(boxes_B4.round().long().clamp(min=0).tolist()):
        left, top, right, bottom = box
        shown_BHW[row, top:bottom, left:right] = True


def heat_peaks(heat_YX: Tensor, size: tuple[int, int], width: float, count: int) -> Tensor:
    """Centres, in pixels, of the squares that hold most of a heat map, one after the other without
    what earlier ones hold: count x 2."""
    height, wide = size
    rows, columns = 64, max(1, round(64 * wide / height))
    if wide > height:
        rows, columns = max(1, round(64 * height / wide)), 64
    fine = functional.interpolate(
        heat_YX[None, None].float().clamp(min=0), size=(rows, columns), mode="bilinear"
    )
    down, across = max(1, round(width * rows / height)), max(1, round(width * columns / wide))
    found = []
    for _ in range(count):
        # a window of down x across around each cell, cut at the edges
        windows = functional.pad(
            fine, (across // 2, across - across // 2 - 1, down // 2, down - down // 2 - 1)
        )
        held = functional.avg_pool2d(windows, (down, across), stride=1)[0, 0]
        row, column = divmod(int(held.argmax()), columns)
        found.append([(column + 0.5) * wide / columns, (row + 0.5) * height / rows])
        top, left = max(row - down // 2, 0), max(column - across // 2, 0)
        fine[..., top : row + down - down // 2, left : column + across - across // 2] = 0
    return torch.tensor(found)

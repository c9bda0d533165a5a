"""Which parts of the photos were read, and how sharply: areas, not centres of glimpses.

B photos   N classes   T steps   S levels   K patches   Y X rows and columns of the map
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.evaluation.metrics import wilson_interval
from stacked_ram.evaluation.objects import at_object, narrowest
from stacked_ram.models.ram import RAM

CELLS = 32  # over the longer side of the map


class Coverage:
    """Adds up, photo by photo, the fraction of each cell of a map that was read.

    A map lies over photos of any size, stretched to each. Its value is the largest fraction of the
    cell that one of the glimpses covers with the patch of this level and width; averaged over
    photos it is the fraction of them in which this part was read.
    size: (height, width) of the typical photo, whose shape the map has.
    """

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        rows, columns = (max(1, round(CELLS * side / max(size))) for side in size)
        self.grid = rows, columns
        self.counts_N2 = np.zeros((classes, 2), int)
        """Photos of each class: answered wrong, answered right."""
        self.sums_N2SKYX = np.zeros((classes, 2, 1, 1, rows, columns))
        self.hits: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        self.widths: list[np.ndarray] = []

    def add(
        self, read_BTSK4: Tensor, objects_BO4: Tensor, sizes_B2: Tensor, labels_B: Tensor,
        right_B: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Add photos. Returns whether a glimpse was at the object with its narrowest patch (nan
        without a box)."""
        read_BTSK4 = read_BTSK4.float()
        cover = cell_cover(read_BTSK4, sizes_B2, self.grid).amax(1).cpu().numpy()
        if self.sums_N2SKYX.shape[2:4] != cover.shape[1:3]:
            self.sums_N2SKYX = np.zeros((*self.sums_N2SKYX.shape[:2], *cover.shape[1:]))
        labels, which = labels_B.cpu().numpy(), right_B.astype(int)
        np.add.at(self.sums_N2SKYX, (labels, which), cover)
        np.add.at(self.counts_N2, (labels, which), 1)
        hits_BSK = at_object(read_BTSK4, objects_BO4).amax(1).cpu().numpy()
        self.hits.append(hits_BSK)
        self.right.append(right_B)
        widths_BTSK = (read_BTSK4[..., 2] - read_BTSK4[..., 0]).cpu().numpy()
        self.widths.append(widths_BTSK.mean(1))
        return at_object(narrowest(read_BTSK4), objects_BO4).amax(1).cpu().numpy()

    def figures(self, model: RAM) -> list[dict[str, Any]]:
        """For each level and patch: its width and resolution, the fraction of the photo that was
        read, and accuracy where the object's box was hit and where it was not."""
        widths_SK = np.median(np.concatenate(self.widths), 0)
        hits_NSK, right_N = np.concatenate(self.hits), np.concatenate(self.right)
        read_SK = self.sums_N2SKYX.sum((0, 1)).mean((-2, -1)) / self.counts_N2.sum()
        found = []
        for level, patch in np.ndindex(*widths_SK.shape):
            geometry = getattr(model.levels[level].retina, "geometry", None)
            row: dict[str, Any] = {
                "level": level + 1,
                "width_px": float(widths_SK[level, patch]),
                "px_per_pixel": None
                if geometry is None
                else float(widths_SK[level, patch] / geometry.patch_size),
                "fraction_read": float(read_SK[level, patch]),
            }
            hits_N = hits_NSK[:, level, patch]
            if not np.isnan(hits_N).all():
                for name, chosen in (("hit", hits_N == 1), ("missed", hits_N == 0)):
                    count, right = int(chosen.sum()), int(right_N[chosen].sum())
                    row[name] = {"photos": count}
                    if count:
                        row[name]["accuracy"] = right / count
                        row[name]["interval_95"] = wilson_interval(right, count)
            found.append(row)
        return found


def cell_cover(read_BTSK4: Tensor, sizes_B2: Tensor, grid: tuple[int, int]) -> Tensor:
    """Fraction of each cell of a grid over the photo that lies in each box, B x T x S x K x rows x
    columns."""

    def along(low: Tensor, high: Tensor, side_B: Tensor, cells: int) -> Tensor:
        edges = torch.linspace(0, 1, cells + 1, device=low.device)
        side = side_B.view(-1, 1, 1, 1)
        low, high = (low / side).unsqueeze(-1), (high / side).unsqueeze(-1)
        shared = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])
        return (shared * cells).clamp(0, 1)

    left, top, right, bottom = read_BTSK4.unbind(-1)
    down = along(top, bottom, sizes_B2[:, 0], grid[0])
    across = along(left, right, sizes_B2[:, 1], grid[1])
    return down.unsqueeze(-1) * across.unsqueeze(-2)

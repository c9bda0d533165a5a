"""Area averages in a program that torch.export traces: any number and size of photos, and no
operation that another runtime lacks.

The table of sums holds at (y, x) the sum of all pixels above and to the left; between whole pixels
it is bilinear, exactly. So a cell's sum is a difference of four values read from it, whatever the
cell's size and position. float64 keeps the sums of photos of any size exact.

B photos, which are looked at once each; K boxes, C channels, h x w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def exporting() -> bool:
    """Return whether torch.export traces the model: then all photos fill the batch, and the values
    of their sizes are not available. (torch.compiler.is_exporting is True under torch.compile too.)
    """
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def sizes_of(pixels_BCHW: Tensor) -> Tensor:
    """Return (height, width) of each image of a batch as data, so that they stay free: B x 2."""
    sides = [torch.ones_like(pixels_BCHW.select(1, 0).select(axis, 0)) for axis in (2, 1)]
    return torch.stack([side.long().sum(1) for side in sides], 1)


class SumTable:
    """The sums of a batch of images that fill it, made once and read by each glimpse."""

    def __init__(self, pixels_BCHW: Tensor, sizes_B2: Tensor) -> None:
        sums = functional.pad(pixels_BCHW.double(), (1, 0, 1, 0)).cumsum(2).cumsum(3)
        self.sums_BHWC = sums.permute(0, 2, 3, 1)
        self.sizes_B21 = sizes_B2.double().unsqueeze(2)
        photos_B = torch.ones_like(sizes_B2[:, 0]).cumsum(0) - 1
        self.photos_B11111 = photos_B[:, None, None, None, None, None]

    def averages(self, starts_BK2: Tensor, sides_BK2: Tensor, cells: tuple[int, int]) -> Tensor:
        """Return averages over h x w equal cells of boxes, zero outside the image: (B, K, C, h, w),
        float32. The arguments are those of `windows.window_averages`."""
        rows, part_y = self.places(starts_BK2[..., 1], sides_BK2[..., 1], 0, cells[0])
        columns, part_x = self.places(starts_BK2[..., 0], sides_BK2[..., 0], 1, cells[1])
        read = self.sums_BHWC[  # B K 2 h+1 2 w+1 C
            self.photos_B11111, rows[:, :, :, :, None, None], columns[:, :, None, None]
        ]
        weights = part_y[:, :, :, :, None, None] * part_x[:, :, None, None]
        corners = (read * weights.unsqueeze(6)).sum((2, 4))
        bands = corners[:, :, 1:] - corners[:, :, :-1]
        sums = bands[:, :, :, 1:] - bands[:, :, :, :-1]
        per_pixel = cells[0] * cells[1] / (sides_BK2[..., 0] * sides_BK2[..., 1]).double()
        return (sums * per_pixel[:, :, None, None, None]).permute(0, 1, 4, 2, 3).float()

    def places(
        self, starts_BK: Tensor, sides_BK: Tensor, axis: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the whole pixels before and after each edge of `count` equal cells (B, K, 2,
        count + 1), and the weights of their two values."""
        steps = torch.arange(count + 1, dtype=torch.float64, device=starts_BK.device) / count
        edges = starts_BK.double().unsqueeze(2) + sides_BK.double().unsqueeze(2) * steps
        limits_B11 = self.sizes_B21[:, axis].unsqueeze(2)
        edges = torch.minimum(edges.clamp(min=0), limits_B11)
        before = torch.minimum(edges.floor(), limits_B11 - 1)
        part = edges - before
        whole = before.long()
        return torch.stack([whole, whole + 1], 2), torch.stack([1 - part, part], 2)

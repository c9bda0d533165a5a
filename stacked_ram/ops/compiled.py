"""Patches of whole-pixel cells read by a compiled loop (numba): uint8 photos in CPU memory.

Cells are summed from the photo's own pixels, without intermediate maps, so a batch of small photos
stays in the second-level cache. The sums are integers, so the averages equal those of the sliding
sums to the last bit.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from stacked_ram.ops.geometry import Placing


def can_read(pixels_BCHW: torch.Tensor, cells: tuple[int, ...]) -> bool:
    """Return whether a CellReader can read these photos; cells: side of each, in pixels."""
    return (
        pixels_BCHW.dtype == torch.uint8
        and pixels_BCHW.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and max(cells) <= load_cell_loop()[1]
    )


class CellReader:
    """Reads each cell's sum times the scale of its patch and channel; zero outside the photos.

    pixels_BCHW: uint8, contiguous. cells: side of a cell of each patch, in pixels. scales_KC:
    float32. placing: snaps patches to whole pixels.
    """

    def __init__(
        self,
        pixels_BCHW: torch.Tensor,
        cells: tuple[int, ...],
        scales_KC: torch.Tensor,
        patch_size: int,
        placing: Placing,
    ) -> None:
        self.pixels = pixels_BCHW.view(-1).numpy()
        self.pixels_shape = tuple(pixels_BCHW.shape)
        self.cells = np.array(cells)
        self.scales_KC = scales_KC.contiguous().numpy()
        self.patch_size = patch_size
        self.half_R2 = placing.half_R12[:, 0].contiguous().numpy()
        self.shift_RK2 = placing.shift_RK2.contiguous().numpy()
        self.dtype = placing.half_R12.dtype
        self.shape = len(cells), patch_size, patch_size, pixels_BCHW.shape[1]
        loop, _ = load_cell_loop()
        assert loop is not None  # photos that `can_read` accepts
        self.loop = loop

    def __call__(self, locations_R2: torch.Tensor) -> torch.Tensor:
        """Return the scaled sums at these locations, float32, R x K x P x P x C."""
        averages = torch.empty(len(self.half_R2), *self.shape)
        self.loop(
            self.pixels,
            self.pixels_shape,
            locations_R2.detach().to(self.dtype).contiguous().numpy(),
            self.half_R2,
            self.shift_RK2,
            self.cells,
            self.scales_KC,
            averages.numpy().reshape(-1),
            self.patch_size,
        )
        return averages


@cache
def load_cell_loop() -> tuple[Callable | None, int]:
    """Return the compiled loop and the widest cell it takes; (None, 0) without numba."""
    try:
        from stacked_ram.ops import cell_loop
    except ImportError:
        return None, 0
    return cell_loop.read_cells, cell_loop.WIDEST

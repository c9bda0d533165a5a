"""Patches and boxes read by compiled loops (numba): uint8 photos in CPU memory.

Cells are summed from the photo's own pixels, without intermediate maps, so a batch of small photos
stays in the second-level cache. The sums of whole pixels are integers, so these averages equal
those of the sliding sums to the last bit; those of other boxes are float32.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
        in_threads(
            self.loop,
            len(averages),
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


def can_read_boxes(
    pixels_BCHW: torch.Tensor, starts_RK2: torch.Tensor, sides_RK2: torch.Tensor
) -> bool:
    """Return whether `read_boxes` can read these boxes: float32 and without gradients."""
    return (
        can_read(pixels_BCHW, (1,))
        and starts_RK2.dtype == sides_RK2.dtype == torch.float32
        and not (torch.is_grad_enabled() and (starts_RK2.requires_grad or sides_RK2.requires_grad))
    )


def read_boxes(
    pixels_BCHW: torch.Tensor,
    starts_RK2: torch.Tensor,
    sides_RK2: torch.Tensor,
    sizes_R2: torch.Tensor,
    scales_C: torch.Tensor,
    means_C: torch.Tensor | None,
    cells: tuple[int, int],
) -> torch.Tensor:
    """Return averages over h x w equal cells of boxes, times scales_C, minus means_C inside the
    photo; zero outside: (R, K, C, h, w), float32, channels last in memory.

    pixels_BCHW: contiguous. starts_RK2, sides_RK2: as for `window_averages`. sizes_R2: (height,
    width) of each row's photo. means_C: None for zeros.
    """
    from stacked_ram.ops import box_loop

    averages = torch.empty(*starts_RK2.shape[:2], *cells, pixels_BCHW.shape[1])
    in_threads(
        box_loop.read_boxes,
        len(averages),
        pixels_BCHW.view(-1).numpy(),
        tuple(pixels_BCHW.shape),
        starts_RK2.detach().double().contiguous().numpy(),
        sides_RK2.detach().double().contiguous().numpy(),
        sizes_R2.contiguous().numpy(),
        scales_C.float().numpy(),
        (torch.zeros_like(scales_C) if means_C is None else means_C).float().numpy(),
        averages.numpy(),
    )
    return averages.permute(0, 1, 4, 2, 3)


def in_threads(loop: Callable[..., None], rows: int, *arguments: object) -> None:
    """Call loop((first, end), *arguments) for all rows, shared out over torch's threads."""
    count = min(torch.get_num_threads(), rows)
    if count < 2:
        loop((0, rows), *arguments)
        return
    ends = [rows * part // count for part in range(count + 1)]
    parts = [threads(count).submit(loop, some, *arguments) for some in itertools.pairwise(ends)]
    for part in parts:
        part.result()


@cache
def threads(count: int) -> ThreadPoolExecutor:
    """Return a pool that lives as long as the process."""
    return ThreadPoolExecutor(count, "patches")


@cache
def load_cell_loop() -> tuple[Callable | None, int]:
    """Return the compiled loop and the widest cell it takes; (None, 0) without numba."""
    try:
        from stacked_ram.ops import cell_loop
    except ImportError:
        return None, 0
    return cell_loop.read_cells, cell_loop.WIDEST

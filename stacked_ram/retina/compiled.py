"""Glimpses of whole cells read by a compiled loop (numba): uint8 photos in a processor's memory.

A cell is summed from the photo's own pixels: nothing is made beforehand, no places are written
down, and a batch of small photos stays in the second-level cache, where the maps of sliding sums do
not. The sums are whole numbers, so the averages are those of the sliding sums to the last bit.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch


def can_read(pixels_BCHW: torch.Tensor) -> bool:
    """Whether `cell_averages` takes these photos, here and now."""
    return (
        pixels_BCHW.dtype == torch.uint8
        and pixels_BCHW.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and _compiled() is not None
    )


def cell_averages(
    pixels_BCHW: torch.Tensor,
    corners_RK2: torch.Tensor,
    cells: tuple[int, ...],
    scales_KC: torch.Tensor,
    patch_size: int,
) -> torch.Tensor:
    """Each cell's sum times its patch's and channel's scale: float32, R x K x P x P x C.

    pixels_BCHW: contiguous uint8. corners_RK2: (x, y) of each patch's first pixel, whole numbers,
    anywhere: outside the photos is zero. cells: pixels of a cell's side, one a patch.
    scales_KC: contiguous float32.
    """
    rows, patches = corners_RK2.shape[:2]
    averages = torch.empty(rows, patches, patch_size, patch_size, pixels_BCHW.shape[1])
    _compiled()(
        pixels_BCHW.numpy().reshape(-1),
        tuple(pixels_BCHW.shape),
        corners_RK2.numpy(),
        np.array(cells),
        scales_KC.numpy(),
        averages.view(-1).numpy(),
        patch_size,
    )
    return averages


@cache
def _compiled():
    """The loop as machine code, from numba's own cache after the first time; None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    try:
        return njit(nogil=True, cache=True)(_read)
    except RuntimeError:  # nowhere to keep it
        return njit(nogil=True)(_read)


def _read(pixels, shape, corners_RK2, cells, scales_KC, averages, patch_size):
    """Pixels and averages lie flat. Indices that are unsigned need no check for counting from the
    end, which would keep the loops from being vectorised."""
    unsigned, two = np.uint64, np.uint64(2)
    batch, channels, height, width = shape
    rows, patches = corners_RK2.shape[:2]
    most = patch_size * patch_size * cells.max()
    sums, spare = np.empty(most, np.uint32), np.empty(most, np.uint32)
    area, step = unsigned(patch_size * patch_size), unsigned(channels)
    below, place = unsigned(width), unsigned(0)
    for r in range(rows):
        first_line = r // (rows // batch) * channels * height
        for k in range(patches):
            cell, far = cells[k], patch_size * cells[k] + max(height, width)
            x, y = corners_RK2[r, k]
            if not (abs(x) < far and abs(y) < far):  # neither is what is no number
                x = y = np.float32(far)
            left, top, across = int(x), int(y), patch_size * cell
            before = min(max(-left, 0), across)
            inside = max(min(width - left, across), before) - before
            for c in range(channels):
                # down the columns of every row of cells, four lines at a time where there are,
                for j in range(unsigned(patch_size * across)):
                    sums[j] = 0
                for i in range(patch_size):
                    to = unsigned(i * across + before)
                    line, end = max(top + i * cell, 0), min(top + (i + 1) * cell, height)
                    while line < end:
                        at = unsigned((first_line + c * height + line) * width + left + before)
                        if line + 4 <= end:
                            at1, at2, at3 = at + below, at + two * below, at + unsigned(3) * below
                            for j in range(unsigned(inside)):
                                four = np.uint32(pixels[at + j]) + np.uint32(pixels[at1 + j])
                                four += np.uint32(pixels[at2 + j]) + np.uint32(pixels[at3 + j])
                                sums[to + j] += four
                            line += 4
                        else:
                            for j in range(unsigned(inside)):
                                sums[to + j] += pixels[at + j]
                            line += 1
                # then across: by pairs as long as it goes,
                wide, count = cell, unsigned(patch_size * across)
                while wide % 2 == 0:
                    wide, count = wide // 2, count // two
                    for j in range(count):
                        spare[j] = sums[two * j] + sums[two * j + unsigned(1)]
                    sums, spare = spare, sums
                if wide > 1:
                    for j in range(area):
                        total = np.uint32(0)
                        for i in range(unsigned(wide)):
                            total += sums[j * unsigned(wide) + i]
                        spare[j] = total
                    sums, spare = spare, sums
                for j in range(area):
                    averages[place + j * step + unsigned(c)] = np.float32(sums[j]) * scales_KC[k, c]
            place += area * step

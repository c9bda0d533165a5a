"""Averages over the cells of any boxes of photos. Only the pixels of a box are read.

The fraction of a pixel that lies in a cell is the product of a vertical and a horizontal fraction.
So the averages are a product of three matrices: vertical fractions, pixels, horizontal fractions.
Most vertical fractions are zero: cells are taken in bands of about BAND rows, each multiplied with
only the pixel rows that it touches.

B photos, R rows (photo-major), K boxes, C channels, h x w cells, G bands of Q rows of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

BAND = 8  # rows of cells in a band: smaller reads more rows twice, larger multiplies more zeros
CHUNK = {"cpu": 2**20}  # pixels worked on at a time: bounds the memory, keeps it in the caches
CHUNK_ELSEWHERE = 2**26


def window_averages(
    pixels_BCHW: torch.Tensor,
    starts_RK2: torch.Tensor,
    sides_RK2: torch.Tensor,
    most_K2: Sequence[tuple[float, float]],
    cells: tuple[int, int],
) -> torch.Tensor:
    """Return averages over h x w equal cells of boxes, zero outside the pixels: (R, K, C, h, w).

    starts_RK2, sides_RK2: (x, y) of the left top corner and (width, height) of each box in pixels,
    any real numbers. most_K2: upper bounds of the sides, so that the host need not wait for the
    device. Differentiable with respect to floating-point pixels, starts and sides. Computed in
    float64 if pixels or starts are, else in full float32, also under autocast and with TF32.
    """
    rows = starts_RK2.shape[0]
    rollouts = rows // pixels_BCHW.shape[0]
    chunk = CHUNK.get(pixels_BCHW.device.type, CHUNK_ELSEWHERE)
    with torch.autocast(pixels_BCHW.device.type, enabled=False):
        per_box = []
        for k, most_2 in enumerate(most_K2):
            height = min(pixels_BCHW.shape[2], math.ceil(most_2[1]) + 2)
            width = min(pixels_BCHW.shape[3], math.ceil(most_2[0]) + 2)
            step = max(1, chunk // (pixels_BCHW.shape[1] * height * width))
            parts = [
                _averages(
                    pixels_BCHW,
                    torch.arange(r, min(r + step, rows), device=pixels_BCHW.device) // rollouts,
                    starts_RK2[r : r + step, k],
                    sides_RK2[r : r + step, k],
                    most_2,
                    cells,
                )
                for r in range(0, rows, step)
            ]
            per_box.append(torch.cat(parts) if len(parts) > 1 else parts[0])
        return torch.stack(per_box, 1)


def _averages(
    pixels_BCHW: torch.Tensor,
    photos_R: torch.Tensor,
    starts_R2: torch.Tensor,
    sides_R2: torch.Tensor,
    most_2: tuple[float, float],
    cells: tuple[int, int],
) -> torch.Tensor:
    channels, height, width = pixels_BCHW.shape[1:]
    rows, columns = cells
    double = torch.float64 in (pixels_BCHW.dtype, starts_R2.dtype)
    work = torch.float64 if double else torch.float32

    bands = max(1, rows // BAND)
    band = -(-rows // bands)
    edges_y = _cell_edges(starts_R2[:, 1], sides_R2[:, 1], rows, bands * band).unfold(
        1, band + 1, band
    )
    edges_x = _cell_edges(starts_R2[:, 0], sides_R2[:, 0], columns, columns)
    tall = min(height, math.ceil(most_2[1] / rows * band) + 2)
    wide = min(width, math.ceil(most_2[0]) + 2)
    if pixels_BCHW.requires_grad:
        wide = width  # the gradient of overlapping windows would be far larger than the photo
    top_RG = edges_y[:, :, 0].detach().long().clamp(0, height - tall)
    left_R = edges_x[:, 0].detach().long().clamp(0, width - wide)
    fractions_y = _fractions(edges_y, top_RG, tall, work) * (
        rows / sides_R2[:, 1, None, None, None]
    )
    fractions_x = _fractions(edges_x, left_R, wide, work) * (columns / sides_R2[:, 0, None, None])

    lines = top_RG.unsqueeze(2) + torch.arange(tall, device=pixels_BCHW.device)
    planes_RC = photos_R.unsqueeze(1) * channels + torch.arange(channels, device=pixels_BCHW.device)
    lines_RGTC = planes_RC[:, None, None] * height + lines.unsqueeze(3)
    if wide == width:
        windows = pixels_BCHW.reshape(-1, width).index_select(0, lines_RGTC.view(-1))
    else:
        # A matrix with every run of `wide` pixels as a row; the rows overlap in memory.
        runs = pixels_BCHW.contiguous().view(-1)
        runs = runs.as_strided((runs.numel() - wide + 1, wide), (1, 1))
        places = lines_RGTC * width + left_R[:, None, None, None]
        windows = runs.index_select(0, places.view(-1))
    windows = windows.view(*lines_RGTC.shape[:3], channels * wide).to(work)
    averages = exact_product(fractions_y.to(work), windows)  # (R, G, Q, C * wide)
    averages = averages.view(len(photos_R), bands * band * channels, wide)
    averages = exact_product(averages, fractions_x.to(work).transpose(1, 2))
    averages = averages.view(len(photos_R), bands * band, channels, columns)
    return averages[:, :rows].transpose(1, 2)


def exact_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right in full float32 even if training allows TF32, which would round the
    fractions to 10 bits, and pixels have 8. (Gradients may be rounded.)"""
    if torch.compiler.is_dynamo_compiling():
        return _exact_product_op(left, right)
    allowed = torch.get_float32_matmul_precision()
    if allowed == "highest":
        return left @ right
    torch.set_float32_matmul_precision("highest")
    try:
        return left @ right
    finally:
        torch.set_float32_matmul_precision(allowed)


@torch.library.custom_op("stacked_ram::exact_product", mutates_args=())
def _exact_product_op(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return exact_product(left, right)


@_exact_product_op.register_fake
def _(left, right):
    return left.new_empty((*left.shape[:-1], right.shape[-1]))


def _pull_back(ctx, grad):
    left, right = ctx.saved_tensors
    wanted_left, wanted_right = ctx.needs_input_grad
    return (
        grad @ right.transpose(-1, -2) if wanted_left else None,
        left.transpose(-1, -2) @ grad if wanted_right else None,
    )


_exact_product_op.register_autograd(
    _pull_back, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)


def fraction_inside(
    starts_RK: torch.Tensor, sides_RK: torch.Tensor, limits_R: torch.Tensor, count: int
) -> torch.Tensor:
    """Return the fraction of each of `count` equal cells of a side that lies between 0 and the
    limit: (R, K, count), float64."""
    edges = _cell_edges(starts_RK, sides_RK, count, count)
    kept = torch.minimum(edges.clamp(min=0), limits_R[:, None, None].double())
    return kept.diff(dim=2) * (count / sides_RK.unsqueeze(2))


def _cell_edges(starts: torch.Tensor, sides: torch.Tensor, count: int, last: int) -> torch.Tensor:
    """Return the first last + 1 edges of cells of 1/count of a side: (..., last + 1), float64."""
    steps = torch.arange(last + 1, dtype=torch.float64, device=starts.device) / count
    return torch.addcmul(starts.double().unsqueeze(-1), sides.double().unsqueeze(-1), steps)


def _fractions(
    edges: torch.Tensor, first: torch.Tensor, count: int, work: torch.dtype
) -> torch.Tensor:
    """Return the fractions of `count` pixels, from pixel `first` on, that lie in each cell:
    (..., cells, count).

    first has the shape of edges without its last dimension. The part of a pixel before an edge
    rises from 0 to 1 as the edge crosses it. Whole and fractional parts of an edge are kept apart,
    so that float32 does not lose the fraction.
    """
    whole = edges.detach().floor()
    part = (edges - whole).to(work)
    whole = (whole - first.unsqueeze(-1)).to(work)
    pixels = torch.arange(count, dtype=work, device=edges.device)
    before = (whole.unsqueeze(-1) - pixels + part.unsqueeze(-1)).clamp(0, 1)
    return before[..., 1:, :] - before[..., :-1, :]

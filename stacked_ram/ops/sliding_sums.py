"""Patches of whole-pixel cells as lookups in maps of sums.

For each cell size s, a map holds the sum of the s x s pixels that start at each place of each
photo. It is computed once a batch; a patch pixel is then one number of a map, and all patches of
all rows are one index_select.

The photos lie one after the other in one long row of pixels, each with a rim of zeros, as wide as
the widest cell, above and to its left; the rim of the next line or photo serves on the right and
below. So a shift by a pixel or by a line is one shift of the whole row, and each map comes from a
smaller one (a 2s-cell is four s-cells) by additions of long contiguous runs.

B photos, R rows (photo-major), C channels, K patches (a cell size for each), P patch_size, N places
in a map, L = N * C numbers in a map: the channels of a place are neighbours in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from stacked_ram.ops.geometry import vector

PHOTOS = -1  # as a recipe's source: the photos themselves, not an earlier map


class SlidingMaps:
    """The maps of a batch of photos for some cell sizes, computed here and read many times."""

    def __init__(self, pixels_BCHW: torch.Tensor, cells: tuple[int, ...]) -> None:
        self.pixels_shape, self.device = pixels_BCHW.shape, pixels_BCHW.device
        self.cells = cells
        self.sums_NC = sliding_sums(pixels_BCHW, cells).flatten(0, 1)

    def read(self, places: torch.Tensor) -> torch.Tensor:
        """Return the sums at these places in the concatenated maps: (len(places), C)."""
        sums, self.sums_NC = read(self.sums_NC, places)
        return sums


class SlidingReader:
    """Reads the sum of every cell of a glimpse from maps.

    photos_R: the photo of each row.
    """

    def __init__(self, maps: SlidingMaps, photos_R: torch.Tensor, patch_size: int) -> None:
        self.maps, self.patch_size = maps, patch_size
        cells, device, places = maps.cells, maps.device, len(maps.sums_NC)
        height, width = maps.pixels_shape[2:]
        rim = max(cells)
        self.stride = width + rim
        self.first = -rim
        dtype = torch.int32 if places < 2**31 else torch.int64
        photos_R1 = photos_R.to(dtype).unsqueeze(1)
        patches_K = torch.arange(len(cells), dtype=dtype, device=device)
        bases_RK = (
            photos_R1 * ((height + rim) * self.stride)
            + patches_K * (places // len(cells))
            + (rim * self.stride + rim)
        )
        self.bases_RK1 = bases_RK.unsqueeze(2)
        cells_K1 = vector(cells, patches_K, torch.int32).unsqueeze(1)
        starts_KP = cells_K1 * torch.arange(patch_size, dtype=torch.int32, device=device)
        # All cells of a patch as one dimension A = P * P: long runs for the arithmetic.
        across_KA, down_KA = (
            starts_KP.repeat(1, patch_size),
            starts_KP.repeat_interleave(patch_size, 1),
        )
        self.cells_21KA = torch.stack([across_KA, down_KA]).unsqueeze(1)
        self.ends_2111 = vector((width, height), patches_K, torch.int32).view(2, 1, 1, 1)

    def __call__(self, corners_2RK1: torch.Tensor) -> torch.Tensor:
        """Return the sums of cells, R x K x P x (P * C). corners_2RK1: int32 (x, y) of each
        patch's first pixel."""
        starts_2RKA = corners_2RK1 + self.cells_21KA
        x_RKA, y_RKA = starts_2RKA.clamp_(min=self.first).clamp_max_(self.ends_2111)
        places_RKA = torch.add(x_RKA, y_RKA, alpha=self.stride) + self.bases_RK1
        sums = self.maps.read(places_RKA.view(-1))
        return sums.view(*places_RKA.shape[:2], self.patch_size, -1)


def sliding_sums(pixels_BCHW: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """Compute the maps (K, N, C); differentiable for floating-point pixels.

    With rim = max(cells), the sum over the s x s box of photo b whose top left pixel is (y, x),
    -rim <= y <= H, -rim <= x <= W, stands at place
    (b * (H + rim) + y + rim) * (W + rim) + x + rim. uint8 pixels are summed exactly, in the
    smallest integers that can hold the widest cell.
    """
    if torch.compiler.is_dynamo_compiling() or pixels_BCHW.requires_grad:
        return _sums_op(pixels_BCHW, list(cells))
    return _sums(pixels_BCHW, cells)


def read(values_NC: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of values, and the values again, from which the next rows should be read.

    Reading each time from the values last returned chains the readings, so that in the backward
    pass all of them add to one gradient instead of each making one as large as the values.
    """
    if values_NC.requires_grad and not torch.compiler.is_compiling():  # the compiler cannot follow
        return _Read.apply(values_NC, index)
    if values_NC.shape[1] == 1:  # several times faster than rows of one
        return values_NC.view(-1).index_select(0, index).unsqueeze(1), values_NC
    return values_NC.index_select(0, index), values_NC


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values_NC, index):
        ctx.save_for_backward(index)
        ctx.shape = values_NC.shape
        ctx.set_materialize_grads(False)
        return values_NC.index_select(0, index), values_NC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_read, grad_values_NC):
        if grad_read is not None:
            if grad_values_NC is None:
                grad_values_NC = grad_read.new_zeros(ctx.shape)
            # In place: this gradient comes from the next reading, and nothing else uses it.
            if ctx.shape[1] == 1:
                grad_values_NC.view(-1).index_add_(0, *ctx.saved_tensors, grad_read.flatten())
            else:
                grad_values_NC.index_add_(0, *ctx.saved_tensors, grad_read)
        return grad_values_NC, None


@torch.library.custom_op("stacked_ram::sliding_sums", mutates_args=())
def _sums_op(pixels_BCHW: torch.Tensor, cells: list[int]) -> torch.Tensor:
    """_sums as one differentiable operation; torch.compile would fuse its additions into slower
    code."""
    return _sums(pixels_BCHW, tuple(cells))


@torch.library.custom_op("stacked_ram::sliding_sums_gradient", mutates_args=())
def _gradient_op(grads_KNC: torch.Tensor, cells: list[int], shape: list[int]) -> torch.Tensor:
    return _gradient(grads_KNC.flatten(1), tuple(cells), tuple(shape)).contiguous()


@_sums_op.register_fake
def _(pixels_BCHW, cells):
    rim, shape = max(cells), pixels_BCHW.shape
    places = _length(shape, rim) // shape[1]
    return pixels_BCHW.new_empty(
        (len(cells), places, shape[1]), dtype=_dtype_of_sums(pixels_BCHW, rim)
    )


@_gradient_op.register_fake
def _(grads_KNC, cells, shape):
    return grads_KNC.new_empty(shape)


def _keep(ctx, inputs, output):
    ctx.cells, ctx.shape, ctx.dtype = inputs[1], list(inputs[0].shape), inputs[0].dtype


def _pull_back(ctx, grads_KNC):
    return _gradient_op(grads_KNC.contiguous(), ctx.cells, ctx.shape).to(ctx.dtype), None


_sums_op.register_autograd(_pull_back, setup_context=_keep)


class Recipe(NamedTuple):
    """How one map is computed: its source, and the passes, each a sum of `count` values `step`
    apart."""

    source: int
    passes: tuple[tuple[int, int], ...]


def _recipes(cells: tuple[int, ...], pixel: int, line: int) -> list[Recipe]:
    """pixel, line: distances of horizontal and vertical neighbours in the row of numbers."""
    recipes = []
    for k, cell in enumerate(cells):
        source = k - 1 if k and cell % cells[k - 1] == 0 else PHOTOS
        unit = 1 if source == PHOTOS else cells[source]
        passes = []
        for factor in _prime_factors(cell // unit):
            passes += [(factor, unit * pixel), (factor, unit * line)]
            unit *= factor
        recipes.append(Recipe(source, tuple(passes)))
    return recipes


def _sums(pixels_BCHW: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    shape, rim = pixels_BCHW.shape, max(cells)
    sums_KL = pixels_BCHW.new_empty(
        (len(cells), _length(shape, rim)), dtype=_dtype_of_sums(pixels_BCHW, rim)
    )
    photos_L = sums_KL[0] if cells[0] == 1 else torch.empty_like(sums_KL[0])
    photos_L.zero_()
    _inner(photos_L, shape, rim).copy_(pixels_BCHW)
    scratch_L = torch.empty_like(photos_L) if rim > 1 else photos_L  # rim 1: no passes
    for k, recipe in enumerate(_recipes(cells, shape[1], shape[1] * (shape[3] + rim))):
        values_L = photos_L if recipe.source == PHOTOS else sums_KL[recipe.source]
        if not recipe.passes and k > 0:
            sums_KL[k] = values_L
        for i, (count, step) in enumerate(recipe.passes):
            values_L = _add_shifted(values_L, count, step, sums_KL[k] if i % 2 else scratch_L)
    return sums_KL.view(len(cells), -1, shape[1])


def _gradient(
    grads_KL: torch.Tensor, cells: tuple[int, ...], shape: tuple[int, ...]
) -> torch.Tensor:
    rim = max(cells)
    photos_L = torch.zeros_like(grads_KL[0])
    grads = list(grads_KL)
    spare = torch.empty_like(photos_L), torch.empty_like(photos_L)
    recipes = _recipes(cells, shape[1], shape[1] * (shape[3] + rim))
    for k in reversed(range(len(cells))):
        values_L = grads[k]
        for i, (count, step) in enumerate(reversed(recipes[k].passes)):
            values_L = _add_shifted(values_L, count, -step, spare[i % 2])
        if recipes[k].source == PHOTOS:
            photos_L += values_L
        else:
            grads[recipes[k].source] = grads[recipes[k].source] + values_L
    return _inner(photos_L, shape, rim)


def _add_shifted(
    values_L: torch.Tensor, count: int, step: int, out_L: torch.Tensor
) -> torch.Tensor:
    """out[i] = values[i] + values[i + step] + ... (count values; zeros beyond either end)."""
    length = len(values_L)
    far = abs(step)
    if step > 0:
        torch.add(values_L[:-far], values_L[far:], out=out_L[:-far])
        out_L[-far:] = values_L[-far:]
        for i in range(2, count):
            out_L[: length - i * far] += values_L[i * far :]
    else:
        torch.add(values_L[far:], values_L[:-far], out=out_L[far:])
        out_L[:far] = values_L[:far]
        for i in range(2, count):
            out_L[i * far :] += values_L[: length - i * far]
    return out_L


def _length(shape: tuple[int, ...], rim: int) -> int:
    batch, channels, height, width = shape
    return channels * (batch * (height + rim) * (width + rim) + width + rim + 1)


def _inner(values_L: torch.Tensor, shape: tuple[int, ...], rim: int) -> torch.Tensor:
    """Return the photos' own pixels in a row of L numbers: a view (B, C, H, W)."""
    batch, channels, height, width = shape
    ringed = values_L[: -channels * (width + rim + 1)]
    ringed = ringed.view(batch, height + rim, width + rim, channels)
    return ringed[:, rim:, rim:].permute(0, 3, 1, 2)


def _dtype_of_sums(pixels: torch.Tensor, rim: int) -> torch.dtype:
    if pixels.is_floating_point():
        return pixels.dtype if pixels.dtype == torch.float64 else torch.float32
    if rim == 1:
        return torch.uint8
    return torch.int16 if 255 * rim * rim < 2**15 else torch.int32


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors

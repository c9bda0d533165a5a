"""Reading glimpses from photos: the co-centred patches, by exact area averages, without a loop.

Two ways to the same averages, both exact, both zero outside the photo:

- Cells of whole pixels at whole positions (the usual case): sliding sums. For every cell size s,
  a map holds the sum of the s x s pixels that start at each place, made once a photo by shifted
  additions, each from the last (a 2s-cell is four s-cells). A patch pixel is then one number of
  a map, and all the patches of all rows are one index_select.
- Any other cells: a summed-area table in float64, read at the cells' corners. Between pixels the
  table of a piecewise-constant photo is bilinear, so the interpolation is exact, and it carries
  gradients to the locations.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from stacked_ram.retina.geometry import GlimpseGeometry, glimpse_boxes, left_top


class Photos:
    """A batch of photos in memory, prepared once (lazily) and read many times.

    pixels_BCHW: uint8 (0 to 255) or floating point (may require grad: feature maps). Photos of
    different sizes stand at the top left; the rest must be zero.
    sizes_B2: int64 (height, width) of each photo's own part; None: all of it.
    mean, std: C values in 0..1 units, for uint8 photos, which are read as
    (pixel / 255 - mean) / std. Outside a photo patches are zero after this, not before.
    """

    def __init__(
        self,
        pixels_BCHW: torch.Tensor,
        sizes_B2: torch.Tensor | None = None,
        mean: Sequence[float] | torch.Tensor | None = None,
        std: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        if pixels_BCHW.ndim != 4:
            raise ValueError(f"pixels must be (B, C, H, W), not {tuple(pixels_BCHW.shape)}")
        if pixels_BCHW.dtype != torch.uint8 and not pixels_BCHW.is_floating_point():
            raise ValueError(f"pixels must be uint8 or floating point, not {pixels_BCHW.dtype}")
        self.pixels_BCHW = pixels_BCHW
        batch, channels, height, width = pixels_BCHW.shape
        if sizes_B2 is None:
            sizes_B2 = _constant((height, width), torch.int64, pixels_BCHW.device).expand(batch, 2)
        self.sizes_B2 = sizes_B2
        self._mean = _per_channel(mean, channels, pixels_BCHW)
        self._std = _per_channel(std, channels, pixels_BCHW)
        self._prepared: dict = {}

    @property
    def batch_size(self) -> int:
        return self.pixels_BCHW.shape[0]

    @property
    def channels(self) -> int:
        return self.pixels_BCHW.shape[1]

    @property
    def device(self) -> torch.device:
        return self.pixels_BCHW.device

    def select(self, index_b: torch.Tensor) -> Photos:
        """The photos at these places of the batch."""
        return Photos(self.pixels_BCHW[index_b], self.sizes_B2[index_b], self._mean, self._std)

    def to(self, device: torch.device | str) -> Photos:
        """The same photos on another device."""
        mean, std = (v if v is None else v.to(device) for v in (self._mean, self._std))
        return Photos(self.pixels_BCHW.to(device), self.sizes_B2.to(device), mean, std)

    def patches(
        self,
        locations_R2: torch.Tensor,
        geometry: GlimpseGeometry,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The glimpses at these locations: (R, K, C, P, P), in dtype (float32 if None).

        locations_R2: (x, y) in [-1, 1], further out is allowed; R = B * M, rows b*M to b*M+M-1
        look at photo b. Averages are summed exactly before they are converted to dtype.
        """
        rows = locations_R2.shape[0]
        if rows % self.batch_size:
            raise ValueError(f"{rows} locations do not share out over {self.batch_size} photos")
        if geometry.whole_cells:
            patches = self._whole_cell_patches(locations_R2, geometry)
        else:
            boxes_RK4 = glimpse_boxes(locations_R2, self._sizes_R2(rows), geometry)
            left, top, right, bottom = boxes_RK4.unbind(2)
            patches = self._averages(
                _edges(top, bottom, geometry.patch_size), _edges(left, right, geometry.patch_size)
            )
        return patches.to(dtype or self._default_dtype())

    def resized(self, size: tuple[int, int]) -> torch.Tensor:
        """The whole of each photo at size (h, w), by exact area averages: (B, C, h, w).

        A photo of another shape than h x w is stretched to it.
        """
        sides_B12 = self.sizes_B2.unsqueeze(1).double()
        starts_B1 = torch.zeros_like(sides_B12[..., 0])
        edges_y = _edges(starts_B1, sides_B12[..., 0], size[0])
        edges_x = _edges(starts_B1, sides_B12[..., 1], size[1])
        return self._averages(edges_y, edges_x).squeeze(1).to(self._default_dtype())

    def _default_dtype(self) -> torch.dtype:
        pixels = self.pixels_BCHW
        return pixels.dtype if pixels.is_floating_point() else torch.float32

    def _sizes_R2(self, rows: int) -> torch.Tensor:
        key = ("sizes", rows)
        if key not in self._prepared:
            rollouts = rows // self.batch_size
            sizes = self.sizes_B2
            self._prepared[key] = (
                sizes.unsqueeze(1).expand(-1, rollouts, 2).reshape(rows, 2)
                if rollouts > 1
                else sizes
            )
        return self._prepared[key]

    # Cells of whole pixels ------------------------------------------------------------------

    def _whole_cell_patches(
        self, locations_R2: torch.Tensor, geometry: GlimpseGeometry
    ) -> torch.Tensor:
        cells, size = geometry.whole_cells, geometry.patch_size
        batch, channels, height, width = self.pixels_BCHW.shape
        rows, rim = locations_R2.shape[0], max(cells)
        device = self.device
        key = ("sums", cells)
        if key not in self._prepared:
            self._prepared[key] = _sliding_sums(self.pixels_BCHW, cells)
        sums_KL = self._prepared[key]
        stride, plane = width + rim, (width + rim) * (height + rim)

        sizes_R2 = self._sizes_R2(rows)
        corners_RK2 = left_top(locations_R2.detach(), sizes_R2, geometry)
        # Far outside means fully outside: the bound keeps the integers small.
        bound = float(max(height, width) + size * max(cells) + rim)
        corners_RK2 = corners_RK2.clamp(-bound, bound).to(torch.int32)
        offsets_KP = _constant(
            tuple(tuple(i * s for i in range(size)) for s in cells), torch.int32, device
        )
        starts_RK2P = corners_RK2.unsqueeze(3) + offsets_KP.unsqueeze(1)
        x_RKP = starts_RK2P[:, :, 0].clamp(-rim, width)
        y_RKP = starts_RK2P[:, :, 1].clamp(-rim, height)
        wide = torch.int32 if sums_KL.numel() < 2**31 else torch.int64
        photos_R = torch.arange(batch, dtype=wide, device=device).repeat_interleave(rows // batch)
        bases_R1 = photos_R.unsqueeze(1) * (channels * plane) + (rim * stride + rim)
        levels_K = torch.arange(len(cells), dtype=wide, device=device) * sums_KL.shape[1]
        lines_RKP = y_RKP.to(wide) * stride + (bases_R1 + levels_K).unsqueeze(2)
        channels_C11 = (torch.arange(channels, dtype=wide, device=device) * plane).view(-1, 1, 1)
        index_RKCPP = lines_RKP[:, :, None, :, None] + x_RKP[:, :, None, None, :] + channels_C11
        sums = sums_KL.view(-1).index_select(0, index_RKCPP.view(-1)).view(index_RKCPP.shape)

        is_float = self.pixels_BCHW.is_floating_point()
        scales_K = _constant(
            tuple(1 / (s * s * (1 if is_float else 255)) for s in cells),
            self._default_dtype(),
            device,
        )
        scales = scales_K.view(-1, 1, 1, 1)
        if self._std is not None:
            scales = scales / self._std.view(-1, 1, 1)
        patches = sums * scales
        if self._mean is not None:
            cells_K1 = _constant(cells, torch.int32, device).unsqueeze(1)
            ends_RK2P = starts_RK2P + cells_K1.unsqueeze(1)
            sides_R12 = sizes_R2.flip(1).to(torch.int32)[:, None, :, None]
            inside = (torch.minimum(ends_RK2P, sides_R12) - starts_RK2P.clamp(min=0)).clamp(min=0)
            share_RK2P = inside / cells_K1.unsqueeze(1)
            patches = patches - self._outside_zero(share_RK2P[:, :, 1], share_RK2P[:, :, 0])
        return patches

    def _outside_zero(self, share_y: torch.Tensor, share_x: torch.Tensor) -> torch.Tensor:
        """What the mean takes from each patch pixel: its share inside the photo, normalised."""
        mean = self._mean if self._std is None else self._mean / self._std
        return share_y[:, :, None, :, None] * share_x[:, :, None, None, :] * mean.view(-1, 1, 1)

    # Any cells ------------------------------------------------------------------------------

    def _averages(self, edges_y: torch.Tensor, edges_x: torch.Tensor) -> torch.Tensor:
        """Averages over the cells between edges (R, K, h+1) and (R, K, w+1): (R, K, C, h, w)."""
        batch, channels, height, width = self.pixels_BCHW.shape
        rows = edges_y.shape[0]
        if "table" not in self._prepared:
            table = self.pixels_BCHW.double().cumsum(3).cumsum(2)
            self._prepared["table"] = functional.pad(table, (1, 0, 1, 0))
        table = self._prepared["table"]
        sizes_R2 = self._sizes_R2(rows)
        low_y, part_y, share_y = _inside(edges_y, sizes_R2[:, 0], height)
        low_x, part_x, share_x = _inside(edges_x, sizes_R2[:, 1], width)

        photos_R = torch.arange(batch, device=self.device).repeat_interleave(rows // batch)
        channels_C = torch.arange(channels, device=self.device)
        planes_RC = photos_R.unsqueeze(1) * channels + channels_C
        lines = low_y.unsqueeze(2) + planes_RC[:, None, :, None] * (height + 1)
        index = lines.unsqueeze(4) * (width + 1) + low_x[:, :, None, None, :]
        flat = table.reshape(-1)

        def read(step: int) -> torch.Tensor:
            return flat.index_select(0, (index + step).view(-1)).view(index.shape)

        weights_x = part_x[:, :, None, None, :]
        upper = torch.lerp(read(0), read(1), weights_x.expand(index.shape))
        lower = torch.lerp(read(width + 1), read(width + 2), weights_x.expand(index.shape))
        sums = torch.lerp(upper, lower, part_y[:, :, None, :, None].expand(index.shape))
        sums = sums.diff(dim=3).diff(dim=4)
        areas = edges_y.double().diff(dim=2).unsqueeze(3) * edges_x.double().diff(dim=2).unsqueeze(
            2
        )
        averages = sums / areas.unsqueeze(2)
        if not self.pixels_BCHW.is_floating_point():
            averages = averages / 255
        if self._std is not None:
            averages = averages / self._std.view(-1, 1, 1)
        if self._mean is not None:
            averages = averages - self._outside_zero(share_y, share_x)
        return averages


def _edges(start: torch.Tensor, end: torch.Tensor, count: int) -> torch.Tensor:
    """The count + 1 edges of equal cells from start to end (R, K), along a new last dimension."""
    steps = torch.arange(count + 1, dtype=torch.float64, device=start.device) / count
    return torch.lerp(
        start.double().unsqueeze(-1), end.double().unsqueeze(-1), steps.expand(*start.shape, -1)
    )


def _inside(
    edges: torch.Tensor, sides_R: torch.Tensor, limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Edges moved into the photo: whole part, fractional part, and each cell's share inside."""
    clamped = torch.minimum(edges.clamp(min=0), sides_R.double()[:, None, None])
    low = clamped.detach().long().clamp(0, limit - 1)
    return low, clamped - low, clamped.diff(dim=2) / edges.diff(dim=2)


def _sliding_sums(pixels_BCHW: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """For each cell size s, the sums of the s x s pixels from each place on: (K, L).

    The photos lie one after the other in L, with a rim of zeros (the widest cell) above and left
    of each; the next row's or photo's rim serves as the one to the right or below.
    """
    rim = max(cells)
    stride = pixels_BCHW.shape[3] + rim
    largest = 255 * rim * rim
    if pixels_BCHW.is_floating_point():
        dtype = pixels_BCHW.dtype
    else:
        dtype = torch.uint8 if rim == 1 else torch.int16 if largest < 2**15 else torch.int32
    ringed = functional.pad(pixels_BCHW.to(dtype), (rim, 0, rim, 0))
    ringed = functional.pad(ringed.view(-1), (0, (rim + 1) * stride))
    levels, done = [], 1
    for s in cells:
        if levels and s % done == 0:
            level, unit = levels[-1], done
        else:
            level, unit = ringed, 1
        level = _run_sums(level, s // unit, unit)
        levels.append(_run_sums(level, s // unit, unit * stride))
        done = s
    return torch.stack(levels)


def _run_sums(values_L: torch.Tensor, count: int, step: int) -> torch.Tensor:
    """values[i] + values[i + step] + ... (count of them), by doubling; zeros beyond the end."""
    total, have = values_L, 1
    for bit in bin(count)[3:]:
        total = total + _shifted(total, have * step)
        have *= 2
        if bit == "1":
            total = values_L + _shifted(total, step)
            have += 1
    return total


def _shifted(values_L: torch.Tensor, step: int) -> torch.Tensor:
    return functional.pad(values_L[step:], (0, step))


def _per_channel(
    values: Sequence[float] | torch.Tensor | None, channels: int, pixels: torch.Tensor
) -> torch.Tensor | None:
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(f"{len(values)} values of mean or std for {channels} channels")
    if isinstance(values, torch.Tensor):
        return values.to(pixels.device)
    return _constant(tuple(values), torch.float32, pixels.device)


def _constant(values: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=device)

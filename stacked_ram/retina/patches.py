"""Reading glimpses from photos: the co-centred patches, by exact area averages, without a loop.

Two ways to the same averages, both exact, both zero outside the photo:

- Cells of whole pixels at whole positions (the usual case): sliding sums. For every cell size s,
  a map holds the sum of the s x s pixels that start at each place, made once a photo. A patch
  pixel is then one number of a map, and all the patches of all rows are one index_select.
- Any other cells: a summed-area table in float64, read at the cells' corners. Between pixels the
  table of a piecewise-constant photo is bilinear, so the interpolation is exact, and it carries
  gradients to the locations.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from stacked_ram.retina.geometry import GlimpseGeometry, Placing
from stacked_ram.retina.sliding_sums import sliding_sums


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
        if sizes_B2 is None:
            size_2 = _vector(pixels_BCHW.shape[2:], pixels_BCHW, torch.int64)
            sizes_B2 = size_2.expand(pixels_BCHW.shape[0], 2)
        self.sizes_B2 = sizes_B2
        self._mean, self._std = (
            None if values is None else _per_channel(values, pixels_BCHW) for values in (mean, std)
        )
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
        """The glimpses at these locations: (R, K, C, P, P).

        locations_R2: (x, y) in [-1, 1], further out is allowed; R = B * M, rows b*M to b*M+M-1
        look at photo b. Averages are made exactly (float32 or float64) before they are rounded to
        dtype, by default that of floating-point pixels, float32 for uint8.
        """
        if locations_R2.shape[0] % self.batch_size:
            raise ValueError(
                f"{locations_R2.shape[0]} locations do not share out over {self.batch_size} photos"
            )
        read = self._whole_cells if geometry.whole_cells else self._any_cells
        return read(locations_R2, geometry).to(dtype or self._default_dtype())

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

    def _once(self, key: tuple, prepare):
        """What is made once a batch of photos, and kept."""
        if key not in self._prepared:
            self._prepared[key] = prepare()
        return self._prepared[key]

    def _sizes_R2(self, rows: int) -> torch.Tensor:
        return self.sizes_B2.repeat_interleave(rows // self.batch_size, 0, output_size=rows)

    def _placing(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> Placing:
        rows, dtype = locations_R2.shape[0], locations_R2.dtype
        return self._once(
            ("placing", geometry, rows, dtype),
            lambda: Placing.of(self._sizes_R2(rows), geometry, dtype),
        )

    # Cells of whole pixels ------------------------------------------------------------------

    def _whole_cells(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> torch.Tensor:
        cells = geometry.whole_cells
        placing = self._placing(locations_R2, geometry)
        sums_L = self._once(("sums", cells), lambda: sliding_sums(self.pixels_BCHW, cells).view(-1))
        index = self._once(
            ("index", geometry, locations_R2.shape[0]),
            lambda: self._index(geometry, locations_R2.shape[0], sums_L.numel()),
        )
        # Far outside is fully outside: the bound keeps the integers small.
        corners_RK2 = placing.left_top(locations_R2.detach()).clamp_(-index.bound, index.bound)
        starts_RK2P = corners_RK2.to(torch.int32).unsqueeze(3) + index.offsets_K1P
        kept_RK2P = torch.clamp(starts_RK2P, index.low_21, index.high_21)
        x_RK11P, y_RK1P = kept_RK2P[:, :, None, None, 0], kept_RK2P[:, :, None, 1]
        lines_RKCP = torch.add(index.bases_RKC1, y_RK1P, alpha=index.stride)
        index_RKCPP = lines_RKCP.unsqueeze(4) + x_RK11P
        sums_RKCPP = sums_L.index_select(0, index_RKCPP.view(-1)).view(index_RKCPP.shape)
        patches = sums_RKCPP * index.scales_KC11
        if self._mean is not None:
            sides_R12 = placing.half_R12 * 2
            share_RK2P = _inside(starts_RK2P, index.cells_K11, sides_R12)
            patches = self._minus_mean(patches, share_RK2P[:, :, 1], share_RK2P[:, :, 0])
        return patches

    def _index(self, geometry: GlimpseGeometry, rows: int, total: int) -> _Index:
        cells, size = geometry.whole_cells, geometry.patch_size
        batch, channels, height, width = self.pixels_BCHW.shape
        rim, stride = max(cells), width + max(cells)
        wide = torch.int32 if total < 2**31 else torch.int64
        pixels = self.pixels_BCHW
        cells_K = _vector(cells, pixels, torch.int32)
        photos_R = torch.arange(batch, dtype=wide, device=pixels.device)
        photos_R = photos_R.repeat_interleave(rows // batch, output_size=rows)
        planes_RC = photos_R.unsqueeze(1) * channels + torch.arange(
            channels, dtype=wide, device=pixels.device
        )
        levels_K = torch.arange(len(cells), dtype=wide, device=pixels.device)
        bases_RKC = (
            planes_RC.unsqueeze(1) * ((height + rim) * stride)
            + levels_K.unsqueeze(1) * (total // len(cells))
            + (rim * stride + rim)
        )
        work = torch.float64 if pixels.dtype == torch.float64 else torch.float32
        steps_P = torch.arange(size, dtype=torch.int32, device=pixels.device)
        scales_KC = (cells_K * cells_K).to(work).reciprocal().unsqueeze(1)
        if not pixels.is_floating_point():
            scales_KC = scales_KC / 255
        if self._std is not None:
            scales_KC = scales_KC / self._std
        return _Index(
            bound=float(max(height, width) + size * rim),
            offsets_K1P=(cells_K.unsqueeze(1) * steps_P).unsqueeze(1),
            low_21=_vector((-rim, -rim), pixels, torch.int32).unsqueeze(1),
            high_21=_vector((width, height), pixels, torch.int32).unsqueeze(1),
            stride=stride,
            bases_RKC1=bases_RKC.unsqueeze(3),
            scales_KC11=scales_KC[:, :, None, None],
            cells_K11=cells_K[:, None, None],
        )

    def _minus_mean(
        self, patches: torch.Tensor, share_y: torch.Tensor, share_x: torch.Tensor
    ) -> torch.Tensor:
        """Take the mean from the share of each cell that lies inside the photo, along y and x."""
        mean_C11 = (self._mean if self._std is None else self._mean / self._std).view(-1, 1, 1)
        share_y = share_y[:, :, None, :, None] * -mean_C11
        return torch.addcmul(patches, share_y, share_x[:, :, None, None, :].to(share_y.dtype))

    # Any cells ------------------------------------------------------------------------------

    def _any_cells(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> torch.Tensor:
        placing = self._placing(locations_R2, geometry)
        starts_RK2 = placing.left_top(locations_R2)
        edges_RK2E = _edges(starts_RK2, starts_RK2 + placing.widths_RK1, geometry.patch_size)
        return self._averages(edges_RK2E[:, :, 1], edges_RK2E[:, :, 0])

    def _averages(self, edges_y: torch.Tensor, edges_x: torch.Tensor) -> torch.Tensor:
        """Averages over the cells between edges (R, K, h+1) and (R, K, w+1): (R, K, C, h, w)."""
        batch, channels, height, width = self.pixels_BCHW.shape
        rows = edges_y.shape[0]
        table = self._once(("table",), self._table)
        sizes_R2 = self._sizes_R2(rows)
        low_y, part_y, share_y = _inside_any(edges_y, sizes_R2[:, 0], height)
        low_x, part_x, share_x = _inside_any(edges_x, sizes_R2[:, 1], width)

        photos_R = torch.arange(batch, device=self.device)
        photos_R = photos_R.repeat_interleave(rows // batch, output_size=rows)
        channels_C = torch.arange(channels, device=self.device)
        planes_RC = photos_R.unsqueeze(1) * channels + channels_C
        lines = low_y.unsqueeze(2) + planes_RC[:, None, :, None] * (height + 1)
        index = lines.unsqueeze(4) * (width + 1) + low_x[:, :, None, None, :]

        def read(step: int) -> torch.Tensor:
            return table.index_select(0, (index + step).view(-1)).view(index.shape)

        weights_x = part_x[:, :, None, None, :]
        upper = torch.lerp(read(0), read(1), weights_x.expand(index.shape))
        lower = torch.lerp(read(width + 1), read(width + 2), weights_x.expand(index.shape))
        sums = torch.lerp(upper, lower, part_y[:, :, None, :, None].expand(index.shape))
        sums = sums.diff(dim=3).diff(dim=4)
        sides_y, sides_x = edges_y.diff(dim=2), edges_x.diff(dim=2)
        averages = sums / (sides_y.unsqueeze(3) * sides_x.unsqueeze(2)).unsqueeze(2)
        if not self.pixels_BCHW.is_floating_point():
            averages = averages / 255
        if self._std is not None:
            averages = averages / self._std.view(-1, 1, 1)
        if self._mean is not None:
            averages = self._minus_mean(averages, share_y, share_x.double())
        return averages

    def _table(self) -> torch.Tensor:
        table = self.pixels_BCHW.double().cumsum(3).cumsum(2)
        return functional.pad(table, (1, 0, 1, 0)).view(-1)


class _Index(NamedTuple):
    """What turns corners into places in the sliding sums, for one geometry and number of rows."""

    bound: float
    offsets_K1P: torch.Tensor
    low_21: torch.Tensor
    high_21: torch.Tensor
    stride: int
    bases_RKC1: torch.Tensor
    scales_KC11: torch.Tensor
    cells_K11: torch.Tensor


def _edges(start: torch.Tensor, end: torch.Tensor, count: int) -> torch.Tensor:
    """The count + 1 edges of equal cells from start to end, along a new last dimension."""
    steps = torch.arange(count + 1, dtype=torch.float64, device=start.device) / count
    return torch.lerp(
        start.double().unsqueeze(-1), end.double().unsqueeze(-1), steps.expand(*start.shape, -1)
    )


def _inside(
    starts_RK2P: torch.Tensor, cells_K11: torch.Tensor, sides_R12: torch.Tensor
) -> torch.Tensor:
    """The share of each cell's side that lies inside the photo, along x and y: (R, K, 2, P)."""
    sides_R121 = sides_R12.unsqueeze(3)
    ends_RK2P = torch.minimum(starts_RK2P + cells_K11, sides_R121)
    return (ends_RK2P - starts_RK2P.clamp(min=0)).clamp(min=0) / cells_K11


def _inside_any(
    edges: torch.Tensor, sides_R: torch.Tensor, limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Edges moved into the photo: whole part, fractional part, and each cell's share inside."""
    clamped = torch.minimum(edges.clamp(min=0), sides_R.double()[:, None, None])
    low = clamped.detach().long().clamp(0, limit - 1)
    return low, clamped - low, clamped.diff(dim=2) / edges.diff(dim=2)


def _vector(values: Sequence[float], like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A small vector, filled on the device itself: no copy from the host, which would wait."""
    return torch.stack([torch.full((), v, dtype=dtype, device=like.device) for v in values])


def _per_channel(values: Sequence[float] | torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    if len(values) != pixels.shape[1]:
        raise ValueError(f"{len(values)} values of mean or std for {pixels.shape[1]} channels")
    if isinstance(values, torch.Tensor):
        return values.to(pixels.device)
    return _vector(values, pixels, torch.float32)

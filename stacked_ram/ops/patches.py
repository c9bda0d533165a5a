"""A batch of photos in memory and the glimpses read from it: co-centred patches, area-averaged.

A patch is a box of the photo cut into P x P cells; a patch pixel is the average over its cell.
Three readers give the same exact averages, zero outside the photo:

- compiled.py, compiled loops: uint8 photos in CPU memory; no gradient reaches the locations.
- sliding_sums.py, lookups in maps of sums: cells of whole pixels of everything else that is not
  large (feature maps, float photos, a GPU, torch.compile). benchmarks/patch_reading.py measures
  what they gain over windows.
- windows.py, matrix products: any cells and positions; gradients reach the locations.

A program that torch.export traces reads all of them by exported.py.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from stacked_ram.ops.compiled import CellReader, can_read, can_read_boxes, read_boxes
from stacked_ram.ops.exported import SumTable, exporting, sizes_of
from stacked_ram.ops.geometry import GlimpseGeometry, Placing, vector
from stacked_ram.ops.sliding_sums import SlidingMaps, SlidingReader
from stacked_ram.ops.windows import fraction_inside, window_averages

SLIDING_PIXELS = 2**18  # photos with more pixels are read by windows: maps would cost more

Value = TypeVar("Value")


class Photos:
    """A batch of photos in memory, prepared once (lazily) and read many times.

    pixels_BCHW: uint8 (0 to 255) or floating point (may require grad: feature maps). Photos of
    different sizes stand at the top left; the rest must be zero.
    sizes_B2: int64 (height, width) of each photo's own part; None: all of it.
    mean, std: C values in 0..1 units. Photos are read as (value - mean) / std, where the value is
    a floating-point pixel, or a uint8 pixel / 255. Outside a photo patches are zero after this, not
    before.

    Raises ValueError for pixels of another shape or type, and for a mean or std of another length.
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
        if sizes_B2 is None and exporting():
            sizes_B2 = sizes_of(pixels_BCHW)
        elif sizes_B2 is None:
            size_2 = vector(pixels_BCHW.shape[2:], pixels_BCHW, torch.int64)
            sizes_B2 = size_2.expand(pixels_BCHW.shape[0], 2)
        self.sizes_B2 = sizes_B2
        self.mean, self.std = (
            None if values is None else _per_channel(values, pixels_BCHW) for values in (mean, std)
        )
        self.glance: tuple[torch.Tensor, torch.Tensor] | None = None
        """The cached result of `Glance.find`, if there is one."""
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
        """Return the photos at these places of the batch."""
        return Photos(self.pixels_BCHW[index_b], self.sizes_B2[index_b], self.mean, self.std)

    def normalised(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> Photos:
        """Return the same photos with another normalisation."""
        return Photos(self.pixels_BCHW, self.sizes_B2, mean, std)

    def to(self, device: torch.device | str) -> Photos:
        """Return the same photos on another device."""
        mean, std = (v if v is None else v.to(device) for v in (self.mean, self.std))
        return Photos(self.pixels_BCHW.to(device), self.sizes_B2.to(device), mean, std)

    def patches(
        self,
        locations_R2: torch.Tensor,
        geometry: GlimpseGeometry,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return the glimpses at these locations: (R, K, C, P, P).

        locations_R2: (x, y) in [-1, 1], further out is allowed; R = B * M, rows b*M to b*M+M-1
        look at photo b. Averages are computed in float32 or float64 and then rounded to dtype, by
        default that of floating-point pixels, float32 for uint8. The result may be channels-last
        in memory. Raises ValueError if the number of locations is no multiple of B.
        """
        if locations_R2.shape[0] % self.batch_size:
            raise ValueError(
                f"{locations_R2.shape[0]} locations are no multiple of {self.batch_size} photos"
            )
        rows, given = locations_R2.shape[0], locations_R2.dtype
        cells = None if exporting() else geometry.whole_cells
        if cells is not None and (
            math.prod(self.pixels_BCHW.shape[2:]) <= SLIDING_PIXELS
            or can_read(self.pixels_BCHW, cells)
        ):
            read = self._cached(
                ("cells", geometry, rows, given, torch.compiler.is_compiling()),
                lambda: _WholeCellReader(self, geometry, cells, rows, given),
            )
            patches = read(locations_R2)
        else:
            placing = self._placing(geometry, rows, given)
            shorter = 1
            if geometry.patch_unit == "fraction" and not exporting():
                shorter = min(self.pixels_BCHW.shape[2:])
            patches = self.averages(
                placing.left_top(locations_R2),
                placing.widths_RK1.expand(-1, -1, 2),
                [(width * shorter, width * shorter) for width in geometry.widths],
                (geometry.patch_size, geometry.patch_size),
            )
        return patches.to(dtype or self._default_dtype())

    def resized(self, size: tuple[int, int]) -> torch.Tensor:
        """Reduce each whole photo to size (h, w) by exact area averages: (B, C, h, w).

        The aspect ratio is not kept.
        """
        sides_B12 = self.sizes_B2.flip(1).unsqueeze(1).float()
        most = [(self.pixels_BCHW.shape[3], self.pixels_BCHW.shape[2])]
        averages = self.averages(torch.zeros_like(sides_B12), sides_B12, most, size)
        return averages.squeeze(1).to(self._default_dtype())

    def _default_dtype(self) -> torch.dtype:
        pixels = self.pixels_BCHW
        return pixels.dtype if pixels.is_floating_point() else torch.float32

    def _cached(self, key: tuple, prepare: Callable[[], Value]) -> Value:
        """Return prepare(), which is called only once for each key."""
        if key not in self._prepared:
            self._prepared[key] = prepare()
        return self._prepared[key]

    def _sizes_R2(self, rows: int) -> torch.Tensor:
        if rows == self.batch_size or exporting():
            return self.sizes_B2
        return self.sizes_B2.index_select(0, self._photos_R(rows))

    def _photos_R(self, rows: int) -> torch.Tensor:
        """Return the index of each row's photo."""
        return torch.arange(rows, device=self.device) // (rows // self.batch_size)

    def _placing(self, geometry: GlimpseGeometry, rows: int, dtype: torch.dtype) -> Placing:
        return self._cached(
            ("placing", geometry, None if exporting() else rows, dtype),
            lambda: Placing.of(self._sizes_R2(rows), geometry, dtype),
        )

    def averages(
        self,
        starts_RK2: torch.Tensor,
        sides_RK2: torch.Tensor,
        most_K2: Sequence[tuple[float, float]],
        cells: tuple[int, int],
    ) -> torch.Tensor:
        """Return normalised averages over h x w equal cells of any boxes: (R, K, C, h, w), float32
        or float64. The arguments are those of `window_averages`."""
        scales_C, means_C = self._normalisation()
        if can_read_boxes(self.pixels_BCHW, starts_RK2, sides_RK2):
            assert scales_C is not None  # uint8 has a scale
            pixels = self._cached(("pixels",), self.pixels_BCHW.contiguous)
            sizes_R2 = self._sizes_R2(starts_RK2.shape[0])
            return read_boxes(pixels, starts_RK2, sides_RK2, sizes_R2, scales_C, means_C, cells)
        if exporting():
            table = self._cached(("table",), lambda: SumTable(self.pixels_BCHW, self.sizes_B2))
            averages = table.averages(starts_RK2, sides_RK2, cells)
        else:
            averages = window_averages(self.pixels_BCHW, starts_RK2, sides_RK2, most_K2, cells)
        if scales_C is not None:
            averages = averages * scales_C.to(averages.dtype).view(-1, 1, 1)
        if means_C is not None:
            limits_R2 = self._sizes_R2(starts_RK2.shape[0]).flip(1)
            inside_y, inside_x = (
                fraction_inside(
                    starts_RK2[..., axis], sides_RK2[..., axis], limits_R2[:, axis], count
                )
                for axis, count in ((1, cells[0]), (0, cells[1]))
            )
            inside_y = inside_y[:, :, None, :, None] * -means_C.view(-1, 1, 1)
            inside_x = inside_x[:, :, None, None, :]
            averages = torch.addcmul(
                averages, inside_y.to(averages.dtype), inside_x.to(averages.dtype)
            )
        return averages

    def _normalisation(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return, for each channel, the factor of averages and the value that is then subtracted
        inside the photo. None: no factor, nothing to subtract."""
        scales_C = None if self.std is None else 1 / self.std
        means_C = self.mean if scales_C is None or self.mean is None else self.mean * scales_C
        if not self.pixels_BCHW.is_floating_point():
            if scales_C is None:
                scales_C = torch.ones(self.channels, device=self.device)
            scales_C = scales_C / 255
        return scales_C, means_C


class _WholeCellReader:
    """Reads patches whose cells are whole pixels; for one geometry and a number of rows."""

    def __init__(
        self, photos: Photos, geometry: GlimpseGeometry, cells: tuple[int, ...], rows: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        pixels, size, channels = photos.pixels_BCHW, geometry.patch_size, photos.channels
        self.shape_RKPPC = rows, len(cells), size, size, channels
        self.placing = photos._placing(geometry, rows, dtype)
        self.bound = float(max(pixels.shape[2:]) + (size + 1) * max(cells))
        cells_K1 = vector(cells, pixels, torch.int32).unsqueeze(1)
        work = torch.float64 if pixels.dtype == torch.float64 else torch.float32
        fractions_KC = (cells_K1 * cells_K1).to(work).reciprocal().repeat(1, channels)
        scales_C, means_C = photos._normalisation()
        scales_KC = fractions_KC if scales_C is None else fractions_KC * scales_C
        self.compiled: CellReader | None = None
        if can_read(pixels, cells):
            pixels = photos._cached(("pixels",), pixels.contiguous)
            self.compiled = CellReader(pixels, cells, scales_KC, size, self.placing)
        else:
            maps = photos._cached(("maps", cells), lambda: SlidingMaps(pixels, cells))
            self.sliding = SlidingReader(maps, photos._photos_R(rows), size)
            self.scales_K1Q = scales_KC.repeat(1, size).unsqueeze(1)
        # the mean is subtracted inside the photo only
        self.means_K1Q: torch.Tensor | None = None
        if means_C is not None:
            self.means_K1Q = (fractions_KC * means_C).repeat(1, size).unsqueeze(1)
            counts_E = torch.arange(size + 1, dtype=torch.int32, device=pixels.device)
            self.edges_1KE = (cells_K1 * counts_E).unsqueeze(0)
            limits_R2 = photos._sizes_R2(rows).flip(1).to(torch.int32)
            self.limits_2R11 = limits_R2.T[:, :, None, None]

    def __call__(self, locations_R2: torch.Tensor) -> torch.Tensor:
        if self.compiled is not None:
            patches_RKPQ = self.compiled(locations_R2).view(*self.shape_RKPPC[:3], -1)
        else:
            patches_RKPQ = self.sliding(self._corners(locations_R2)) * self.scales_K1Q
        if self.means_K1Q is not None:
            edges_2RKE = (self._corners(locations_R2) + self.edges_1KE).clamp_(min=0)
            edges_2RKE = edges_2RKE.clamp_max_(self.limits_2R11).to(patches_RKPQ.dtype)
            inside_2RKP = edges_2RKE[..., 1:] - edges_2RKE[..., :-1]
            inside_x_RK1P, inside_y_RKP1 = inside_2RKP[0].unsqueeze(2), inside_2RKP[1].unsqueeze(3)
            inside_x_RK1Q = inside_x_RK1P.repeat_interleave(self.shape_RKPPC[4], 3)
            means_RK1Q = inside_x_RK1Q * self.means_K1Q
            patches_RKPQ = torch.addcmul(patches_RKPQ, inside_y_RKP1, means_RK1Q, value=-1)
        return patches_RKPQ.view(self.shape_RKPPC).permute(0, 1, 4, 2, 3)

    def _corners(self, locations_R2: torch.Tensor) -> torch.Tensor:
        """Corners as int32, 2 x R x K x 1. Those far outside the photo are moved to where a patch
        is still fully outside, which keeps the numbers small."""
        corners_RK2 = self.placing.left_top(locations_R2.detach())
        corners_2RK = corners_RK2.clamp(-self.bound, self.bound).to(torch.int32).permute(2, 0, 1)
        return corners_2RK.contiguous().unsqueeze(3)


def _per_channel(values: Sequence[float] | torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    if len(values) != pixels.shape[1]:
        raise ValueError(f"{len(values)} values of mean or std for {pixels.shape[1]} channels")
    if isinstance(values, torch.Tensor):
        return values.to(pixels.device)
    return vector(values, pixels, torch.float32)

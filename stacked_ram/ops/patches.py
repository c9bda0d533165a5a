"""A batch of photos in memory and the glimpses read from it: co-centred patches, area-averaged.

A patch is a box of the photo cut into P x P cells; a patch pixel is the average over its cell.
Three readers give the same exact averages, zero outside the photo:

- compiled.py, a compiled loop: uint8 photos in CPU memory, cells of whole pixels.
- sliding_sums.py, lookups in maps of sums: cells of whole pixels of everything else that is not
  large (feature maps, float photos, a GPU, torch.compile). benchmarks/patch_reading.py measures
  what they gain over windows.
- windows.py, matrix products: any cells and positions; gradients reach the locations.

B photos, M rollouts, R = B * M rows (photo-major), K patches, C channels, P patch_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch

from stacked_ram.ops.compiled import CellReader, can_read
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
        if sizes_B2 is None:
            size_2 = vector(pixels_BCHW.shape[2:], pixels_BCHW, torch.int64)
            sizes_B2 = size_2.expand(pixels_BCHW.shape[0], 2)
        self.sizes_B2 = sizes_B2
        self.mean, self.std = (
            None if values is None else _per_channel(values, pixels_BCHW) for values in (mean, std)
        )
        self.glance: tuple[torch.Tensor, torch.Tensor] | None = None
        """What the model's glance finds in them (`Glance.find`), where that is known already."""
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
        return Photos(self.pixels_BCHW[index_b], self.sizes_B2[index_b], self.mean, self.std)

    def normalised(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> Photos:
        """The same photos with another normalisation."""
        return Photos(self.pixels_BCHW, self.sizes_B2, mean, std)

    def to(self, device: torch.device | str) -> Photos:
        """The same photos on another device."""
        mean, std = (v if v is None else v.to(device) for v in (self.mean, self.std))
        return Photos(self.pixels_BCHW.to(device), self.sizes_B2.to(device), mean, std)

    def patches(
        self,
        locations_R2: torch.Tensor,
        geometry: GlimpseGeometry,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The glimpses at these locations: (R, K, C, P, P).

        locations_R2: (x, y) in [-1, 1], further out is allowed; R = B * M, rows b*M to b*M+M-1
        look at photo b. Averages are computed in float32 or float64 and then rounded to dtype, by
        default that of floating-point pixels, float32 for uint8. The result may be channels-last
        in memory. Raises ValueError if the number of locations is no multiple of B.
        """
        if locations_R2.shape[0] % self.batch_size:
            raise ValueError(
                f"{locations_R2.shape[0]} locations are no multiple of {self.batch_size} photos"
            )
        whole = self._cached(
            ("whole", geometry, torch.compiler.is_compiling()),
            lambda: self._reads_whole_cells(geometry),
        )
        read = self._whole_cells if whole else self._any_cells
        return read(locations_R2, geometry).to(dtype or self._default_dtype())

    def _reads_whole_cells(self, geometry: GlimpseGeometry) -> bool:
        cells = geometry.whole_cells
        small = math.prod(self.pixels_BCHW.shape[2:]) <= SLIDING_PIXELS
        return cells is not None and (small or can_read(self.pixels_BCHW, cells))

    def resized(self, size: tuple[int, int]) -> torch.Tensor:
        """Each whole photo reduced to size (h, w) by exact area averages: (B, C, h, w).

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
        """prepare(), called once for each key and batch of photos."""
        if key not in self._prepared:
            self._prepared[key] = prepare()
        return self._prepared[key]

    def _sizes_R2(self, rows: int) -> torch.Tensor:
        if rows == self.batch_size:
            return self.sizes_B2
        return self.sizes_B2.index_select(0, self._photos_R(rows))

    def _photos_R(self, rows: int) -> torch.Tensor:
        """The index of each row's photo."""
        return torch.arange(rows, device=self.device) // (rows // self.batch_size)

    def _placing(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> Placing:
        rows, dtype = locations_R2.shape[0], locations_R2.dtype
        return self._cached(
            ("placing", geometry, rows, dtype),
            lambda: Placing.of(self._sizes_R2(rows), geometry, dtype),
        )

    # Cells of whole pixels ------------------------------------------------------------------

    def _whole_cells(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> torch.Tensor:
        cells, size, rows = geometry.whole_cells, geometry.patch_size, locations_R2.shape[0]
        readers = self._cached(
            ("cells", geometry, rows, locations_R2.dtype, torch.compiler.is_compiling()),
            lambda: self._prepare_whole_cells(locations_R2, geometry),
        )
        means = readers.means
        if readers.compiled is None or means is not None:
            corners_2RK1 = self._integer_corners(
                readers.placing.left_top(locations_R2.detach()), geometry
            )
        if readers.compiled is not None:
            patches = readers.compiled(locations_R2).view(rows, len(cells), size, -1)
        else:
            scales_K1Q = readers.scales_KC.repeat(1, size).unsqueeze(1)
            patches = readers.sliding(corners_2RK1) * scales_K1Q
        if means is not None:
            edges_2RKE = (corners_2RK1 + means.edges_1KE).clamp_(min=0)
            edges_2RKE = edges_2RKE.clamp_max_(means.limits_2R11).to(patches.dtype)
            inside_2RKP = edges_2RKE[..., 1:] - edges_2RKE[..., :-1]
            inside_x_RK1P, inside_y_RKP1 = inside_2RKP[0].unsqueeze(2), inside_2RKP[1].unsqueeze(3)
            inside_x_RK1Q = inside_x_RK1P.repeat_interleave(self.channels, 3)
            taken_RK1Q = inside_x_RK1Q * means.means_K1Q
            patches = torch.addcmul(patches, inside_y_RKP1, taken_RK1Q, value=-1)
        patches_RKPPC = patches.view(rows, len(cells), size, size, self.channels)
        return patches_RKPPC.permute(0, 1, 4, 2, 3)

    def _integer_corners(
        self, corners_RK2: torch.Tensor, geometry: GlimpseGeometry
    ) -> torch.Tensor:
        """Corners as int32, 2 x R x K x 1. Those far outside the photo are moved to where a patch
        is still fully outside, which keeps the numbers small."""
        rim = max(geometry.whole_cells)
        bound = float(max(self.pixels_BCHW.shape[2:]) + (geometry.patch_size + 1) * rim)
        corners_2RK = corners_RK2.clamp(-bound, bound).to(torch.int32).permute(2, 0, 1)
        return corners_2RK.contiguous().unsqueeze(3)

    def _prepare_whole_cells(
        self, locations_R2: torch.Tensor, geometry: GlimpseGeometry
    ) -> _WholeCells:
        cells, size, pixels = geometry.whole_cells, geometry.patch_size, self.pixels_BCHW
        placing = self._placing(locations_R2, geometry)
        cells_K1 = vector(cells, pixels, torch.int32).unsqueeze(1)
        work = torch.float64 if pixels.dtype == torch.float64 else torch.float32
        fractions_KC = (cells_K1 * cells_K1).to(work).reciprocal().repeat(1, self.channels)
        scales_C, means_C = self._normalisation()
        scales_KC = fractions_KC if scales_C is None else fractions_KC * scales_C
        compiled = sliding = means = None
        if can_read(pixels, cells):
            pixels = self._cached(("pixels",), pixels.contiguous)
            compiled = CellReader(pixels, cells, scales_KC, size, placing)
        else:
            maps = self._cached(("maps", cells), lambda: SlidingMaps(pixels, cells))
            sliding = SlidingReader(maps, self._photos_R(len(locations_R2)), size)
        if means_C is not None:
            counts_E = torch.arange(size + 1, dtype=torch.int32, device=pixels.device)
            limits_R2 = self._sizes_R2(len(locations_R2)).flip(1).to(torch.int32)
            means = _Means(
                means_K1Q=(fractions_KC * means_C).repeat(1, size).unsqueeze(1),
                edges_1KE=(cells_K1 * counts_E).unsqueeze(0),
                limits_2R11=limits_R2.T[:, :, None, None],
            )
        return _WholeCells(placing, scales_KC, means, compiled, sliding)

    # Any cells ------------------------------------------------------------------------------

    def _any_cells(self, locations_R2: torch.Tensor, geometry: GlimpseGeometry) -> torch.Tensor:
        placing = self._placing(locations_R2, geometry)
        shorter = min(self.pixels_BCHW.shape[2:]) if geometry.patch_unit == "fraction" else 1
        return self.averages(
            placing.left_top(locations_R2),
            placing.widths_RK1.expand(-1, -1, 2),
            [(width * shorter, width * shorter) for width in geometry.widths],
            (geometry.patch_size, geometry.patch_size),
        )

    def averages(
        self,
        starts_RK2: torch.Tensor,
        sides_RK2: torch.Tensor,
        most_K2: list[tuple[float, float]],
        cells: tuple[int, int],
    ) -> torch.Tensor:
        """Normalised averages over h x w equal cells of any boxes: (R, K, C, h, w), float32 or
        float64. The arguments are those of `window_averages`."""
        averages = window_averages(self.pixels_BCHW, starts_RK2, sides_RK2, most_K2, cells)
        scales_C, means_C = self._normalisation()
        if scales_C is not None:
            averages = averages * scales_C.to(averages.dtype).view(-1, 1, 1)
        if means_C is not None:
            limits_R2 = self._sizes_R2(len(starts_RK2)).flip(1)
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
        """Per channel: the factor of averages, and what is then subtracted inside the photo.
        None where there is nothing to do."""
        scales_C = None if self.std is None else 1 / self.std
        means_C = self.mean if scales_C is None or self.mean is None else self.mean * scales_C
        if not self.pixels_BCHW.is_floating_point():
            if scales_C is None:
                scales_C = torch.ones(self.channels, device=self.device)
            scales_C = scales_C / 255
        return scales_C, means_C


class _WholeCells(NamedTuple):
    """Prepared reading of whole-pixel cells, for one geometry and number of rows: by one of the
    two readers."""

    placing: Placing
    scales_KC: torch.Tensor  # factors of the sums of cells
    means: _Means | None
    compiled: CellReader | None
    sliding: SlidingReader | None


class _Means(NamedTuple):
    """The mean to subtract from the averages of whole cells, inside the photo only."""

    means_K1Q: torch.Tensor  # Q: P * C
    edges_1KE: torch.Tensor  # E: P + 1, the edges of the cells from the corner
    limits_2R11: torch.Tensor


def _per_channel(values: Sequence[float] | torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    if len(values) != pixels.shape[1]:
        raise ValueError(f"{len(values)} values of mean or std for {pixels.shape[1]} channels")
    if isinstance(values, torch.Tensor):
        return values.to(pixels.device)
    return vector(values, pixels, torch.float32)

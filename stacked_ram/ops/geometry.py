"""The boxes of a photo that one glimpse covers, for retinas and drawings alike.

R rows (photos times rollouts), K patches, P patch_size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from stacked_ram.runtime.errors import UserError

PATCH_UNITS = ("pixels", "fraction")


@dataclass(frozen=True)
class GlimpseGeometry:
    """The sizes of the co-centred patches of one glimpse.

    A patch is a square of the photo, cut into patch_size x patch_size equal cells; a cell may be
    any number of pixels wide, whole or not, above or below one.
    """

    patch_size: int
    """Side of each patch in pixels, as the network receives it."""
    num_patches: int = 1
    """Number of patches in one glimpse."""
    glimpse_scale: float = 2.0
    """Each patch is this many times wider than the last."""
    patch_unit: str = "pixels"
    """pixels: the first patch is patch_size * patch_width pixels of the photo wide.
    fraction: it is patch_width times the photo's shorter side wide."""
    patch_width: float = 1.0
    """Width of the first patch, in patch_unit."""
    snap: bool = True
    """Round box positions to whole pixels if every cell is a whole number of pixels wide (several
    times faster; the averages are exact either way). False for gradients with respect to
    locations."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "num_patches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not at least 1")
        for name in ("glimpse_scale", "patch_width"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name}: {value} is not a positive number")
        if self.patch_unit not in PATCH_UNITS:
            raise UserError(f"patch_unit: {self.patch_unit!r} is none of {', '.join(PATCH_UNITS)}")

    @property
    def widths(self) -> tuple[float, ...]:
        """Width of each patch: pixels of the photo, or fractions of its shorter side."""
        first = self.patch_width * (self.patch_size if self.patch_unit == "pixels" else 1)
        return tuple(first * self.glimpse_scale**k for k in range(self.num_patches))

    @cached_property
    def whole_cells(self) -> tuple[int, ...] | None:
        """Side of a cell of each patch in pixels if boxes are snapped to pixels, else None."""
        if not self.snap or self.patch_unit != "pixels":
            return None
        cells = [self.patch_width * self.glimpse_scale**k for k in range(self.num_patches)]
        return tuple(int(s) for s in cells) if all(s == int(s) for s in cells) else None


def glimpse_boxes(
    locations_R2: torch.Tensor, sizes_R2: torch.Tensor, geometry: GlimpseGeometry
) -> torch.Tensor:
    """Return the boxes that a glimpse reads at each location: (R, K, 4), left, top, right, bottom.

    locations_R2: (x, y), -1 and 1 at the photo's edges; beyond is allowed, the photo is zero there.
    sizes_R2: (height, width) in pixels. Boxes are in pixels of the photo, already snapped if the
    geometry snaps, float32 (float64 for float64 locations), and may reach outside the photo.
    """
    placing = Placing.of(sizes_R2, geometry, locations_R2.dtype)
    corners_RK2 = placing.left_top(locations_R2)
    return torch.cat([corners_RK2, corners_RK2 + placing.widths_RK1], 2)


class Placing(NamedTuple):
    """Converts locations on photos of known sizes into corners; made once, used at every step."""

    half_R12: torch.Tensor
    """Half the (width, height) of the photo."""
    shift_RK2: torch.Tensor
    """Left top corner of each patch at location (0, 0), before snapping."""
    widths_RK1: torch.Tensor
    """Width of each patch in pixels."""
    snaps: bool

    @staticmethod
    def of(sizes_R2: torch.Tensor, geometry: GlimpseGeometry, dtype: torch.dtype) -> Placing:
        """Prepare for photos of sizes (height, width); float32 unless dtype is float64."""
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        half_R12 = (sizes_R2.flip(1).to(dtype) * 0.5).unsqueeze(1)
        widths_RK1 = vector(geometry.widths, half_R12, dtype).view(1, -1, 1)
        if geometry.patch_unit == "fraction":
            widths_RK1 = half_R12.amin(2, keepdim=True) * 2 * widths_RK1
        else:
            widths_RK1 = widths_RK1.expand(half_R12.shape[0], -1, -1)
        snaps = geometry.whole_cells is not None
        # Rounding down after half a pixel more is rounding to the nearest.
        shift_RK2 = half_R12 - 0.5 * widths_RK1 + (0.5 if snaps else 0.0)
        return Placing(half_R12, shift_RK2, widths_RK1, snaps)

    def left_top(self, locations_R2: torch.Tensor) -> torch.Tensor:
        """Return the left top corners (x, y) of the patches: (R, K, 2)."""
        locations_R12 = locations_R2.to(self.half_R12.dtype).unsqueeze(1)
        # product and sum are each rounded, as in the compiled loop (cell_loop.py)
        corners_RK2 = locations_R12 * self.half_R12 + self.shift_RK2
        return corners_RK2.floor() if self.snaps else corners_RK2


def vector(values: Sequence[float], like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Make a small vector on the device of another tensor, without a copy from the host, which
    would have to wait."""
    if like.device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.stack([torch.full((), v, dtype=dtype, device=like.device) for v in values])

"""Which boxes of a photo one glimpse covers: the one place that the retinas and the drawings use.

R rows (photos times rollouts), K patches, P patch_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stacked_ram.errors import UserError

PATCH_UNITS = ("pixels", "share")


@dataclass(frozen=True)
class GlimpseGeometry:
    """The sizes of the co-centred patches of one glimpse.

    A patch is a square of the photo, cut into patch_size x patch_size equal cells; a cell may be
    any number of pixels wide, whole or not, above or below one.
    """

    patch_size: int
    """Pixels of each patch, on each side, as the network gets it."""
    num_patches: int = 1
    """Patches of one glimpse."""
    glimpse_scale: float = 2.0
    """Each patch is this many times wider than the last."""
    patch_unit: str = "pixels"
    """pixels: the first patch is patch_size * patch_width pixels of the photo wide.
    share: it is patch_width times the photo's shorter side wide."""
    patch_width: float = 1.0
    """Width of the first patch, in patch_unit."""
    snap: bool = True
    """Move boxes to whole pixels where every cell is a whole number of pixels (several times
    faster, exact either way). False for gradients with respect to locations."""

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
        """Width of each patch: pixels of the photo, or shares of its shorter side."""
        first = self.patch_width * (self.patch_size if self.patch_unit == "pixels" else 1)
        return tuple(first * self.glimpse_scale**k for k in range(self.num_patches))

    @property
    def whole_cells(self) -> tuple[int, ...] | None:
        """Pixels of a cell's side for each patch if boxes are snapped to pixels, else None."""
        if not self.snap or self.patch_unit != "pixels":
            return None
        cells = [self.patch_width * self.glimpse_scale**k for k in range(self.num_patches)]
        return tuple(int(s) for s in cells) if all(s == int(s) for s in cells) else None


def glimpse_boxes(
    locations_R2: torch.Tensor, sizes_R2: torch.Tensor, geometry: GlimpseGeometry
) -> torch.Tensor:
    """The boxes that a glimpse at each location reads: (R, K, 4), left, top, right, bottom.

    locations_R2: (x, y), -1 and 1 at the photo's edges (beyond is allowed: zeros are read there).
    sizes_R2: (height, width) in pixels. Boxes are in pixels of the photo, already snapped if the
    geometry snaps, float32 (float64 for float64 locations), and may reach outside the photo.
    """
    if geometry.patch_unit == "share":
        shorter_R = sizes_R2.amin(1)
        widths_RK = torch.stack([shorter_R * width for width in geometry.widths], 1)
    else:
        widths_RK = None
    corners_RK2 = left_top(locations_R2, sizes_R2, geometry, widths_RK)
    if widths_RK is None:
        far = [corners_RK2[:, k] + width for k, width in enumerate(geometry.widths)]
        return torch.cat([corners_RK2, torch.stack(far, 1)], 2)
    return torch.cat([corners_RK2, corners_RK2 + widths_RK.unsqueeze(2)], 2)


def left_top(
    locations_R2: torch.Tensor,
    sizes_R2: torch.Tensor,
    geometry: GlimpseGeometry,
    widths_RK: torch.Tensor | None = None,
) -> torch.Tensor:
    """The left top corners (x, y) of those boxes: (R, K, 2)."""
    if locations_R2.dtype != torch.float64:
        locations_R2 = locations_R2.float()
    half_R2 = sizes_R2.flip(1).to(locations_R2.dtype) * 0.5
    centres_R2 = torch.addcmul(half_R2, locations_R2, half_R2)
    if widths_RK is not None:
        return centres_R2.unsqueeze(1) - 0.5 * widths_RK.to(centres_R2.dtype).unsqueeze(2)
    if geometry.whole_cells:
        return torch.stack(
            [(centres_R2 + (0.5 - 0.5 * width)).floor() for width in geometry.widths], 1
        )
    return torch.stack([centres_R2 - 0.5 * width for width in geometry.widths], 1)

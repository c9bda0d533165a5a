"""Photos on disk that are not in memory: each patch reads only the pixels that it needs.

A patch is read from the coarsest pyramid level that is at least as fine as its cells, then averaged
as in memory. Level 0 is the photo itself, so patches from it are exact. Pixels of other levels are
rounded averages. A cell whose edges lie between such pixels is off by at most half a grey value (of
255) per halving. A pixel that is cut by an edge counts by the fraction inside the cell.

B photos, R rows (photo-major), K patches, C channels, P patch_size, h x w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stacked_ram.images.pyramid import Pyramid
from stacked_ram.ops.geometry import GlimpseGeometry, Placing
from stacked_ram.ops.patches import Photos
from stacked_ram.ops.windows import fraction_inside
from stacked_ram.runtime.errors import UserError

LUMA = np.array([19595, 38470, 7471])  # weights of red, green, blue times 65536, as in Pillow


class Window(NamedTuple):
    """The pixels that were read for one box."""

    pixels_CHW: np.ndarray
    """uint8; 0 x 0 pixels if the box is outside the photo."""
    corner: tuple[int, int]
    """(x, y) of the first pixel, in pixels of the pyramid level."""
    factors: tuple[float, float]
    """Width and height of one of these pixels, in pixels of the photo."""


class UnreadablePhoto(UserError):
    """Raised for a photo of a batch that cannot be read when patches of it are needed.

    photo: the photo.
    """

    def __init__(self, message: str, photo: LazyPhoto) -> None:
        super().__init__(message)
        self.photo = photo


class LazyPhoto:
    """One photo file, read by region.

    channels: 3 (grayscale is repeated) or 1.
    size: (height, width), upright. If given, the file is opened when it is first needed and must
        have this size; if None, it is opened at once.

    Raises UserError, which names the file, if it cannot be read.
    """

    def __init__(
        self, path: str | Path, channels: int = 3, size: tuple[int, int] | None = None
    ) -> None:
        self.path, self.channels, self.known_size = Path(path), channels, size
        self.size: tuple[int, int] = size or self.pyramid.size

    def __reduce__(self):
        """Pickle only the arguments; another process opens the file again."""
        return LazyPhoto, (self.path, self.channels, self.known_size)

    @cached_property
    def pyramid(self) -> Pyramid:
        pyramid = Pyramid(self.path)
        if self.known_size is not None and pyramid.size != self.known_size:
            (height, width), (tall, wide) = pyramid.size, self.known_size
            raise UserError(
                f"{self.path}: {width}x{height} pixels, where {wide}x{tall} were expected; put the"
                " file back, or prepare the data set again"
            )
        return pyramid

    def window(
        self, start: tuple[float, float], side: tuple[float, float], cells: tuple[int, int]
    ) -> Window:
        """Read the pixels of a box that will be averaged over h x w cells.

        start, side: (x, y) of the top left corner and (width, height), in pixels of the photo.
        cells: (h, w).
        """
        inside = [
            max(0.0, min(first + length, size) - max(first, 0.0))
            for first, length, size in zip(start, side, self.size[::-1], strict=True)
        ]
        if min(inside) <= 0:
            return Window(np.zeros((self.channels, 0, 0), np.uint8), (0, 0), (1.0, 1.0))
        cell = side[0] / cells[1], side[1] / cells[0]
        level = self.pyramid.level_for(cell, (inside[0], inside[1]))
        firsts, lasts, beyond = [], [], []
        for first, length, size, factor in zip(start, side, level.size, level.factors, strict=True):
            end = (first + length) / factor
            firsts.append(min(max(math.floor(first / factor), 0), size - 1))
            lasts.append(min(max(math.ceil(end), firsts[-1] + 1), size))
            # If the size of a level was rounded down, it ends before the photo does.
            beyond.append(int(end > size and level.factors != (1.0, 1.0)))
        pixels_HWC = self.pyramid.read(level, *firsts, *lasts)
        pixels_CHW = np.moveaxis(self._of_channels(pixels_HWC), 2, 0)
        if any(beyond):
            pixels_CHW = np.pad(pixels_CHW, ((0, 0), (0, beyond[1]), (0, beyond[0])), mode="edge")
        return Window(pixels_CHW, (firsts[0], firsts[1]), level.factors)

    def _of_channels(self, pixels_HWC: np.ndarray) -> np.ndarray:
        if pixels_HWC.shape[2] == self.channels:
            return pixels_HWC
        if self.channels == 3:
            return pixels_HWC.repeat(3, axis=2)
        luma_HW = (pixels_HWC @ LUMA + 2**15) >> 16
        return luma_HW.astype(np.uint8)[:, :, None]


class LazyPhotos:
    """A batch of LazyPhoto with the interface of `Photos`; memory does not grow with their size.

    A photo gives the same patches alone and in any batch.

    mean, std: C values in 0..1, as for Photos.

    `patches` and `resized` raise UnreadablePhoto for the first photo that cannot be read.
    """

    def __init__(
        self,
        photos: Sequence[LazyPhoto],
        mean: Sequence[float] | torch.Tensor | None = None,
        std: Sequence[float] | torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.photos = list(photos)
        self.mean, self.std, self.device = mean, std, torch.device(device)
        self.sizes_B2 = torch.tensor([photo.size for photo in self.photos], device=self.device)
        self.glance: tuple[torch.Tensor, torch.Tensor] | None = None  # as in Photos

    @property
    def batch_size(self) -> int:
        return len(self.photos)

    @property
    def channels(self) -> int:
        return self.photos[0].channels

    def select(self, index_b: torch.Tensor) -> LazyPhotos:
        """Return the photos at these positions of the batch."""
        chosen = [self.photos[place] for place in index_b.tolist()]
        return LazyPhotos(chosen, self.mean, self.std, self.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LazyPhotos:
        """Return the same photos with their patches on another device."""
        return LazyPhotos(self.photos, self.mean, self.std, device)

    def pin_memory(self) -> LazyPhotos:
        """Return self: there is no memory to pin."""
        return self

    def normalised(self, mean: torch.Tensor | None, std: torch.Tensor | None) -> LazyPhotos:
        """Return the same photos with another normalisation."""
        return LazyPhotos(self.photos, mean, std, self.device)

    def patches(
        self,
        locations_R2: torch.Tensor,
        geometry: GlimpseGeometry,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return the glimpses at these locations, as `Photos.patches`: (R, K, C, P, P)."""
        rows = locations_R2.shape[0]
        if rows % self.batch_size:
            raise ValueError(f"{rows} locations are not a multiple of {self.batch_size} photos")
        sizes_R2 = self._sizes_R2(rows)
        placing = Placing.of(sizes_R2, geometry, locations_R2.dtype)
        starts_RK2 = placing.left_top(locations_R2)
        sides_RK2 = placing.widths_RK1.expand(-1, -1, 2)
        cells = geometry.patch_size, geometry.patch_size
        patches = [
            self._averages(starts_RK2[:, k], sides_RK2[:, k], cells)
            for k in range(geometry.num_patches)
        ]
        return torch.stack(patches, 1).to(dtype or torch.float32)

    def resized(self, size: tuple[int, int]) -> torch.Tensor:
        """Return each whole photo, stretched to size (h, w): (B, C, h, w)."""
        sides_B2 = self.sizes_B2.flip(1).double()
        return self._averages(torch.zeros_like(sides_B2), sides_B2, size).float()

    def _sizes_R2(self, rows: int) -> torch.Tensor:
        return self.sizes_B2.repeat_interleave(rows // self.batch_size, 0)

    def _averages(
        self, starts_R2: torch.Tensor, sides_R2: torch.Tensor, cells: tuple[int, int]
    ) -> torch.Tensor:
        """Return the normalised averages of one box per row: (R, C, h, w)."""
        rollouts = len(starts_R2) // self.batch_size
        boxes = torch.cat([starts_R2, sides_R2], 1).detach().double().cpu().tolist()
        windows = []
        for row, (left, top, width, height) in enumerate(boxes):
            photo = self.photos[row // rollouts]
            try:
                windows.append(photo.window((left, top), (width, height), cells))
            except UserError as error:
                raise UnreadablePhoto(str(error), photo) from None
        pixels_RCHW, read_R2 = (part.to(self.device) for part in padded(windows))
        photos = Photos(pixels_RCHW, read_R2, self.mean, self.std)
        corners_R2, factors_R2 = (
            torch.tensor(values, dtype=torch.float64, device=self.device)
            for values in zip(*((window.corner, window.factors) for window in windows), strict=True)
        )
        starts_R12 = (starts_R2 / factors_R2 - corners_R2).to(starts_R2.dtype).unsqueeze(1)
        sides_R12 = (sides_R2 / factors_R2).to(sides_R2.dtype).unsqueeze(1)
        most = tuple(
            max(
                box[2 + axis] / window.factors[axis]
                for box, window in zip(boxes, windows, strict=True)
            )
            for axis in (0, 1)
        )
        averages = photos.averages(starts_R12, sides_R12, [most], cells)[:, 0]
        if all(window.factors == (1.0, 1.0) for window in windows):
            return averages
        # The last pixels of a level may extend a little beyond the photo.
        sizes_R2 = self._sizes_R2(len(windows))
        for axis, count in ((0, cells[1]), (1, cells[0])):
            true = fraction_inside(
                starts_R2[:, None, axis], sides_R2[:, None, axis], sizes_R2[:, 1 - axis], count
            )
            read = fraction_inside(
                starts_R12[..., axis], sides_R12[..., axis], photos.sizes_B2[:, 1 - axis], count
            )
            ratio_Rn = torch.where(read > 0, true / read, 1.0)[:, 0].to(averages.dtype)
            ratio = ratio_Rn[:, None, None, :] if axis == 0 else ratio_Rn[:, None, :, None]
            averages = averages * ratio
        return averages


def padded(windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows as one batch: pixels_RCHW, zero below and right of each, and sizes_R2."""
    sizes = [window.pixels_CHW.shape[1:] for window in windows]
    height, width = (max(1, *(size[axis] for size in sizes)) for axis in (0, 1))
    pixels_RCHW = np.zeros((len(windows), len(windows[0].pixels_CHW), height, width), np.uint8)
    for pixels_CHW, window, (tall, wide) in zip(pixels_RCHW, windows, sizes, strict=True):
        pixels_CHW[:, :tall, :wide] = window.pixels_CHW
    return torch.from_numpy(pixels_RCHW), torch.tensor(sizes)

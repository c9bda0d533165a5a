"""The interface by which a model reads a batch of photos, wherever their pixels are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from stacked_ram.ops.geometry import GlimpseGeometry


class PhotoBatch(Protocol):
    """A batch of B photos, each of any height and width, with C channels.

    `ops.patches.Photos` holds its pixels in memory; `images.lazy.LazyPhotos` reads from files only
    the boxes of a glimpse. Both average pixels exactly and normalise them: (value - mean) / std,
    with values in 0..1, and zero outside the photo.
    """

    sizes_B2: Tensor
    """(height, width) of each photo in pixels, int64."""
    glance: tuple[Tensor, Tensor] | None
    """The cached result of `Glance.find`, if there is one."""

    @property
    def batch_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def device(self) -> device: ...

    def normalised(self, mean: Tensor | None, std: Tensor | None) -> PhotoBatch:
        """Return the same photos with this mean and std (C values, in 0..1 units)."""
        ...

    def select(self, index_b: Tensor) -> PhotoBatch:
        """Return the photos at these places of the batch."""
        ...

    def patches(self, locations_R2: Tensor, geometry: GlimpseGeometry) -> Tensor:
        """Read the glimpses at these locations, R x K x C x P x P. R is a multiple of B, with the
        rows of a photo next to each other."""
        ...

    def resized(self, size: tuple[int, int]) -> Tensor:
        """Reduce each whole photo to this (height, width), B x C x height x width."""
        ...

"""What a model asks of a batch of photos, wherever their pixels are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, device

from stacked_ram.ops.geometry import GlimpseGeometry


class PhotoBatch(Protocol):
    """A batch of B photos, each of any height and width, with C channels.

    `ops.patches.Photos` holds its pixels in memory; `images.lazy.LazyPhotos` reads from files what
    is looked at. Both average pixels exactly and normalise them: (value - mean) / std, with values
    in 0..1, and zero outside the photo.
    """

    sizes_B2: Tensor
    """(height, width) of each photo in pixels, int64."""
    glance: tuple[Tensor, Tensor] | None
    """What the model's glance finds in them (`Glance.find`), where that is known already."""

    @property
    def batch_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def device(self) -> device: ...

    def normalised(self, mean: Tensor | None, std: Tensor | None) -> PhotoBatch:
        """The same photos, read with this mean and std (C values, in 0..1 units)."""
        ...

    def select(self, index_b: Tensor) -> PhotoBatch:
        """The photos at these places of the batch."""
        ...

    def patches(self, locations_R2: Tensor, geometry: GlimpseGeometry) -> Tensor:
        """The glimpses at these locations, R x K x C x P x P. R is a multiple of B, photo-major."""
        ...

    def resized(self, size: tuple[int, int]) -> Tensor:
        """The whole of each photo at this (height, width), B x C x height x width."""
        ...

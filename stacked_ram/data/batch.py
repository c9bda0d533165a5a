"""The batch that a loader gives to the model.

B photos of a batch, N classes, C H W channels, height and width of the widest and tallest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.ram import RAM
from stacked_ram.ops.photo_batch import PhotoBatch


@dataclass
class Batch:
    pixels_BCHW: Tensor | LazyPhotos
    """uint8, raw 0..255; photos of different sizes are padded below and right with zeros. Photos
    too large for memory are read by region."""
    sizes_B2: Tensor
    """int64 (height, width) of each photo inside pixels_BCHW."""
    labels_B: Tensor
    """int64; or, where photos may have several classes, float32 B x N: 1 for each of the photo's
    classes."""
    boxes_B4: Tensor
    """float32 (left, top, right, bottom) of the object in pixels of this photo; nan without a
    box."""
    index_B: Tensor
    """int64, row of the photo in its split: dataset.names[i] is its file."""
    targets_BN: Tensor | None = None
    """float32 soft targets, if MixUp or CutMix blended two photos."""
    glance: tuple[Tensor, Tensor] | None = None
    """Cached result of `Glance.find` (data/glance_cache.py)."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name and error of each photo that belongs to the batch and could not be read."""

    def __len__(self) -> int:
        return len(self.labels_B)

    def photos(self, model: RAM) -> PhotoBatch:
        """Return the photos as this model takes them, with their cached glance."""
        photos = model.photos(self.pixels_BCHW, self.sizes_B2)
        photos.glance = self.glance
        return photos

    def without(self, place: int) -> Batch:
        """Return the batch without one of its photos."""
        kept = torch.arange(len(self), device=self.labels_B.device) != place
        return self._select(kept.nonzero()[:, 0])

    def split(self, most: int) -> Iterator[Batch]:
        """Iterate over the batch in parts of at most so many photos."""
        if len(self) <= most:
            yield self
        else:
            for index_b in torch.arange(len(self), device=self.labels_B.device).split(most):
                yield self._select(index_b)

    def _select(self, index_b: Tensor) -> Batch:
        return self._each(
            lambda value: value.select(index_b) if isinstance(value, LazyPhotos) else value[index_b]
        )

    def to(self, device: str | torch.device, non_blocking: bool = True) -> Batch:
        """Return the same batch on another device."""
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory (torch's DataLoader calls this)."""
        return self._each(lambda value: value.pin_memory())

    def __getstate__(self) -> dict[str, Any]:
        """Send small tensors from worker to parent as plain bytes: each tensor that goes through
        shared memory costs a connection."""
        state = dict(vars(self))
        for name, value in state.items():
            if name != "pixels_BCHW" and isinstance(value, Tensor):
                state[name] = value.numpy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def _each(self, change: Callable[[Tensor | LazyPhotos], Tensor | LazyPhotos]) -> Batch:
        def changed(value):
            if isinstance(value, tuple):
                return tuple(change(part) for part in value)
            return value if value is None or isinstance(value, dict) else change(value)

        names = [field.name for field in dataclasses.fields(self)]
        return Batch(**{name: changed(getattr(self, name)) for name in names})

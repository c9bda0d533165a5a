"""A cache of what a frozen backbone finds in the glance: computed once for each photo.

A frozen backbone gives the same features for the same photo in every epoch and every run. So the
output of `Glance.find` lies beside the decoded photos, in a file of the same kind (data/cache.py):
safe to share and to stop, and computed again for a photo that has changed. The file's name holds a
digest of everything the features depend on: the backbone's weights, size and regions of the
glance, how photos are kept, their normalisation, the precision.

B photos of a batch   M photos of the manifest   P the two parts: regions, pooled features
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.cache import PhotoCache, make_room, open_cache
from stacked_ram.data.photo_batches import augments, kept_sizes
from stacked_ram.models.ram import RAM
from stacked_ram.ops.digest import digest
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.devices import autocast

NAME = "glance"  # how the files' names begin, after their format


def with_glance_cache(
    loader: Loader | GlanceCachingLoader, model: RAM, config: Config
) -> Loader | GlanceCachingLoader:
    """The loader, wrapped in a cache of glance features where they stay the same: with a frozen
    backbone, photos that no augmentation changes, and a place to keep the features.

    model: with its final frozen weights, on the loader's device.
    """
    if isinstance(loader, GlanceCachingLoader):
        loader = loader.loader
    backbone = None if model.glance is None else model.glance.backbone
    if backbone is None or not backbone.frozen or changes(loader) or config.data.cache == "none":
        return loader
    caching = GlanceCachingLoader(loader, model, config)
    return loader if caching.cache is None else caching


def changes(loader: Loader) -> bool:
    """Whether pixels differ from epoch to epoch, or are not held in memory as photos."""
    data = loader.data
    if loader.dataset.kind != "photos" or loader.maker.by_region:
        return True
    fresh = loader.dataset.scene is not None and data.clutter == "fresh"
    cropped = data.flip or data.crop_area[0] < 1
    return loader.train and bool(cropped or data.mixup or data.cutmix or augments(data) or fresh)


class GlanceCachingLoader:
    """A loader whose batches carry their glance features (`Batch.glance`).

    Everything else is the wrapped loader's own.
    """

    def __init__(self, loader: Loader, model: RAM, config: Config) -> None:
        self.loader, self.model = loader, model
        self.precision = config.training.precision
        nothing = torch.zeros(1, loader.dataset.channels, 8, 8, dtype=torch.uint8)
        parts = self.find(model.photos(nothing.to(loader.device)))
        self.shapes_P = [tuple(part.shape[1:]) for part in parts]
        self.dtypes_P = [part.dtype for part in parts]
        self.bytes_P = [math.prod(part.shape[1:]) * part.dtype.itemsize for part in parts]
        self.cache = self.open(config, loader.train)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            index_B = self.loader.batches[self.loader.position - 1].index_B
            if len(batch) == len(index_B):
                batch.glance = self.features(batch, index_B)
            yield batch
        self.cache.flush()

    def open(self, config: Config, train: bool) -> PhotoCache | None:
        """The cache's file, or None, with a warning that says why."""
        model, data = self.model, config.data
        stored_M2 = self.dataset.manifest.sizes_M2
        _, kept_as = kept_sizes(stored_M2, data, train)
        weights = {name: value.cpu() for name, value in model.backbone.state_dict().items()}
        depends = (
            digest(weights), config.model.backbone, model.glance.size, model.glance.regions,
            model.glance.stride, kept_as, model.mean.tolist(), model.std.tolist(), self.precision,
        )  # fmt: skip
        key = f"{NAME}{hashlib.sha256(repr(depends).encode()).hexdigest()[:16]}"
        sizes_M2 = np.ones_like(stored_M2)
        sizes_M2[:, 1] = sum(self.bytes_P)
        make_room(self.dataset, NAME, key, data.cache_limit - sizes_M2[:, 1].sum() / 1e9)
        return open_cache(
            self.dataset, sizes_M2, data.cache, data.cache_limit, key,
            channels=1, fallback_note="the glance is computed in every epoch",
        )  # fmt: skip

    def features(self, batch: Batch, index_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Regions and pooled features of a batch's photos, as `Glance.find` gives them."""
        rows = self.dataset.manifest.rows[index_B].tolist()
        paths = [os.path.join(self.dataset.folder, self.dataset.names[i]) for i in index_B]
        kept = [self.cache.get(row, path) for row, path in zip(rows, paths, strict=True)]
        new = [place for place, content in enumerate(kept) if content is None]
        if new:
            for place, content in zip(new, self.compute(batch, new), strict=True):
                kept[place] = content
                self.cache.put(rows[place], paths[place], content)
        content_BX = torch.from_numpy(np.stack(kept).reshape(len(kept), -1))
        regions, pooled = (
            # contiguous: only a part in memory of its own can be viewed as another dtype
            part.contiguous().view(dtype).unflatten(1, shape)
            for part, dtype, shape in zip(
                content_BX.split(self.bytes_P, 1), self.dtypes_P, self.shapes_P, strict=True
            )
        )
        return tuple(part.to(self.device, non_blocking=True) for part in (regions, pooled))

    def compute(self, batch: Batch, places: list[int]) -> np.ndarray:
        """The features of the photos at these places of the batch as bytes, one row each."""
        photos = self.model.photos(batch.pixels_BCHW, batch.sizes_B2)
        if len(places) < len(batch):
            photos = photos.select(torch.tensor(places, device=self.device))
        parts = self.find(photos)
        parts = [part.cpu().flatten(1).contiguous().view(torch.uint8) for part in parts]
        return torch.cat(parts, 1)[:, None, None].numpy()

    @torch.no_grad()
    def find(self, photos: Photos) -> tuple[Tensor, Tensor]:
        """`Glance.find` as evaluation runs it."""
        with autocast(self.device, self.precision):
            return self.model.glance.find(photos)

"""Cache the glance's features of a frozen backbone: they are computed once for each photo.

A frozen backbone gives the same features for the same photo in every epoch and every run. So the
output of `Glance.find` is cached like decoded photos (data/cache.py): in a file that processes
share, and computed again for a photo that has changed. The file's name holds a digest of everything
that the features depend on: the backbone's weights, size and regions of the glance, the rule by
which photos are reduced, their normalisation, and the precision.

B photos of a batch   M photos of the manifest   P the two parts: regions, pooled features
"""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
import torch
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.cache import PhotoCache, make_room, open_cache
from stacked_ram.data.photo_batches import kept_sizes
from stacked_ram.data.photo_loader import PhotoLoader
from stacked_ram.models.glance import Glance
from stacked_ram.models.ram import RAM
from stacked_ram.ops.digest import digest
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.devices import autocast

NAME = "glance"  # the start of the files' cache_key


def use_glance_cache(loader: Loader, model: RAM, config: Config) -> None:
    """Give a loader a cache of glance features, if these do not change: with a frozen backbone,
    photos that no augmentation changes, and a cache.

    model: with its final frozen weights, on the loader's device.
    """
    loader.add_glance = None
    glance = model.glance
    if glance is None or glance.backbone is None or not glance.backbone.frozen:
        return
    if config.data.cache == "none" or not isinstance(loader, PhotoLoader) or changes(loader):
        return
    if loader.dataset.shards is not None:  # a cache belongs to files that may change
        return
    adder = GlanceAdder(loader, model, glance, config)
    if adder.cache is not None:
        loader.maker.caches.append(adder.cache)
        loader.add_glance = adder


def changes(loader: PhotoLoader) -> bool:
    """Return whether pixels differ from epoch to epoch, or are read by region."""
    maker, data = loader.maker, loader.data
    cropped = loader.train and (data.flip or data.crop_area[0] < 1)
    return bool(maker.by_region or maker.scenes or maker.augment or loader.blend or cropped)


class GlanceAdder:
    """Adds the glance features of its photos to a batch (`Batch.glance`)."""

    def __init__(self, loader: PhotoLoader, model: RAM, glance: Glance, config: Config) -> None:
        self.dataset, self.device = loader.dataset, loader.device
        self.model, self.glance = model, glance
        self.precision = config.training.precision
        self.alone = self.device.type == "cpu"
        nothing = torch.zeros(1, loader.dataset.channels, 8, 8, dtype=torch.uint8)
        parts = self.find(model.photos(nothing.to(loader.device)))
        self.shapes_P = [tuple(part.shape[1:]) for part in parts]
        self.dtypes_P = [part.dtype for part in parts]
        self.bytes_P = [math.prod(part.shape[1:]) * part.dtype.itemsize for part in parts]
        self.cache = self.open(config, loader.train)

    def open(self, config: Config, train: bool) -> PhotoCache | None:
        """Open the cache; without room for it, warn and return None."""
        model, glance, data = self.model, self.glance, config.data
        stored_M2 = self.dataset.manifest.sizes_M2
        _, kept_as = kept_sizes(stored_M2, data, train)
        assert glance.backbone is not None  # as use_glance_cache has checked
        weights = {name: value.cpu() for name, value in glance.backbone.state_dict().items()}
        depends = (
            digest(weights), config.model.backbone, glance.size, glance.regions, glance.stride,
            kept_as, model.mean.tolist(), model.std.tolist(), self.precision,
            "alone" if self.alone else self.device.type,
        )  # fmt: skip
        key = f"{NAME}{hashlib.sha256(repr(depends).encode()).hexdigest()[:16]}"
        sizes_M2 = np.ones_like(stored_M2)
        sizes_M2[:, 1] = sum(self.bytes_P)
        make_room(self.dataset, NAME, key, data.cache_limit - sizes_M2[:, 1].sum() / 1e9)
        return open_cache(
            self.dataset, sizes_M2, data.cache, data.cache_limit, key,
            channels=1, fallback_note="the glance is computed in every epoch",
        )  # fmt: skip

    def __call__(self, batch: Batch) -> None:
        """Add regions and pooled features, as from `Glance.find`."""
        cache, dataset = self.cache, self.dataset
        assert cache is not None  # as use_glance_cache has checked
        index_B = batch.index_B.cpu().numpy()
        rows = dataset.manifest.rows[index_B].tolist()
        paths = [os.path.join(dataset.folder, dataset.names[i]) for i in index_B]
        cached = [cache.get(row, path) for row, path in zip(rows, paths, strict=True)]
        new = [place for place, content in enumerate(cached) if content is None]
        computed = iter(self.compute(batch, new) if new else ())
        contents = [next(computed) if content is None else content for content in cached]
        for place in new:
            cache.put(rows[place], paths[place], contents[place])
        content_BX = torch.from_numpy(np.stack(contents).reshape(len(contents), -1))
        regions, pooled = (
            # contiguous: only a part in memory of its own can be viewed as another dtype
            part.contiguous().view(dtype).unflatten(1, shape).to(self.device, non_blocking=True)
            for part, dtype, shape in zip(
                content_BX.split(self.bytes_P, 1), self.dtypes_P, self.shapes_P, strict=True
            )
        )
        batch.glance = regions, pooled

    def compute(self, batch: Batch, places: list[int]) -> np.ndarray:
        """Compute the features of the photos at these places of the batch, as rows of bytes.

        On a CPU each photo is computed alone: the last bits of a batch's features depend on which
        photos are in it, and a resumed run has others in its first batch, or another cache.
        """
        if self.alone:
            return np.concatenate([self.find_bytes(batch, [place]) for place in places])
        return self.find_bytes(batch, places)

    def find_bytes(self, batch: Batch, places: list[int]) -> np.ndarray:
        pixels_BCHW, sizes_B2 = batch.pixels_BCHW, batch.sizes_B2
        assert isinstance(pixels_BCHW, Tensor)  # photos that are read by region are not cached
        if len(places) < len(batch):
            index_b = torch.tensor(places, device=pixels_BCHW.device)
            sizes_B2 = sizes_B2[index_b]
            height, width = sizes_B2.amax(0).tolist()
            pixels_BCHW = pixels_BCHW[index_b, :, :height, :width].contiguous()
        photos = self.model.photos(pixels_BCHW, sizes_B2)
        parts = [part.cpu().flatten(1).contiguous() for part in self.find(photos)]
        return torch.cat([part.view(torch.uint8) for part in parts], 1)[:, None, None].numpy()

    @torch.no_grad()
    def find(self, photos: PhotoBatch) -> tuple[Tensor, Tensor]:
        """Call `Glance.find` as evaluation does."""
        with autocast(self.device, self.precision):
            return self.glance.find(photos)

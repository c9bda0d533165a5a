"""What a frozen backbone finds in the glance at each photo: looked once, kept on the disk.

A frozen backbone says the same of the same photo in every epoch and every run, so what it says
(`Glance.find`) lies beside the decoded photos, in a file of the same kind (data/cache.py): filled
by whoever looks first, safe to share and to stop, and a photo that has changed is looked at again.
The file's name holds a digest of all that it depends on: the backbone's weights, size and regions
of the glance, how photos are kept, their normalisation, the precision.

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
from stacked_ram.data.photo_batches import augments, kept_sizes
from stacked_ram.models.ram import RAM
from stacked_ram.ops.patches import Photos
from stacked_ram.runs.checkpoint import digest
from stacked_ram.runtime.devices import autocast

NAME = "glance"  # how the files' names begin, after their format


def keep_glances(loader: Loader, model: RAM, config: Config) -> None:
    """Let the loader's batches bring what the glance finds, where that stays the same: with a
    frozen backbone, photos that no augmentation changes, and a cache to keep it in.

    model: with the weights that it will have, on the loader's device.
    """
    loader.glances = None
    backbone = None if model.glance is None else model.glance.backbone
    if backbone is None or not backbone.frozen or changes(loader) or config.data.cache == "none":
        return
    glances = KeptGlances(model, loader, config)
    loader.glances = None if glances.cache is None else glances


def changes(loader: Loader) -> bool:
    """Whether a photo's pixels may differ from epoch to epoch, or are no photo's in memory."""
    data = loader.data
    if loader.dataset.kind != "photos" or loader.maker.in_pieces:
        return True
    fresh = loader.dataset.scene is not None and data.clutter == "fresh"
    cut = data.flip or data.crop_area[0] < 1
    return loader.train and bool(cut or data.mixup or data.cutmix or augments(data) or fresh)


class KeptGlances:
    """Of one loader's photos. Called with a batch and the photos' rows in the split."""

    def __init__(self, model: RAM, loader: Loader, config: Config) -> None:
        self.model, self.dataset, self.device = model, loader.dataset, loader.device
        self.precision = config.training.precision
        nothing = torch.zeros(1, self.dataset.channels, 8, 8, dtype=torch.uint8, device=self.device)
        parts = self.find(model.photos(nothing))
        self.shapes_P = [tuple(part.shape[1:]) for part in parts]
        self.dtypes_P = [part.dtype for part in parts]
        self.bytes_P = [math.prod(part.shape[1:]) * part.dtype.itemsize for part in parts]
        self.cache = self.open(config, loader.train)

    def open(self, config: Config, train: bool) -> PhotoCache | None:
        """The file, or None, with a warning that says why."""
        model, data = self.model, config.data
        stored_M2 = self.dataset.manifest.sizes_M2
        _, kept_as = kept_sizes(stored_M2, data, train)
        weights = {name: value.cpu() for name, value in model.backbone.state_dict().items()}
        depends = (
            digest(weights), config.model.backbone, model.glance.size, model.glance.regions,
            model.glance.stride, kept_as, model.mean.tolist(), model.std.tolist(), self.precision,
        )  # fmt: skip
        words = f"{NAME}{hashlib.sha256(repr(depends).encode()).hexdigest()[:16]}"
        sizes_M2 = np.ones_like(stored_M2)
        sizes_M2[:, 1] = sum(self.bytes_P)
        make_room(self.dataset, NAME, words, data.cache_limit - sizes_M2[:, 1].sum() / 1e9)
        return open_cache(
            self.dataset, sizes_M2, data.cache, data.cache_limit, words,
            channels=1, fallback_note="the glance is computed in every epoch",
        )  # fmt: skip

    def __call__(self, batch: Batch, index_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Regions and pooled features of a batch's photos, as `Glance.find` gives them."""
        rows = self.dataset.manifest.rows[index_B].tolist()
        paths = [os.path.join(self.dataset.folder, self.dataset.names[i]) for i in index_B]
        kept = [self.cache.get(row, path) for row, path in zip(rows, paths, strict=True)]
        new = [place for place, content in enumerate(kept) if content is None]
        if new:
            for place, content in zip(new, self.look(batch, new), strict=True):
                kept[place] = content
                self.cache.put(rows[place], paths[place], content)
        content_BX = torch.from_numpy(np.stack(kept).reshape(len(kept), -1))
        regions, pooled = (
            # of its own memory: a part that begins anywhere in a row has no other dtype
            part.contiguous().view(dtype).unflatten(1, shape)
            for part, dtype, shape in zip(
                content_BX.split(self.bytes_P, 1), self.dtypes_P, self.shapes_P, strict=True
            )
        )
        return tuple(part.to(self.device, non_blocking=True) for part in (regions, pooled))

    def flush(self) -> None:
        """Bring what was found to the disk."""
        self.cache.flush()

    def look(self, batch: Batch, places: list[int]) -> np.ndarray:
        """What is found in the photos at these places of the batch, as bytes, a row each."""
        photos = self.model.photos(batch.pixels_BCHW, batch.sizes_B2)
        if len(places) < len(batch):
            photos = photos.select(torch.tensor(places, device=self.device))
        parts = self.find(photos)
        parts = [part.cpu().flatten(1).contiguous().view(torch.uint8) for part in parts]
        return torch.cat(parts, 1)[:, None, None].numpy()

    @torch.no_grad()
    def find(self, photos: Photos) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            return self.model.glance.find(photos)

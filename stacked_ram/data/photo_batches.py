"""Make batches of photos: read each photo or take it from the cache, crop it, augment it.

Runs in worker processes, or in the training process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stacked_ram.config.schema import Config, DataConfig
from stacked_ram.data.batch import Batch
from stacked_ram.data.batching import Rows
from stacked_ram.data.cache import open_cache
from stacked_ram.data.crops import Crops, crop_boxes, no_crops, random_crops
from stacked_ram.data.dataset import PhotoDataset
from stacked_ram.data.fresh_scenes import SceneMaker
from stacked_ram.data.rng import hash_seed
from stacked_ram.images.decoding import MAX_PIXELS, read_photo, reduced_size
from stacked_ram.images.in_memory import InMemory
from stacked_ram.images.in_tar import PhotoInTar
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.opening import (
    LARGE,
    SLIDES,
    TOO_LARGE,
    is_large,
    is_slide,
    open_photo,
    reduced,
)
from stacked_ram.runtime.errors import UserError

if TYPE_CHECKING:
    from stacked_ram.data.augment import Augment

# If crops are resized to photo_size, photos are kept larger, so that no crop is enlarged:
MARGIN = 2  # at most by this factor
ENOUGH = 0.75  # this fraction of that size is enough if a JPEG is decoded at it without resizing
TRIED = 8  # files that are opened to find out whether a data set holds pyramids


class BatchMaker(torch.utils.data.Dataset):
    """Make the batches of one split.

    whole: whether the model needs the pixels of whole photos.
    augment: of training photos; None: made as the configuration says.
    sizes_N2: (height, width) of each photo of the split before it is cropped.
    too_large_N: whether a photo is so large that only libvips can reduce it.
    caches: those that `flush` writes to disk.
    """

    def __init__(
        self,
        dataset: PhotoDataset,
        data: DataConfig,
        seed: int,
        train: bool,
        whole: bool = False,
        augment: Augment | None = None,
    ) -> None:
        self.dataset, self.data, self.seed, self.train = dataset, data, seed, train
        sizes_M2, cache_key = kept_sizes(dataset.manifest.sizes_M2, data, train)
        self.sizes_N2 = sizes_M2[dataset.manifest.rows]
        self.by_region = by_region(dataset, data, whole)
        slides_N = np.fromiter(map(is_slide, dataset.names), bool, len(dataset))
        self.too_large_N = slides_N | (dataset.sizes.prod(axis=1) > MAX_PIXELS)
        kept = "none" if self.by_region or dataset.shards is not None else data.cache
        self.scenes: SceneMaker | None = None
        if train and dataset.scene is not None and data.clutter == "fresh" and not self.by_region:
            height, width = self.sizes_N2[0].tolist()
            self.scenes = SceneMaker(dataset, (height, width), data.cache, data.cache_limit)
        self.cache = open_cache(dataset, sizes_M2, kept, data.cache_limit, cache_key)
        caches = self.cache, self.scenes.cache if self.scenes else None
        self.caches = [cache for cache in caches if cache is not None]
        self.augment = augment
        if train and augment is None:
            self.augment = augmentation(data, dataset.channels)

    def __getitem__(self, order: tuple[int, Rows]) -> Batch | UserError:
        """Make one batch from (epoch, its photos).

        A UserError is returned, not raised, so that DataLoader workers do not change its message.
        """
        try:
            return self.make(*order)
        except UserError as error:
            return error

    def make(self, epoch: int, rows: Rows) -> Batch:
        """Make one batch. A photo that cannot be read is not in it, and in its `unreadable`."""
        index_B = rows.index_B
        if self.by_region:
            return self.make_lazy(index_B)
        crops = self.crops(epoch, rows)
        sizes_B2 = self.final_sizes(crops)
        drawn = self.dataset.numbered(rows)
        seeds_B = hash_seed(self.seed, epoch, *drawn, 4)
        scenes_B = hash_seed(self.seed, epoch, *drawn, 5)
        boxes_B4 = np.full((len(index_B), 4), np.nan)
        unreadable: dict[int, tuple[str, str]] = {}
        pixels_BCHW = empty_batch(len(index_B), self.dataset.channels, *sizes_B2.max(axis=0))
        for place in range(len(index_B)):
            height, width = sizes_B2[place]
            left, top, right, bottom = crops.windows_B4[place]
            row = int(index_B[place])
            try:
                photo_CHW, boxes_B4[place] = self.boxed(row, int(scenes_B[place]))
            except UserError as error:
                unreadable[place] = self.dataset.names[row], str(error)
                continue
            photo_CHW = photo_CHW[:, top:bottom, left:right]
            if photo_CHW.shape[1:] != (height, width):
                whole_1CHW = photo_CHW[None].contiguous()  # a third faster than from a window
                size = (int(height), int(width))
                photo_CHW = interpolate(whole_1CHW, size, mode="bilinear", antialias=True)[0]
            if crops.flips_B[place]:
                photo_CHW = photo_CHW.flip(2)
            if self.augment is not None:
                augmented = self.augment(photo_CHW.numpy(), int(seeds_B[place]))
                photo_CHW = torch.from_numpy(augmented)
            pixels_BCHW[place, :, :height, :width] = photo_CHW
        boxes_B4 = crop_boxes(boxes_B4, crops)
        boxes_B4 *= np.tile((sizes_B2 / crops.sizes_B2)[:, ::-1], 2)
        if self.augment is not None and self.augment.moves:
            boxes_B4[:] = np.nan
        if not unreadable:
            return self.batch(index_B, pixels_BCHW, sizes_B2, boxes_B4)
        kept = np.setdiff1d(np.arange(len(index_B)), list(unreadable))
        height, width = sizes_B2[kept].max(axis=0, initial=1)
        pixels_BCHW = pixels_BCHW[torch.from_numpy(kept), :, :height, :width].contiguous()
        batch = self.batch(index_B[kept], pixels_BCHW, sizes_B2[kept], boxes_B4[kept])
        batch.unreadable = dict(unreadable.values())
        return batch

    def make_lazy(self, index_B: np.ndarray) -> Batch:
        """Make a batch of photos that are read by region when they are needed."""
        folder, names, sizes = self.dataset.folder, self.dataset.names, self.dataset.sizes
        photos = [
            LazyPhoto(folder / names[row], self.dataset.channels, tuple(sizes[row].tolist()))
            for row in index_B
        ]
        return self.batch(index_B, LazyPhotos(photos), sizes[index_B], self.dataset.boxes[index_B])

    def batch(
        self,
        index_B: np.ndarray,
        pixels_BCHW: Tensor | LazyPhotos,
        sizes_B2: np.ndarray,
        boxes_B4: np.ndarray,
    ) -> Batch:
        return Batch(
            pixels_BCHW=pixels_BCHW,
            sizes_B2=torch.from_numpy(np.ascontiguousarray(sizes_B2)),
            labels_B=torch.from_numpy(self.dataset.targets(index_B)),
            boxes_B4=torch.from_numpy(boxes_B4.astype(np.float32)),
            index_B=torch.from_numpy(index_B),
        )

    def boxed(self, row: int, scene_seed: int) -> tuple[Tensor, np.ndarray]:
        """Return pixels_CHW and box_4 of a photo before cropping, or of a new scene with it."""
        dataset = self.dataset
        if self.scenes is not None and dataset.names[row] in self.scenes.photo_of:
            scene_CHW, box_4 = self.scenes.make(dataset.names[row], (scene_seed,))
            return torch.from_numpy(scene_CHW), box_4
        scale_2 = (self.sizes_N2[row] / dataset.sizes[row])[::-1]
        return self.photo(row), dataset.boxes[row] * np.tile(scale_2, 2)

    def photo(self, row: int) -> Tensor:
        """Return pixels_CHW of a photo before cropping; the caller must not write to it."""
        dataset = self.dataset
        path = os.path.join(dataset.folder, dataset.names[row])
        place = dataset.manifest.rows[row]
        pixels_CHW = self.cache.get(place, path) if self.cache else None
        if pixels_CHW is None:
            size, stored = (tuple(sizes[row].tolist()) for sizes in (self.sizes_N2, dataset.sizes))
            if self.too_large_N[row]:
                pixels_CHW = reduced(LazyPhoto(path, dataset.channels, stored), size)
            else:
                pixels_CHW = read_photo(
                    path, photo_size=size, channels=dataset.channels, stored_size=stored,
                    content=dataset.content(row),
                )  # fmt: skip
            if self.cache:
                self.cache.put(place, path, pixels_CHW)
        return torch.from_numpy(pixels_CHW)

    def flush(self) -> None:
        """Flush new entries of the caches to disk."""
        for cache in self.caches:
            cache.flush()

    def crops(self, epoch: int, rows: Rows) -> Crops:
        """Return the crop of each photo."""
        sizes_B2 = self.sizes_N2[rows.index_B]
        if not self.train:
            return no_crops(sizes_B2)
        boxes_B4 = self.dataset.boxes[rows.index_B]
        if self.scenes is not None:  # composed anew, with the object elsewhere
            boxes_B4 = np.full_like(boxes_B4, np.nan)
        scale_B2 = (sizes_B2 / self.dataset.sizes[rows.index_B])[:, ::-1]
        boxes_B4 = boxes_B4 * np.tile(scale_B2, 2)
        drawn = self.dataset.numbered(rows)
        return random_crops(self.data, self.seed, epoch, drawn, sizes_B2, boxes_B4)

    def final_sizes(self, crops: Crops) -> np.ndarray:
        """Return (height, width) of each cropped photo in its batch."""
        if self.data.photo_size is None:
            return crops.sizes_B2
        return np.tile(np.array(self.data.photo_size, np.int64), (len(crops.flips_B), 1))


def open_as_trained(
    photo: str | Path | InMemory, config: Config, channels: int
) -> np.ndarray | LazyPhoto:
    """Open a photo with the size and channels on which a model of this config was trained.

    photo: anything that `open_photo` accepts, or a PhotoInTar.

    Raises:
        UserError: the photo cannot be read; the message names the file.
    """
    data = config.data
    if isinstance(photo, PhotoInTar):
        return read_photo(
            photo, data.short_side, data.photo_size, channels, content=photo.content()
        )
    return open_photo(
        photo,
        short_side=data.short_side,
        photo_size=data.photo_size,
        channels=channels,
        whole=config.model.needs_whole_photo,
    )


def by_region(dataset: PhotoDataset, data: DataConfig, whole: bool = False) -> bool:
    """Return whether the photos of a split are read by region.

    This is so if no option reduces them and the data set holds slides, photos too large to decode
    as a whole, or pyramids (unless the model needs whole photos).

    whole: whether the model needs the pixels of whole photos.

    Raises UserError if the model or the augmentation needs photos that do not fit in memory.
    """
    if data.short_side is not None or data.photo_size is not None or dataset.shards is not None:
        return False
    endings = {os.path.splitext(name)[1].lower() for name in dataset.names}
    changed = data.flip or data.crop_area[0] < 1 or augments(data)
    largest = dataset.manifest.sizes_M2.prod(axis=1).max()
    if whole:
        if largest > MAX_PIXELS or endings & SLIDES:
            raise UserError(f"{dataset.folder}: {TOO_LARGE}")
        return False
    if largest <= LARGE and not endings & SLIDES:
        first = [os.path.join(dataset.folder, name) for name in dataset.names[:TRIED]]
        return not changed and endings <= {".tif", ".tiff"} and any(map(is_large, first))
    if changed:
        raise UserError(
            f"{dataset.folder}: holds photos of more than {LARGE:,} pixels, which are read by"
            " region, unchanged; leave out flip, crop_area and the like, or set short_side"
        )
    return True


def kept_sizes(stored_M2: np.ndarray, data: DataConfig, train: bool) -> tuple[np.ndarray, str]:
    """Return (height, width) at which photos of these stored sizes are cached, and a cache_key.

    The sizes follow short_side and photo_size. If crops are resized to photo_size afterwards,
    photos are kept larger (MARGIN, ENOUGH), but never larger than stored.
    """
    if data.photo_size is None:
        if data.short_side is None:
            return stored_M2, "stored"
        unique_U2, which_M = np.unique(stored_M2, axis=0, return_inverse=True)
        sizes = [reduced_size(int(h), int(w), data.short_side, None) for h, w in unique_U2]
        return np.array(sizes, np.int64)[which_M.reshape(-1)], f"short{data.short_side}"
    size_2 = np.array(data.photo_size, np.int64)
    cache_key = f"size{size_2[0]}x{size_2[1]}"
    if not train or data.crop_area[0] == 1:
        return np.tile(size_2, (len(stored_M2), 1)), cache_key
    factor = min(MARGIN, data.crop_area[0] ** -0.5)
    enough_2 = np.maximum(size_2, ENOUGH * factor * size_2)
    kept_M2 = stored_M2
    for scale in (2, 4, 8):  # a JPEG is decoded at these at next to no cost
        smaller_M2 = -(-stored_M2 // scale)
        kept_M2 = np.where((smaller_M2 >= enough_2).all(axis=1)[:, None], smaller_M2, kept_M2)
    most_2 = np.ceil(factor * size_2).astype(np.int64)
    return np.minimum(kept_M2, most_2), f"{cache_key}-by{factor}"


def empty_batch(count: int, channels: int, height: int, width: int) -> Tensor:
    """Make black pixels_BCHW; in a worker, in memory that it shares with the parent, so that the
    batch is not copied."""
    shape = (count, channels, int(height), int(width))
    if torch.utils.data.get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    # as torch's default_collate does; new shared memory is zero
    storage = torch.empty(0, dtype=torch.uint8).untyped_storage()._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def augmentation(data: DataConfig, channels: int) -> Augment | None:
    """Return what changes training photos; None if no option does."""
    if not augments(data):
        return None
    from stacked_ram.data.augment import Augment  # late: albumentations

    return Augment(data, channels)


def augments(data: DataConfig) -> bool:
    """Return whether an option is on that needs albumentations."""
    return bool(data.rotate or data.rand_augment or data.colour_jitter or data.random_erasing)

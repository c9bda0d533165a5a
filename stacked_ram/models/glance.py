"""The glance: a low-resolution look at the whole photo before the first glimpse.

The context network of DRAM (Ba et al., 2015): it starts the core (or the first location), and a
policy reads its feature map, pooled into regions.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from stacked_ram.models.attention.base import Context
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.what import pooled_to
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.errors import UserError, brief


class Glance(nn.Module):
    """The whole photo at `size` -> a vector for the core and the map for the attention.

    Args:
        size: height and width that the photo is reduced to by area averaging, in pixels.
        regions: rows and columns that the map is pooled into.
        backbone: the model's backbone, shared with the retina; None: a small convolutional
            network of its own.
        stride: with a backbone, stop at its last map with cells of this many pixels; None: go
            through all of it.
        starts_core: False if the vector starts only the first location. Then the features of a
            shared backbone are detached, so that no policy gradient trains it.
        feature_size: width of the vector, that of the glimpse feature.

    Raises UserError if the map has fewer cells than there are regions, or the backbone no map of
    this stride.
    """

    def __init__(
        self,
        size: tuple[int, int],
        regions: tuple[int, int],
        *,
        channels: int,
        feature_size: int,
        backbone: Backbone | None,
        stride: int | None = None,
        starts_core: bool = True,
    ):
        super().__init__()
        self.size, self.regions, self.stride = size, regions, stride
        self.backbone = backbone
        self.detaches = backbone is not None and not starts_core
        if backbone is None:
            self.network = small_network(channels, size, regions)
            self.region_features, pooled_features = 64, 128
        elif stride is not None:
            self.stage, self.region_features = backbone.stage(stride)
            pooled_features = 2 * self.region_features
        else:
            self.region_features, pooled_features = backbone.map_features, backbone.out_features
        self.out_features = feature_size
        self.project = nn.Linear(pooled_features, feature_size)
        self.check_regions(channels)

    def forward(self, photos: PhotoBatch) -> tuple[Tensor, Context]:
        """Compute each photo's vector (B x feature_size) and regions."""
        regions_BRD, pooled = photos.glance or self.find(photos)
        pooled = pooled.detach() if self.detaches else pooled
        return self.project(pooled).relu(), Context(regions_BRD)

    def find(self, photos: PhotoBatch) -> tuple[Tensor, Tensor]:
        """Compute each photo's regions (B x R x region_features) and pooled features. With a
        frozen backbone they never change, and can be cached (data/glance_cache.py)."""
        return self.encode(photos.resized(self.size))

    def encode(self, images_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `find`'s result from photos reduced to the glance's size."""
        maps, pooled = self.map_and_pooled(images_BChw)
        return pooled_to(maps, self.regions).flatten(2).transpose(1, 2), pooled

    def map_and_pooled(self, images_BChw: Tensor) -> tuple[Tensor, Tensor]:
        if self.backbone is None:
            maps = self.network(images_BChw)
        elif self.stride is None:
            return self.backbone.map_and_pooled(images_BChw)
        else:
            maps = self.backbone.map_of_stage(images_BChw, self.stage)
        # a small object shows in the maximum long before it shows in the mean
        return maps, torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)

    @torch.no_grad()
    def check_regions(self, channels: int) -> None:
        """Raise UserError if the map has too few cells. A copy on the meta device gives its size
        without computing anything."""
        shapes = copy.deepcopy(self).to("meta").eval()
        try:
            maps, _ = shapes.map_and_pooled(torch.zeros(1, channels, *self.size, device="meta"))
        except UserError:
            raise
        except Exception as error:  # networks raise errors of many kinds
            raise UserError(
                f"glance: the backbone takes no images of {self.size[0]}x{self.size[1]} pixels"
                f" ({brief(error)}); choose another size"
            ) from None
        cells = tuple(maps.shape[2:])
        if cells[0] < self.regions[0] or cells[1] < self.regions[1]:
            raise UserError(
                f"regions: {self.regions} are more than the {cells} cells of the map of a glance"
                f" of {self.size} pixels; make glance larger or regions fewer"
            )


def small_network(channels: int, size: tuple[int, int], regions: tuple[int, int]) -> nn.Sequential:
    """Build four 3x3 convolutions with batch norm. The first three halve the image, but never to
    fewer cells than there are regions."""
    layers: list[nn.Module] = []
    widths = (channels, 32, 32, 64, 64)
    height, width = size
    for stage, (before, after) in enumerate(itertools.pairwise(widths)):
        half = (height + 1) // 2, (width + 1) // 2
        halves = stage < 3 and half[0] >= regions[0] and half[1] >= regions[1]
        height, width = half if halves else (height, width)
        layers += [
            nn.Conv2d(before, after, 3, stride=2 if halves else 1, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)

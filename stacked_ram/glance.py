"""The glance: a low-resolution look at the whole photo before the first glimpse.

The context network of DRAM (Ba et al., 2015): it starts the core (or the first location), and
its feature map, pooled into regions, is what a policy over the photo reads.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.attention.choice import Context
from stacked_ram.retina.backbone import Backbone
from stacked_ram.retina.patches import Photos


class Glance(nn.Module):
    """The whole photo at `size` -> a vector for the core and the map for the attention.

    Args:
        size: height and width that the photo is reduced to by area averaging, in pixels.
        regions: rows and columns that the map is pooled into.
        backbone: the model's backbone, shared with the retina; None: a small convolutional
            network of its own.
    """

    def __init__(
        self,
        size: tuple[int, int],
        regions: tuple[int, int],
        *,
        channels: int,
        feature_size: int,
        backbone: Backbone | None,
    ):
        super().__init__()
        self.size, self.regions = size, regions
        self.backbone = backbone
        if backbone is None:
            self.network = small_network(channels)
            self.region_features = 128
        else:
            self.region_features = backbone.out_features
        self.project = nn.Linear(self.region_features, feature_size)

    def forward(self, photos: Photos) -> tuple[Tensor, Context]:
        """One pass over each photo: its vector (B x feature_size) and its regions."""
        images_BChw = photos.resized(self.size)
        if self.backbone is None:
            maps = self.network(images_BChw)
            pooled = maps.mean((2, 3))
        else:
            maps, pooled = self.backbone.map_and_pooled(images_BChw)
        regions_BRD = functional.adaptive_avg_pool2d(maps, self.regions).flatten(2).transpose(1, 2)
        return self.project(pooled).relu(), Context(regions_BRD)


def small_network(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions with batch norm; the first three halve the image."""
    layers: list[nn.Module] = []
    widths = (channels, 32, 64, 128, 128)
    for stage, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2 if stage < 3 else 1, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)

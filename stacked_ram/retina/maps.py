"""Feature maps of the whole photo, made once: what the upper levels of a stack look at.

B photos   C channels   H W height and width of a map   L levels looked at
"""

from __future__ import annotations

import itertools

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config import nearest
from stacked_ram.errors import UserError
from stacked_ram.retina.backbone import load_weights
from stacked_ram.retina.patches import Photos


class ConvMaps(nn.Module):
    """Level s+1: convolution, batch norm, ReLU and 2x2 max pooling of level s (stack conv).

    Photos of different sizes share a batch: what lies outside a photo is kept at zero at every
    level and counts neither in the batch statistics nor in the pooling.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_levels: int,
        map_channels: int,
        kernel_size: int,
        levels: tuple[int, ...],
    ):
        super().__init__()
        self.levels = levels
        widths = [channels] + [map_channels] * (num_levels - 1)
        self.channels = [widths[level] for level in levels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, padding="same", bias=False)
            for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(MaskedBatchNorm2d(width) for width in widths[1:])

    def forward(self, photos: Photos) -> list[Photos]:
        surfaces = [photos]
        maps, sizes_B2 = normalised(photos), photos.sizes_B2
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            inside = inside_mask(sizes_B2, maps.shape[2:])
            maps = norm(convolution(maps), inside).relu()
            sizes_B2 = sizes_B2 // 2
            maps = functional.max_pool2d(maps, 2)
            maps = maps * inside_mask(sizes_B2, maps.shape[2:])
            surfaces.append(Photos(maps.float(), sizes_B2))
        return [surfaces[level] for level in self.levels]


class BackboneMaps(nn.Module):
    """The feature maps of a timm backbone (`features_only`), finest first (stack backbone)."""

    def __init__(
        self, name: str, weights: str, *, frozen: bool, num_levels: int, levels: tuple[int, ...],
        channels: int,
    ):  # fmt: skip
        super().__init__()
        self.levels = levels
        self.frozen = frozen
        if not timm.is_model(name):
            raise UserError(
                f"backbone: timm has no model `{name}`{nearest(name, timm.list_models())}"
            )
        whole = timm.create_model(name, num_classes=0)
        load_weights(whole, name, weights)
        self.mean, self.std = whole.pretrained_cfg["mean"], whole.pretrained_cfg["std"]
        available = len(whole.feature_info)
        if num_levels - 1 > available:
            raise UserError(
                f"num_levels: {name} has {available} feature maps: {available + 1} levels at most"
            )
        # "getter" cuts off the layers after the last map that is wanted
        self.network = timm.create_model(
            name,
            features_only=True,
            feature_cls="getter",
            out_indices=tuple(range(num_levels - 1)),
        )
        kept = self.network.model.state_dict()
        self.network.model.load_state_dict({key: whole.state_dict()[key] for key in kept})
        if frozen:
            self.network.requires_grad_(False).eval()
        widths = [channels, *self.network.feature_info.channels()]
        self.channels = [widths[level] for level in levels]

    def train(self, mode: bool = True) -> BackboneMaps:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, photos: Photos) -> list[Photos]:
        images = normalised(photos)
        maps = self.network(images.expand(-1, 3, -1, -1))
        surfaces = [photos, *(Photos(one.float()) for one in maps)]
        return [surfaces[level] for level in self.levels]


def normalised(photos: Photos) -> Tensor:
    """All pixels as patches would have them, B x C x H x W: zero outside each photo."""
    pixels = photos.pixels_BCHW
    if not pixels.is_floating_point():
        pixels = pixels / 255
    if photos.mean is not None:
        pixels = (pixels - photos.mean.view(-1, 1, 1)) / photos.std.view(-1, 1, 1)
    return pixels * inside_mask(photos.sizes_B2, pixels.shape[2:])


def inside_mask(sizes_B2: Tensor, shape: torch.Size) -> Tensor:
    """1 inside each photo, 0 outside it: B x 1 x H x W."""
    rows = torch.arange(shape[0], device=sizes_B2.device) < sizes_B2[:, :1]
    columns = torch.arange(shape[1], device=sizes_B2.device) < sizes_B2[:, 1:]
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics count the pixels inside the photos alone."""

    def forward(self, maps_BCHW: Tensor, inside_B1HW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_BCHW)
        maps = maps_BCHW.float()
        count = inside_B1HW.sum()
        mean_C = (maps * inside_B1HW).sum((0, 2, 3)) / count
        centred = (maps - mean_C.view(1, -1, 1, 1)) * inside_B1HW
        variance_C = centred.square().sum((0, 2, 3)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance_C * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance_C + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

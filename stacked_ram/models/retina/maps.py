"""Feature maps of the whole photo, computed once per photo: the upper levels of a stack.

B photos   C channels   H W height and width of a map   L levels looked at
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from stacked_ram.models.retina.backbone import Pretrained, as_rgb, create, load_weights
from stacked_ram.ops.exported import exporting
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.errors import UserError


class ConvMaps(nn.Module):
    """Level s+1: convolution, batch norm, ReLU and 2x2 max pooling of level s (stack conv).

    In a batch of photos of different sizes, the maps are zero outside each photo at every level,
    and count neither in the batch statistics nor in the pooling.

    levels: the levels that glimpses read (0 is the photo).
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
        least = 2 ** len(self.norms)  # a photo that is smaller has empty maps
        height, width = (max(least - side, 0) for side in maps.shape[2:])
        maps = functional.pad(maps, (0, width, 0, height))
        # a GPU always takes the general way: the host would have to wait for the sizes
        padded = not exporting() and (
            not maps.is_cpu or bool((sizes_B2 != sizes_B2.new_tensor(maps.shape[2:])).any())
        )
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            inside = inside_mask(sizes_B2, maps.shape[2:]) if padded else None
            maps = norm(convolution(maps), inside).relu()
            sizes_B2 = sizes_B2 // 2
            maps = halved(maps)
            if padded:
                maps = maps * inside_mask(sizes_B2, maps.shape[2:])
            surfaces.append(Photos(maps.float(), sizes_B2))
        return [surfaces[level] for level in self.levels]


class BackboneMaps(Pretrained):
    """The feature maps of a timm backbone (`features_only`), finest first (stack backbone).

    The photos of each size pass through the backbone separately: with padding, the maps near a
    photo's edges would depend on the other photos in the batch.
    """

    def __init__(
        self, name: str, weights: str, *, frozen: bool, num_levels: int, levels: tuple[int, ...],
        channels: int,
    ):  # fmt: skip
        import timm

        super().__init__()
        self.levels = levels
        whole, options = create(name)
        load_weights(whole, name, weights, options)
        self.mean, self.std = whole.pretrained_cfg["mean"], whole.pretrained_cfg["std"]
        available = len(whole.feature_info)
        if num_levels - 1 > available:
            raise UserError(
                f"num_levels: {name} has {available} feature maps: {available + 1} levels at most"
            )
        # "getter" cuts off the layers after the last map
        network = timm.create_model(
            name, features_only=True, feature_cls="getter",
            out_indices=tuple(range(num_levels - 1)), **options,
        )  # fmt: skip
        self.hold(network, weights, frozen)
        kept = self.network.model.state_dict()
        self.network.model.load_state_dict({key: whole.state_dict()[key] for key in kept})
        widths = [channels, *self.network.feature_info.channels()]
        self.channels = [widths[level] for level in levels]

    def forward(self, photos: Photos) -> list[Photos]:
        images = as_rgb(normalised(photos))
        if exporting():
            sizes = [list(images.shape[2:])]
        else:
            found, group_B = photos.sizes_B2.unique(dim=0, return_inverse=True)
            sizes = found.tolist()
        if len(sizes) == 1:
            height, width = sizes[0]
            maps = [Photos(made.float()) for made in self.network(images[..., :height, :width])]
        else:
            maps = self.each_size(images, sizes, group_B)
        surfaces = [photos, *maps]
        return [surfaces[level] for level in self.levels]

    def each_size(self, images: Tensor, sizes: list[list[int]], group_B: Tensor) -> list[Photos]:
        """Compute the maps of photos of several sizes, padded to the largest."""
        members = [(group_B == group).nonzero().squeeze(1) for group in range(len(sizes))]
        done = [
            self.network(images[member][..., :height, :width])
            for member, (height, width) in zip(members, sizes, strict=True)
        ]
        order = torch.cat(members).argsort()
        maps = []
        for same_level in zip(*done, strict=True):
            height = max(group.shape[2] for group in same_level)
            width = max(group.shape[3] for group in same_level)
            padded = [
                functional.pad(group, (0, width - group.shape[3], 0, height - group.shape[2]))
                for group in same_level
            ]
            sizes_G2 = group_B.new_tensor([group.shape[2:] for group in same_level])
            maps.append(Photos(torch.cat(padded)[order].float(), sizes_G2[group_B]))
        return maps


def halved(maps_BCHW: Tensor) -> Tensor:
    """2x2 max pooling; of free sizes as slices, as a pooling would ask whether they are even."""
    if not exporting():
        return functional.max_pool2d(maps_BCHW, 2)
    height, width = (side // 2 for side in maps_BCHW.shape[2:])
    rows = torch.maximum(maps_BCHW[:, :, 0::2][:, :, :height], maps_BCHW[:, :, 1::2])
    return torch.maximum(rows[..., 0::2][..., :width], rows[..., 1::2])


def normalised(photos: Photos) -> Tensor:
    """Normalise all pixels, B x C x H x W, with zeros outside each photo."""
    pixels = photos.pixels_BCHW
    if not pixels.is_floating_point():
        pixels = pixels / 255
    if photos.mean is not None and photos.std is not None:
        pixels = (pixels - photos.mean.view(-1, 1, 1)) / photos.std.view(-1, 1, 1)
    return pixels * inside_mask(photos.sizes_B2, pixels.shape[2:])


def inside_mask(sizes_B2: Tensor, shape: torch.Size) -> Tensor:
    """Make a mask, 1 inside each photo and 0 outside it: B x 1 x H x W."""
    rows = torch.arange(shape[0], device=sizes_B2.device) < sizes_B2[:, :1]
    columns = torch.arange(shape[1], device=sizes_B2.device) < sizes_B2[:, 1:]
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


class MaskedBatchNorm2d(nn.Module):
    """Batch norm whose statistics count only the pixels inside the photos, of all processes.

    It does not inherit from nn.BatchNorm2d, so that no conversion replaces it by a synchronised
    one without a mask.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps_BCHW: Tensor, inside_B1HW: Tensor | None) -> Tensor:
        """inside_B1HW: 1 inside each photo, 0 outside; None if all photos fill the batch."""
        if inside_B1HW is None and processes() == 1:
            return functional.batch_norm(
                maps_BCHW, self.running_mean, self.running_var, self.weight, self.bias,
                self.training, self.momentum, self.eps,
            )  # fmt: skip
        maps = maps_BCHW.float()
        if inside_B1HW is None:
            inside_B1HW = maps.new_ones(len(maps), 1, *maps.shape[2:])
        if self.training:
            mean_C, variance_C = self.statistics(maps, inside_B1HW)
        else:
            mean_C, variance_C = self.running_mean, self.running_var
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        shift_C = self.bias - mean_C * scale_C
        return maps * scale_C.view(1, -1, 1, 1) + shift_C.view(1, -1, 1, 1)

    def statistics(self, maps: Tensor, inside_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        count = over_processes(inside_B1HW.sum())
        mean_C = over_processes((maps * inside_B1HW).sum((0, 2, 3))) / count
        centred = (maps - mean_C.view(1, -1, 1, 1)) * inside_B1HW
        variance_C = over_processes(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            unbiased_C = variance_C * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(unbiased_C, self.momentum)
        return mean_C, variance_C


def processes() -> int:
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def over_processes(part: Tensor) -> Tensor:
    """Sum a tensor over all training processes, differentiably."""
    if processes() == 1:
        return part
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(part.clone())

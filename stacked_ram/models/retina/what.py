"""The "what" networks: the patches of one glimpse -> one vector. One class a kind of retina.

R rows (photos times rollouts)   K patches   C channels   P patch size   D width of the vector
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.models.retina.norms import keep_statistics


class DenseWhat(nn.Module):
    """The paper's: all patches flattened -> linear -> ReLU (Mnih et al., 2014, section 4)."""

    def __init__(self, *, channels: int, num_patches: int, patch_size: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(num_patches * channels * patch_size**2, out_features)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        return self.layer(patches_RKCPP.flatten(1)).relu()


class ConvWhat(nn.Module):
    """Each patch through the same three 3x3 convolutions with batch norm, then one linear layer.

    Weights are shared over the patches of a glimpse: an object is the same object at each of
    their scales. A patch's last map goes on as it is (pooled to 4 x 4: what is where) and as the
    maximum of each channel (what is anywhere): an object that a random glimpse shows off its
    middle is recognised much earlier in training.
    """

    WIDTHS = (16, 32, 64)
    MOMENTUM = 0.03  # of the running statistics: a batch counts once a step, not once

    def __init__(self, *, channels: int, num_patches: int, patch_size: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.settled = False
        """Whether training, too, normalises by the running statistics. A batch's own are those of
        one step: where a policy always looks at the same place in it, they are far from those of
        all steps, which evaluation uses."""
        layers: list[nn.Module] = []
        before, size = channels, patch_size
        for index, width in enumerate(self.WIDTHS):
            stride = 2 if index > 0 and size > 8 else 1
            layers += [
                nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width, momentum=self.MOMENTUM),
                nn.ReLU(),
            ]
            before, size = width, -(-size // stride)
        # channels last: pooling small maps is ten times as fast on a CPU
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.side = min(size, 4)
        # the last batch norm keeps the layer alive through the noise of random glimpses
        self.layer = nn.Sequential(
            nn.Linear(num_patches * before * (self.side**2 + 1), out_features, bias=False),
            RowNorm(out_features, momentum=self.MOMENTUM),
            nn.ReLU(),
        )

    def train(self, mode: bool = True) -> ConvWhat:
        super().train(mode)
        if self.settled:
            keep_statistics(self)
        return self

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        maps = patches_RKCPP.flatten(0, 1)
        layers = iter(self.convolutions)
        for convolution, norm, relu in zip(layers, layers, layers, strict=True):
            maps = relu(normalised(maps, convolution, norm))
        there = pooled_to(maps, (self.side, self.side)).permute(0, 2, 3, 1).flatten(1)
        anywhere = functional.adaptive_max_pool2d(maps, 1).flatten(1)
        features = torch.cat([there, anywhere], 1)
        return self.layer(features.view(len(patches_RKCPP), -1))


def normalised(maps_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """A convolution without a bias, then its batch norm. One that uses the statistics that it has
    is a factor and a shift a channel: these go into the weights, with the same gradients, and the
    maps are passed through once."""
    if norm.training:
        return norm(convolution(maps_BCHW))
    factor_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return functional.conv2d(
        maps_BCHW,
        convolution.weight * factor_C[:, None, None, None],
        norm.bias - norm.running_mean * factor_C,
        convolution.stride,
        convolution.padding,
    )


class RowNorm(nn.BatchNorm1d):
    """Batch norm over rows; a single row, which has no statistics of its own, takes the running
    ones."""

    def forward(self, rows_RD: Tensor) -> Tensor:
        if len(rows_RD) > 1:
            return super().forward(rows_RD)
        return functional.batch_norm(
            rows_RD, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def pooled_to(maps_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Average pooling to a given size, free where there is nothing to do."""
    if maps_BCHW.shape[2:] == size:
        return maps_BCHW
    return functional.adaptive_avg_pool2d(maps_BCHW, size)


class BackboneWhat(nn.Module):
    """Each patch through one timm backbone, weights shared over patches and steps, pooled.

    The backbone itself belongs to the model (the glance uses it too), so it is passed in.
    """

    def __init__(self, backbone: nn.Module, *, num_patches: int, combine: str):
        super().__init__()
        self.backbone = backbone
        self.combine = combine
        self.out_features = backbone.out_features * (num_patches if combine == "concat" else 1)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        rows, patches = patches_RKCPP.shape[:2]
        pooled = self.backbone(patches_RKCPP.flatten(0, 1)).view(rows, patches, -1)
        return pooled.flatten(1) if self.combine == "concat" else pooled.mean(1)

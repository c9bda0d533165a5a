"""The "what" networks: the patches of a glimpse -> one vector. A class for each kind of retina.

R rows (photos times rollouts)   K patches   C channels   P patch size   D width of the vector
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config.model import CONV_WIDTHS
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.norms import FreezableStatistics
from stacked_ram.ops.exported import exporting

STATISTICS_FREEZE_AT = 0.5  # fraction of the training


class DenseWhat(nn.Module):
    """All patches flattened -> linear -> ReLU, as in the paper (section 4)."""

    def __init__(self, *, channels: int, num_patches: int, patch_size: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(num_patches * channels * patch_size**2, out_features)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        return self.layer(patches_RKCPP.flatten(1)).relu()


class ConvWhat(FreezableStatistics):
    """Each patch through the same 3x3 convolutions with batch norm, one for each of `widths`
    (channels), then one linear layer. From the second on they halve maps wider than 8.

    Weights are shared over the patches of a glimpse: an object is the same at each of their scales.
    The last layer gets a patch's last map twice: pooled to 4 x 4 (what is where), and as the
    maximum of each channel (what is anywhere). With the maximum, objects beside the middle of a
    random glimpse are recognised much earlier in training.

    In the second half of training batch norm uses its running statistics (`anneal`): a batch's own
    are those of one step. If a policy looks at the same part of every photo in that step, they
    differ much from those of all steps, which evaluation uses (measured: results/digits.md).
    """

    MOMENTUM = 0.03  # of the running statistics, which every glimpse of a batch updates

    def __init__(
        self,
        *,
        channels: int,
        num_patches: int,
        patch_size: int,
        out_features: int,
        widths: Sequence[int] = CONV_WIDTHS,
    ):
        super().__init__()
        self.out_features = out_features
        layers: list[nn.Module] = []
        before, size = channels, patch_size
        for index, width in enumerate(widths):
            stride = 2 if index > 0 and size > 8 else 1
            layers += [
                nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width, momentum=self.MOMENTUM),
                nn.ReLU(),
            ]
            before, size = width, -(-size // stride)
        # channels last: pooling small maps is ten times as fast on a CPU
        self.convolutions = nn.Sequential(*layers)
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.side = min(size, 4)
        # the last batch norm keeps the layer alive through the noise of random glimpses
        self.layer = nn.Sequential(
            nn.Linear(num_patches * before * (self.side**2 + 1), out_features, bias=False),
            RowNorm(out_features, momentum=self.MOMENTUM),
            nn.ReLU(),
        )

    def anneal(self, progress: float) -> None:
        """Freeze the statistics from STATISTICS_FREEZE_AT of the training on."""
        frozen = progress >= STATISTICS_FREEZE_AT
        if frozen != self.frozen_statistics:
            self.frozen_statistics = frozen
            self.train(self.training)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        maps = patches_RKCPP.flatten(0, 1)
        layers: Iterator[Any] = iter(self.convolutions)  # convolution, norm and ReLU in turn
        for convolution, norm, relu in zip(layers, layers, layers, strict=True):
            maps = relu(normalised(maps, convolution, norm))
        there = pooled_to(maps, (self.side, self.side)).permute(0, 2, 3, 1).flatten(1)
        if exporting():  # ONNX has no adaptive maximum; its gradient differs where values are equal
            anywhere = maps.amax((2, 3))
        else:
            anywhere = functional.adaptive_max_pool2d(maps, 1).flatten(1)
        features = torch.cat([there, anywhere], 1)
        return self.layer(features.view(patches_RKCPP.shape[0], -1))


def normalised(maps_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Apply a convolution without bias, then its batch norm. With frozen statistics the norm is a
    factor and a shift of each channel, which are folded into the convolution (same gradients, a
    tenth of a training step saved: benchmarks/README.md)."""
    if norm.training:
        return norm(convolution(maps_BCHW))
    assert norm.running_mean is not None and norm.running_var is not None  # they are tracked
    factor_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return functional.conv2d(
        maps_BCHW,
        convolution.weight * factor_C[:, None, None, None],
        norm.bias - norm.running_mean * factor_C,
        convolution.stride,
        convolution.padding,
    )


class RowNorm(nn.BatchNorm1d):
    """Batch norm over rows. A single row has no statistics of its own and uses the running ones."""

    def forward(self, rows_RD: Tensor) -> Tensor:
        if not self.training or rows_RD.shape[0] > 1:
            return super().forward(rows_RD)
        return functional.batch_norm(
            rows_RD, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def pooled_to(maps_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce maps to this (height, width) by average pooling."""
    if maps_BCHW.shape[2:] == size:
        return maps_BCHW
    return functional.adaptive_avg_pool2d(maps_BCHW, size)


class BackboneWhat(nn.Module):
    """Each patch through one timm backbone, pooled; weights are shared over patches and steps.

    The backbone is passed in, since the glance uses it too.
    """

    def __init__(self, backbone: Backbone, *, num_patches: int, combine: str):
        super().__init__()
        self.backbone = backbone
        self.combine = combine
        self.out_features = backbone.out_features * (num_patches if combine == "concat" else 1)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        rows, patches = patches_RKCPP.shape[:2]
        pooled = self.backbone(patches_RKCPP.flatten(0, 1)).view(rows, patches, -1)
        return pooled.flatten(1) if self.combine == "concat" else pooled.mean(1)


What = DenseWhat | ConvWhat | BackboneWhat

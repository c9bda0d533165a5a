"""The "what" networks: the patches of one glimpse -> one vector. One class a kind of retina.

R rows (photos times rollouts)   K patches   C channels   P patch size   D width of the vector
"""

from __future__ import annotations

from torch import Tensor, nn


class DenseWhat(nn.Module):
    """The paper's: all patches flattened -> linear -> ReLU (Mnih et al., 2014, section 4)."""

    def __init__(self, *, channels: int, num_patches: int, patch_size: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(num_patches * channels * patch_size**2, out_features)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        return self.layer(patches_RKCPP.flatten(1)).relu()


class ConvWhat(nn.Module):
    """The patches as channels of one image through 3x3 convolutions with batch norm.

    Two convolutions, then 2x2 max pooling and twice the channels, until 4 pixels or fewer are
    left a side (three times at most); then one linear layer.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_patches: int,
        patch_size: int,
        out_features: int,
        width: int = 32,
    ):
        super().__init__()
        self.out_features = out_features
        layers: list[nn.Module] = []
        before, size = num_patches * channels, patch_size
        for stage in range(3):
            for _ in range(2):
                layers += [
                    nn.Conv2d(before, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                before = width
            if size <= 4 or stage == 2:
                break
            layers.append(nn.MaxPool2d(2))
            size //= 2
            width *= 2
        self.convolutions = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(min(size, 4))
        self.layer = nn.Linear(before * min(size, 4) ** 2, out_features)

    def forward(self, patches_RKCPP: Tensor) -> Tensor:
        maps = self.pool(self.convolutions(patches_RKCPP.flatten(1, 2)))
        return self.layer(maps.flatten(1)).relu()


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

"""Soft attention over the regions of the glance's map: differentiable end to end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stacked_ram.models.attention.base import (
    Context,
    PolicyOutput,
    RegionScorer,
    expected_centre,
    region_centres,
)


class SoftAttention(nn.Module):
    """Weights over the regions; their expected centre is the next location.

    Before the first glimpse a 1x1 convolution scores the regions without the core's state; after
    that, additive attention from the state does (Lu et al., 2017). The weighted mean of the
    regions' features goes to the core with the glimpse feature. Nothing is drawn: `sample`,
    `given_R2` and `generator` are for policies.
    """

    differentiable = True
    centres_R2: Tensor

    def __init__(self, state_features: int, *, region_features: int, regions: tuple[int, int]):
        super().__init__()
        self.regions = regions
        self.first = nn.Conv1d(region_features, 1, 1, bias=False)  # a bias changes no weight
        self.scorer = RegionScorer(region_features, state_features)
        self.register_buffer("centres_R2", region_centres(regions), persistent=False)

    def forward(
        self,
        state_BD: Tensor,
        context: Context,
        *,
        earlier: Sequence[Tensor] = (),
        sample: bool = False,
        given_R2: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PolicyOutput:
        if not earlier:
            scores_BR = self.first(context.regions_BRD.transpose(1, 2)).squeeze(1).float()
        else:
            scores_BR = self.scorer(context, state_BD)
        weights_BR = scores_BR.softmax(1)
        location_B2 = expected_centre(weights_BR, self.centres_R2)
        nothing = location_B2.new_zeros(location_B2.shape[0])
        attended = (weights_BR.unsqueeze(1) @ context.regions_BRD.float()).squeeze(1)
        return PolicyOutput(
            location_B2, location_B2, location_B2, nothing, nothing, weights_BR, attended
        )

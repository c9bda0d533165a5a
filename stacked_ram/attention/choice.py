"""What every attention returns, and the grid of regions that some of them choose among.

B rows   R regions or cells, row by row
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Context:
    """What the glance left for the attention to read: its map, pooled into regions."""

    regions_BRD: Tensor

    def repeat(self, rollouts: int) -> Context:
        return Context(self.regions_BRD.repeat_interleave(rollouts, 0))

    def select(self, rows: Tensor) -> Context:
        return Context(self.regions_BRD[rows])


@dataclass
class Choice:
    """Where to look next, and how that was decided."""

    location_B2: Tensor
    """Inside the photo: each in [-1, 1]."""
    sample_B2: Tensor
    """What was drawn, before it was clamped."""
    mean_B2: Tensor
    log_prob_B: Tensor
    """Of the sample, before it was clamped; 0 where nothing is drawn (soft attention)."""
    entropy_B: Tensor
    weights_BR: Tensor | None = None
    """Over the regions, where there are some; they sum to 1."""
    attended_BD: Tensor | None = None
    """Soft attention: the regions' features under the weights, for the core."""


def region_centres(regions: tuple[int, int]) -> Tensor:
    """(x, y) of the centres of rows x columns equal regions of the photo, R x 2."""
    rows, columns = regions
    y = (2 * torch.arange(rows) + 1) / rows - 1
    x = (2 * torch.arange(columns) + 1) / columns - 1
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)


def expected_centre(weights_BR: Tensor, centres_R2: Tensor) -> Tensor:
    """The regions' mean centre under the weights, B x 2: no matrix product, which autocast would
    round to 8 bits."""
    return (weights_BR.unsqueeze(2) * centres_R2).sum(1)


class RegionScorer(nn.Module):
    """Additive attention: one score a region from its feature and the core's state.

    score_r = w . tanh(V region_r + H state), the same weights for all regions ("Knowing When to
    Look", Lu et al., 2017, equation 6).
    """

    def __init__(self, region_features: int, state_features: int, hidden: int = 128):
        super().__init__()
        self.region = nn.Linear(region_features, hidden)
        self.state = nn.Linear(state_features, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, regions_BRD: Tensor, state_BD: Tensor) -> Tensor:
        hidden_BRH = (self.region(regions_BRD) + self.state(state_BD).unsqueeze(1)).tanh()
        return self.score(hidden_BRH).squeeze(-1).float()

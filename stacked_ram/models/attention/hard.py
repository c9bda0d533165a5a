"""Hard attention: policies over locations, trained by REINFORCE and its variants.

Called as `models.protocols.Attention`: core output (and the glance's regions) -> PolicyOutput.

B rows   R regions or cells, row by row
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stacked_ram.models.attention.base import (
    HIDDEN,
    Context,
    PolicyOutput,
    RegionScorer,
    expected_centre,
    region_centres,
)


class GaussianPolicy(nn.Module):
    """The paper's policy: a Gaussian with standard deviation `std` around the mean of a network.

    Without the glance's map, the mean is the tanh of a network of the state with one hidden layer
    (in Mnih et al., 2014, section 4, it is linear in the state). With the map (region_features
    given), the mean is the expected centre of the regions, each scored from its feature and the
    state: a pooled vector says little about where things are.

    std is in units of location (the photo is 2 wide). Over the training it changes linearly to
    `std_end`; None: it stays constant.
    """

    differentiable = False
    centres_R2: Tensor
    std: Tensor

    def __init__(
        self,
        state_features: int,
        std: float,
        *,
        std_end: float | None = None,
        region_features: int | None = None,
        regions: tuple[int, int] = (1, 1),
    ):
        super().__init__()
        self.regions = regions
        self.reads_map = region_features is not None
        if region_features is not None:
            self.scorer = RegionScorer(region_features, state_features)
            self.register_buffer("centres_R2", region_centres(regions), persistent=False)
        else:
            # near the centre at the start, and far from where the tanh is flat
            self.layers = location_network(state_features, 2)
        self.std_start, self.std_end = std, std_end
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)

    def anneal(self, progress: float) -> None:
        end = self.std_start if self.std_end is None else self.std_end
        self.std.fill_(self.std_start + (end - self.std_start) * min(max(progress, 0.0), 1.0))

    def forward(
        self,
        state_BD: Tensor,
        context: Context | None,
        *,
        sample: bool,
        given_R2: Tensor | None = None,
        earlier: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> PolicyOutput:
        weights_BR = None
        if self.reads_map:
            weights_BR = self.scorer(context, state_BD).softmax(1)
            mean_B2 = expected_centre(weights_BR, self.centres_R2)
        else:
            mean_B2 = self.layers(state_BD).float().tanh()
        if given_R2 is not None:
            sample_B2 = given_R2
        elif sample:
            noise = torch.empty_like(mean_B2).normal_(generator=generator)
            sample_B2 = (mean_B2 + self.std * noise).detach()
        else:
            sample_B2 = mean_B2
        z_B2 = (sample_B2.detach() - mean_B2) / self.std
        per_axis = math.log(2 * math.pi) + 2 * self.std.log()
        return PolicyOutput(
            location_B2=sample_B2.clamp(-1, 1),
            sample_B2=sample_B2,
            mean_B2=mean_B2,
            log_prob_B=-0.5 * (z_B2.square() + per_axis).sum(1),
            entropy_B=(1 + per_axis).expand(mean_B2.shape[0]),
            weights_BR=weights_BR,
        )


def location_network(state_features: int, out_features: int) -> nn.Sequential:
    """Build a network with one hidden layer whose output is nearly 0 at the start."""
    first, last = nn.Linear(state_features, HIDDEN), nn.Linear(HIDDEN, out_features)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), last)


class CategoricalPolicy(nn.Module):
    """A policy over the cells of a grid. With the glance's map (region_features given) a network
    scores each cell from its feature and the state; without it, another scores all from the state.

    With num_zooms (Z) over 1 it chooses a width with the place: each cell is there Z times, once
    for each width, and locations are (x, y, zoom). A cell whose centre was looked at (at its
    width), and those within `inhibition` cells of it (inhibition of return), are not drawn again
    while there are others.
    """

    differentiable = False
    centres_R2: Tensor
    grid_2: Tensor

    def __init__(
        self,
        state_features: int,
        *,
        region_features: int | None,
        regions: tuple[int, int],
        num_zooms: int = 1,
        inhibition: int = 0,
    ):
        super().__init__()
        self.regions, self.num_zooms, self.inhibition = regions, num_zooms, inhibition
        rows, columns = regions
        if region_features is not None:
            self.scorer = RegionScorer(region_features, state_features, num_zooms)
            nn.init.normal_(self.scorer.score.weight, std=0.01)  # every cell alike at the start
        else:
            self.layers = location_network(state_features, rows * columns * num_zooms)
        self.reads_map = region_features is not None
        centres_R2 = region_centres(regions).repeat_interleave(num_zooms, 0)
        if num_zooms > 1:
            zoom_R1 = torch.arange(num_zooms).repeat(rows * columns).unsqueeze(1)
            centres_R2 = torch.cat([centres_R2, zoom_R1], 1)
        self.register_buffer("centres_R2", centres_R2, persistent=False)
        self.register_buffer("grid_2", torch.tensor([columns, rows]), persistent=False)

    def cell_of(self, location_B2: Tensor) -> Tensor:
        """Return the index of the cell that a location lies in (and whose width it has)."""
        cell_B2 = ((location_B2[:, :2] + 1) / 2 * self.grid_2).floor().long()
        column_B, row_B = torch.minimum(cell_B2.clamp(min=0), self.grid_2 - 1).unbind(1)
        cell_B = row_B * self.grid_2[0] + column_B
        if self.num_zooms == 1:
            return cell_B
        return cell_B * self.num_zooms + location_B2[:, 2].long()

    def visited(self, earlier: Sequence[Tensor]) -> Tensor:
        """Return which cells' centres were looked at, or lie within `inhibition` cells of a place
        that was, B x R."""
        locations_BT12 = torch.stack([*earlier], 1).unsqueeze(2)
        far_BTR2 = (locations_BT12 - self.centres_R2).abs()
        half_cells_BTR2 = far_BTR2[..., :2] * self.grid_2
        near_BTR2 = half_cells_BTR2 < 2 * self.inhibition + 0.02
        if self.num_zooms > 1:
            near_BTR2 = torch.cat([near_BTR2, far_BTR2[..., 2:] < 0.5], 3)
        return near_BTR2.all(3).any(1)

    def forward(
        self,
        state_BD: Tensor,
        context: Context | None,
        *,
        sample: bool,
        given_R2: Tensor | None = None,
        earlier: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> PolicyOutput:
        if self.reads_map:
            scores_BR = self.scorer(context, state_BD)
        else:
            scores_BR = self.layers(state_BD).float()
        if earlier:
            visited_BR = self.visited(earlier)
            blocked = visited_BR & ~visited_BR.all(1, keepdim=True)
            scores_BR = scores_BR.masked_fill(blocked, float("-inf"))
        log_p_BR = scores_BR.log_softmax(1)
        p_BR = log_p_BR.exp()
        if given_R2 is not None:
            cell_B = self.cell_of(given_R2)
        elif sample:
            # of exponential clocks with rates p, that of cell r rings first with probability p_r;
            # torch.multinomial would make the host wait for its check of p
            clocks_BR = torch.empty_like(p_BR).exponential_(generator=generator) / p_BR
            cell_B = clocks_BR.argmin(1)
        else:
            cell_B = log_p_BR.argmax(1)
        location_B2 = self.centres_R2[cell_B]
        finite_BR = log_p_BR.masked_fill(p_BR == 0, 0.0)  # 0 log 0 = 0
        return PolicyOutput(
            location_B2=location_B2,
            sample_B2=location_B2,
            mean_B2=self.centres_R2[log_p_BR.argmax(1)],
            log_prob_B=log_p_BR.gather(1, cell_B.unsqueeze(1)).squeeze(1),
            entropy_B=-(p_BR * finite_BR).sum(1),
            weights_BR=p_BR.unflatten(1, (-1, self.num_zooms)).sum(2),
        )

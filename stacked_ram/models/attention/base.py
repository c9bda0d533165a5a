"""The output of every attention, and the regions that some of them choose from.

B rows   R regions or cells, row by row
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = 128  # width of the hidden layers of all attentions


@dataclass
class Context:
    """The glance's map, pooled into regions, as an attention reads it."""

    regions_BRD: Tensor
    keys_BRH: Tensor | None = None
    """The part of an attention's scores that does not depend on the state, computed once."""

    def read_by(self, attention: object) -> Context:
        """Add the keys for this attention, if it has a `scorer` (a RegionScorer)."""
        scorer = getattr(attention, "scorer", None)
        keys = None if scorer is None else scorer.region(self.regions_BRD)
        return Context(self.regions_BRD, keys)

    def detach(self) -> Context:
        return self._each(Tensor.detach)

    def repeat(self, rollouts: int) -> Context:
        return self._each(lambda values: values.repeat_interleave(rollouts, 0))

    def select(self, rows: Tensor) -> Context:
        return self._each(lambda values: values[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Context:
        keys = self.keys_BRH
        return Context(change(self.regions_BRD), None if keys is None else change(keys))


@dataclass
class PolicyOutput:
    """Where to look next, and how that was chosen."""

    location_B2: Tensor
    """Inside the photo: each in [-1, 1]. With a policy that chooses widths, this and the next two
    are (x, y, zoom), B x 3."""
    sample_B2: Tensor
    """The draw, before it was clamped to the photo."""
    mean_B2: Tensor
    """Mean of the policy, or its likeliest cell."""
    log_prob_B: Tensor
    """Of the sample, before it was clamped; 0 if nothing is drawn (soft attention)."""
    entropy_B: Tensor
    """Of the policy, in nats; 0 if nothing is drawn."""
    weights_BR: Tensor | None = None
    """Over the regions, if it chooses from regions; they sum to 1."""
    attended_BD: Tensor | None = None
    """Soft attention: the weighted mean of the regions' features, for the core."""

    def with_weights_of(self, other: PolicyOutput) -> PolicyOutput:
        """Return this location with another output's weights over the regions."""
        return dataclasses.replace(self, weights_BR=other.weights_BR, attended_BD=other.attended_BD)


def fixed_location(
    like_RD: Tensor,
    draw: bool,
    given_R2: Tensor | None,
    generator: torch.Generator | None,
    num_zooms: int = 1,
) -> PolicyOutput:
    """Return a location that no attention chose: the given one, a random one (uniform over the
    photo), or the centre. like_RD: any tensor with the rows first. num_zooms: widths that a
    location comes with; where none is given it is a random one, or the middle one."""
    location = like_RD.new_zeros(like_RD.shape[0], 2, dtype=torch.float32)
    if given_R2 is not None:
        location = given_R2
    elif draw:
        # in place: torch.compile cannot trace torch.rand with a generator and a free shape
        location.uniform_(-1, 1, generator=generator)
    nothing = like_RD.new_zeros(like_RD.shape[0], dtype=torch.float32)
    if num_zooms > 1 and draw and given_R2 is None:
        zoom_R1 = nothing.new_empty(len(nothing), 1).uniform_(0, num_zooms, generator=generator)
        location = torch.cat([location, zoom_R1.floor().clamp(max=num_zooms - 1)], 1)
    location = with_zooms(location, num_zooms)
    inside = torch.cat([location[:, :2].clamp(-1, 1), location[:, 2:]], 1)
    return PolicyOutput(inside, location, inside, nothing, nothing)


def with_zooms(locations: Tensor, num_zooms: int) -> Tensor:
    """Return locations, ... x 2, with the middle width, ... x 3, if there are several widths and
    they have none."""
    if num_zooms == 1 or locations.shape[-1] == 3:
        return locations
    middle = torch.full_like(locations[..., :1], num_zooms // 2)
    return torch.cat([locations, middle], -1)


def region_centres(regions: tuple[int, int]) -> Tensor:
    """Return (x, y) of the centres of rows x columns equal regions of the photo, R x 2."""
    rows, columns = regions
    y = (2 * torch.arange(rows) + 1) / rows - 1
    x = (2 * torch.arange(columns) + 1) / columns - 1
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)


def expected_centre(weights_BR: Tensor, centres_R2: Tensor) -> Tensor:
    """Return the weighted mean of the regions' centres, B x 2. (No matrix product: autocast would
    round it to 8 bits.)"""
    return (weights_BR.unsqueeze(2) * centres_R2).sum(1)


class RegionScorer(nn.Module):
    """Additive attention: a score for each region from its feature and the core's state.

    score_r = w . tanh(V region_r + H state), the same weights for all regions ("Knowing When to
    Look", Lu et al., 2017, equation 6). scores: how many each region gets; those of a region follow
    each other.
    """

    def __init__(self, region_features: int, state_features: int, scores: int = 1):
        super().__init__()
        self.region = nn.Linear(region_features, HIDDEN)
        self.state = nn.Linear(state_features, HIDDEN, bias=False)
        self.score = nn.Linear(HIDDEN, scores, bias=False)

    def forward(self, context: Context, state_BD: Tensor) -> Tensor:
        keys_BRH = context.keys_BRH
        if keys_BRH is None:
            keys_BRH = self.region(context.regions_BRD)
        hidden_BRH = (keys_BRH + self.state(state_BD).unsqueeze(1)).tanh()
        return self.score(hidden_BRH).flatten(1).float()

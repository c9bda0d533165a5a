"""What a model would have believed if one glimpse had been elsewhere, or had not been taken.

Exactly one thing changes. A glimpse is *forced* to another place: those before and after it stay at
the places of the model's own path. Or it is *hidden*: the core gets the others alone. With soft
attention a forced glimpse moves, and the regions that are attended at that step stay as they are;
a hidden step takes both away, and later steps attend anew.

A glimpse's feature depends on its place (and width) alone. So each place is looked at once,
whichever glimpse is forced there, and only the core runs again. With a policy that chooses widths,
a forced glimpse keeps its width, and each place is looked at for each glimpse.

B photos   R rows   T steps   S levels   G places   N classes   D features
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stacked_ram.models.attention.base import region_centres
from stacked_ram.models.attention.hard import CategoricalPolicy
from stacked_ram.models.level import Level, boxes_read
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.retina import View
from stacked_ram.models.state import LoopState
from stacked_ram.ops.photo_batch import PhotoBatch

ROWS = 1024  # glimpses that are taken at once


@dataclass
class WhatIf:
    """Class scores of a batch of photos, before the softmax. "At the end": after all glimpses."""

    grid: tuple[int, int]
    """Rows and columns of the places, which cover the photo row by row."""
    own_BKN: Tensor
    """On the model's own path: before the first glimpse (of the glance, where it starts the core),
    and after each; K = T + 1."""
    forced_BTGN: Tensor
    """At the end, with glimpse t at place g."""
    hidden_BTN: Tensor
    """At the end, without glimpse t."""
    locations_BTS2: Tensor
    boxes_BTSK4: Tensor
    """What the model's own glimpses read, in pixels of the photo; K patches."""


def grid_of(model: RAM, size: tuple[int, int], places: int) -> tuple[int, int]:
    """Rows and columns of at most `places` places on a photo of this (height, width): the cells
    that a policy chooses from, or else about square ones."""
    policy = model.levels[-1].attention
    if isinstance(policy, CategoricalPolicy):
        return policy.regions
    height, width = size
    columns = min(max(round(math.sqrt(places * width / height)), 1), places)
    return places // columns, columns


@torch.no_grad()
def what_if(
    model: RAM, photos: PhotoBatch, grid: tuple[int, int], num_glimpses: int | None = None
) -> WhatIf:
    """Look at photos on the model's own path, and again with each glimpse at each place of the
    grid, and without it. num_glimpses: at each photo; default: the model's."""
    states = list(model.steps(photos, sample=False, num_glimpses=num_glimpses))
    end, smooth = states[-1], not model.has_policy
    path_BTS2 = torch.stack([torch.stack(levels, 1) for levels in end.earlier], 1)
    centres_G2 = region_centres(grid).to(path_BTS2)
    shape = len(path_BTS2), len(centres_G2), len(model.levels), 2
    places_BGS2 = centres_G2[:, None].expand(shape)
    own = features(model, end.views, path_BTS2)
    there = features(model, end.views, places_BGS2) if model.num_zooms == 1 else []
    many = places_BGS2.shape[1]
    path_RTS2 = path_BTS2.repeat_interleave(many, 0)
    own_R = [feature.repeat_interleave(many, 0) for feature in own]
    forced, hidden = [], []
    for step, state in enumerate(states[:-1]):
        later = slice(step + 1, None)
        if model.num_zooms > 1:  # as wide as the glimpse that is forced there
            wide = path_BTS2[:, step, None, :, 2:].expand(*shape[:3], 1)
            places_BGS2 = torch.cat([places_BGS2[..., :2], wide], 3)
            there = features(model, end.views, places_BGS2)
        moved = take(
            model,
            state.repeat(many),
            places_BGS2.flatten(0, 1)[:, None],
            [feature.flatten(0, 1)[:, None] for feature in there],
        )
        moved = take(model, moved, path_RTS2[:, later], [each[:, later] for each in own_R])
        forced.append(model.scores(moved.outputs[-1]).unflatten(0, (-1, many)))
        without = take(model, state, path_BTS2[:, later], [each[:, later] for each in own])
        hidden.append(model.scores(without.outputs[-1]))
    return WhatIf(
        grid,
        torch.stack([model.scores(state.outputs[-1]) for state in states], 1),
        torch.stack(forced, 1),
        torch.stack(hidden, 1),
        path_BTS2[..., :2],
        boxes_read(model.levels, end.views, end.earlier, smooth),
    )


def features(model: RAM, views: list[View], locations_BGS2: Tensor) -> list[Tensor]:
    """The glimpse feature of each level at G locations of each photo, B x G x D."""
    together = max(1, ROWS // len(locations_BGS2))

    def of_level(level: Level, view: View, locations_BG2: Tensor) -> Tensor:
        parts = [
            level.retina(view, some_Bg2.flatten(0, 1), not model.has_policy)[0].unflatten(
                0, some_Bg2.shape[:2]
            )
            for some_Bg2 in locations_BG2.split(together, 1)
        ]
        return torch.cat(parts, 1)

    return [
        of_level(level, view, locations_BGS2[:, :, index])
        for index, (level, view) in enumerate(zip(model.levels, views, strict=True))
    ]


def take(
    model: RAM, state: LoopState, locations_RTS2: Tensor, features_S: Sequence[Tensor]
) -> LoopState:
    """The state after further glimpses whose locations and features (R x T x D for each level) are
    given."""
    for step in range(locations_RTS2.shape[1]):
        # `centre` takes given places as they are; a policy over cells would round them
        chosen = model.choose(state, "centre", given_RS2=locations_RTS2[:, step])
        state = model.integrate(state, chosen, [(each[:, step], []) for each in features_S])
    return state

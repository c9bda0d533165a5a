"""A level: one retina with its own core and attention; and what all levels do in turn.

R rows (photo-major)   T steps   S levels   K patches   D features
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from stacked_ram.models.attention.base import PolicyOutput, fixed_location
from stacked_ram.models.core import State
from stacked_ram.models.protocols import Attention, Core, Retina
from stacked_ram.models.retina.retina import View
from stacked_ram.models.state import LoopState
from stacked_ram.ops.activation_checkpointing import checkpointed

Glimpse = tuple[Tensor, list[Tensor]]  # the glimpse feature, and the patches of each surface


class Level(nn.Module):
    """One level of the model. attention: None if the top level of a stack chooses for all."""

    def __init__(self, retina: Retina, core: Core, attention: Attention | None):
        super().__init__()
        self.retina, self.core, self.attention = retina, core, attention

    def choose(
        self,
        state: LoopState,
        index: int,
        source: str,
        sample: bool,
        given_R2: Tensor | None,
        smooth: bool,
        generator: torch.Generator | None,
    ) -> PolicyOutput:
        """Choose the next location of this level, which is number `index`.

        source: `policy` (the attention, hard or soft), `centre` or `random`. given_R2 replaces the
        draw. Soft attention draws nothing: a location that is not its own moves the glimpse, but
        leaves its weights and the attended regions as they are.
        """
        assert self.attention is not None  # RAM asks only levels that have an attention
        soft = self.attention.differentiable
        fixed = source != "policy" or (soft and given_R2 is not None)
        if fixed:
            draw = source == "random"
            location = fixed_location(
                state.outputs[0], draw, given_R2, generator, num_zooms_of(self.attention)
            )
            if not soft:
                return location
        # a policy reads a detached state, except the glance's features before the first glimpse,
        # which only the policy gradient trains
        input_RD = state.policy_inputs[index]
        if not soft and not smooth and state.glance_RD is None:
            input_RD = input_RD.detach()
        output = self.attention(
            input_RD,
            None if state.contexts is None else state.contexts[index],
            sample=sample,
            given_R2=given_R2,
            earlier=[locations[index] for locations in state.earlier],
            generator=generator,
        )
        return location.with_weights_of(output) if fixed else output


def num_zooms_of(attention: Attention | None) -> int:
    """Return how many widths an attention chooses from; one of your own may have no `num_zooms`."""
    return getattr(attention, "num_zooms", 1)


def glimpse(
    levels: Iterable[Level],
    views: list[View],
    chosen: list[PolicyOutput],
    smooth: bool,
    recompute: bool = False,
) -> list[Glimpse]:
    """Take a glimpse at each level. recompute: again in the backward pass, to save memory."""
    glimpses = []
    for level, view, output in zip(levels, views, chosen, strict=True):
        look = partial(level.retina, view, smooth=smooth)
        location_R2 = output.location_B2 if smooth else output.location_B2.detach()
        if recompute:
            glimpses.append(checkpointed(look, location_R2, level))
        else:
            glimpses.append(look(location_R2))
    return glimpses


def glimpse_ahead(
    levels: Iterable[Level], views: list[View], chosen_T: list[list[PolicyOutput]], smooth: bool
) -> list[list[Glimpse]]:
    """Take the glimpses of all steps in one batch. Returns, for each step, those of the levels."""
    levels_T = []
    for index, (level, view) in enumerate(zip(levels, views, strict=True)):
        locations_RT2 = torch.stack([chosen[index].location_B2 for chosen in chosen_T], 1)
        feature, patches = level.retina(view, locations_RT2.flatten(0, 1), smooth)
        parts = [
            values.unflatten(0, locations_RT2.shape[:2]).unbind(1) for values in (feature, *patches)
        ]
        levels_T.append([(feature, read) for feature, *read in zip(*parts, strict=True)])
    return [list(glimpses) for glimpses in zip(*levels_T, strict=True)]


def boxes_read(
    levels: Iterable[Level], views: list[View], locations: list[list[Tensor]], smooth: bool
) -> Tensor:
    """Return the boxes that were read, R x T x S x K x 4, in pixels of the photo. locations: for
    each step those of the levels, R x 2."""
    boxes = []
    for level, view, steps in zip(levels, views, zip(*locations, strict=True), strict=True):
        locations_RT2 = torch.stack(steps, 1).detach()
        read = level.retina.boxes(view, locations_RT2.flatten(0, 1), smooth)
        boxes.append(read.unflatten(0, locations_RT2.shape[:2]))
    return torch.stack(boxes, 2)


def run_cores(
    levels: Iterable[Level], features: list[Tensor], states: list[State]
) -> tuple[list[Tensor], list[State]]:
    """Run every level's core for one step, from the lowest up: each takes its own feature and the
    output of the level below. Returns outputs and states."""
    outputs: list[Tensor] = []
    later = []
    for level, feature, state in zip(levels, features, states, strict=True):
        if outputs:
            feature = torch.cat([feature, outputs[-1].to(feature.dtype)], 1)
        output, state = level.core(feature, state)
        outputs.append(output)
        later.append(state)
    return outputs, later

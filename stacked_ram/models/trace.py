"""The trace: everything that one forward pass did, with named fields.

B rows: photos times rollouts, photo-major (rows b*M to b*M+M-1 looked at photo b)
T steps   S levels (1 without `stack: rnn`)   N classes   K patches of P x P   R regions
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stacked_ram.models.attention.base import PolicyOutput


@dataclass
class Trace:
    logits_BTN: Tensor
    """Class scores after each step; softmax gives the belief."""
    locations_BTS2: Tensor
    """Where each glimpse looked, (x, y) in [-1, 1]."""
    samples_BTS2: Tensor
    """What the policy drew, before it was clamped to the photo (the location, where it drew
    nothing)."""
    means_BTS2: Tensor
    """Centre of the policy each location was drawn from (the location, where it drew nothing)."""
    log_probs_BTS: Tensor
    """Log-probability of the sample under the policy; 0 where it drew nothing (of levels that
    share a location, the top one draws it)."""
    entropies_BTS: Tensor
    """Entropy of the policy; 0 where it drew nothing."""
    baselines_BT: Tensor
    """Return expected from each step on, told from what was known before its glimpse."""
    first_chosen: int
    """The first step whose location the policy chose, as it did from there on (no random or forced
    one); T where it chose none."""
    boxes_BTSK4: Tensor | None
    """Boxes that were read, (left, top, right, bottom) in pixels of the photo; None in training,
    where nothing asks for them."""
    read_B: Tensor | None
    """Share of the photo's pixels inside any of those boxes, 0 to 1 (an upper bound: boxes of
    different steps may overlap); None with them."""
    rollouts: int = 1
    glance_logits_BN: Tensor | None = None
    """Class scores after the glance alone, where there is one that starts the core."""
    region_weights_BTR: Tensor | None = None
    """Soft attention, and policies over cells: weights over the regions before each glimpse."""
    stop_logits_BT: Tensor | None = None
    """Learned stop: score for stopping after each step."""
    patches_BTSKCPP: Tensor | None = None
    """On request: the patches as the network got them, normalised."""
    map_patches_BTKCPP: list[Tensor] | None = None
    """On request: the patches cut from each surface, the photo or (stack conv, backbone) the
    feature maps that are looked at; one tensor a surface."""

    @property
    def chosen(self) -> slice:
        """The steps whose location the policy chose."""
        return slice(self.first_chosen, None)

    @property
    def chosen_T(self) -> tuple[bool, ...]:
        """Of each step, whether the policy chose its location."""
        return tuple(step >= self.first_chosen for step in range(self.logits_BTN.shape[1]))

    def detach(self) -> Trace:
        """The same trace without its graph."""

        def detached(value: Any) -> Any:
            if isinstance(value, list):
                return [each.detach() for each in value]
            return value.detach() if isinstance(value, Tensor) else value

        names = [each.name for each in dataclasses.fields(self)]
        return Trace(**{name: detached(getattr(self, name)) for name in names})


@dataclass
class Step:
    """One step, while the trace is being made."""

    policy_outputs: list[PolicyOutput]
    """Of each level."""
    patches: list[list[Tensor]] | None
    """Of each level, its surfaces' patches, B x K x C x P x P."""


@dataclass
class Heads:
    """What is computed from the core's outputs, for all steps at once."""

    logits_BTN: Tensor
    baselines_BT: Tensor
    stop_logits_BT: Tensor | None


def assemble(
    steps: list[Step],
    heads: Heads,
    boxes_BTSK4: Tensor | None,
    sizes_B2: Tensor,
    rollouts: int,
    glance_logits_BN: Tensor | None,
    first_chosen: int,
) -> Trace:
    """The trace of these steps. sizes_B2: (height, width) of the photos, one row a photo."""

    def stacked(name: str) -> Tensor:
        """A field of the policy outputs, B x T x S."""
        values = [getattr(output, name) for step in steps for output in step.policy_outputs]
        return torch.stack(values, 1).unflatten(1, (len(steps), -1))

    log_probs, entropies = stacked("log_prob_B"), stacked("entropy_B")
    first, *others = steps[0].policy_outputs
    if others and all(output is first for output in others):
        # the top level decides for all levels: the probability of its decision counts once
        below = torch.arange(log_probs.shape[2], device=log_probs.device) < log_probs.shape[2] - 1
        log_probs = log_probs.masked_fill(below, 0.0)
        entropies = entropies.masked_fill(below, 0.0)
    return Trace(
        logits_BTN=heads.logits_BTN,
        locations_BTS2=stacked("location_B2"),
        samples_BTS2=stacked("sample_B2"),
        means_BTS2=stacked("mean_B2"),
        log_probs_BTS=log_probs,
        entropies_BTS=entropies,
        baselines_BT=heads.baselines_BT,
        first_chosen=first_chosen,
        boxes_BTSK4=boxes_BTSK4,
        read_B=None
        if boxes_BTSK4 is None
        else share_read(boxes_BTSK4, sizes_B2.repeat_interleave(rollouts, 0)),
        rollouts=rollouts,
        glance_logits_BN=glance_logits_BN,
        region_weights_BTR=region_weights(steps),
        stop_logits_BT=heads.stop_logits_BT,
        patches_BTSKCPP=None
        if steps[0].patches is None
        else torch.stack(
            [torch.stack([level[0] for level in step.patches], 1) for step in steps], 1
        ),
        map_patches_BTKCPP=None
        if steps[0].patches is None
        else [
            torch.stack(seen, 1) for seen in zip(*(step.patches[0] for step in steps), strict=True)
        ],
    )


def region_weights(steps: list[Step]) -> Tensor | None:
    """B x T x R; zeros at a step whose location was not chosen by weights over the regions."""
    weights = [step.policy_outputs[-1].weights_BR for step in steps]
    like = next((each for each in weights if each is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if each is None else each for each in weights], 1)


def share_read(boxes_BTSK4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Share of each photo's pixels that its boxes cover, at most 1.

    The widest box of each step and level counts (the others lie inside it), cut at the photo's
    edges; boxes of different steps may overlap, so this is an upper bound.
    """
    left, top, right, bottom = boxes_BTSK4.unbind(-1)
    height, width = (side.view(-1, 1, 1, 1) for side in sizes_B2.unbind(1))
    across = (torch.minimum(right, width) - left.clamp(min=0)).clamp(min=0)
    down = (torch.minimum(bottom, height) - top.clamp(min=0)).clamp(min=0)
    pixels_B = (across * down).amax(-1).sum((1, 2))
    return (pixels_B / sizes_B2.prod(1)).clamp(max=1.0)

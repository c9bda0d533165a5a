"""The trace: everything that one forward pass did, as named fields.

B rows: photos times rollouts, photo-major (rows b*M to b*M+M-1 are those of photo b)
T steps   S levels (1 without `stack: rnn`)   N classes   K patches of P x P   R regions
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stacked_ram.models.attention.base import PolicyOutput


@dataclass
class Trace:
    logits_BTN: Tensor
    """Class scores after each step; softmax (with several labels, sigmoid) gives the belief."""
    locations_BTS2: Tensor
    """Where each glimpse looked, (x, y) in [-1, 1]."""
    samples_BTS2: Tensor
    """The draw of the policy, before it was clamped to the photo; the location if nothing was
    drawn. With num_zooms over 1 this and the next are (x, y, zoom)."""
    means_BTS2: Tensor
    """Mean of the policy that each location was drawn from; the location if nothing was drawn."""
    log_probs_BTS: Tensor
    """Log-probability of the sample under the policy; 0 if nothing was drawn (only the top one of
    levels that share a location draws)."""
    entropies_BTS: Tensor
    """Entropy of the policy; 0 if nothing was drawn."""
    baselines_BT: Tensor
    """Return that is expected from each step on, predicted before its glimpse."""
    first_chosen: int
    """The step from which on the policy chose the locations (neither random nor given ones); T if
    it chose none."""
    boxes_BTSK4: Tensor | None
    """Boxes that were read, (left, top, right, bottom) in pixels of the photo; None in training."""
    read_B: Tensor | None
    """Fraction of the photo's pixels inside those boxes, 0 to 1 (an upper bound: boxes of
    different steps may overlap); None in training."""
    rollouts: int = 1
    zooms_BTS: Tensor | None = None
    """With num_zooms over 1: which of the widths each glimpse had, 0 the narrowest."""
    glance_logits_BN: Tensor | None = None
    """Class scores after the glance alone, if it starts the core."""
    region_weights_BTR: Tensor | None = None
    """Weights over the regions before each glimpse (soft attention, policies that read a map)."""
    stop_logits_BT: Tensor | None = None
    """Learned stop: score for stopping after each step."""
    patches_BTSKCPP: Tensor | None = None
    """On request: the patches as the network got them, normalised."""
    multi_label: bool = False
    """Whether a photo may have several classes."""
    map_patches_BTKCPP: list[Tensor] | None = None
    """On request: the patches cut from each surface of the lowest level: the photo, or (stack conv,
    backbone) the feature maps; a tensor for each surface."""

    @property
    def chosen(self) -> slice:
        """The steps whose location the policy chose."""
        return slice(self.first_chosen, None)

    @property
    def chosen_T(self) -> tuple[bool, ...]:
        """For each step, whether the policy chose its location."""
        return tuple(step >= self.first_chosen for step in range(self.logits_BTN.shape[1]))


@dataclass
class Heads:
    """The outputs that are computed from those of the core, for all steps at once."""

    logits_BTN: Tensor
    baselines_BT: Tensor
    stop_logits_BT: Tensor | None


def assemble(
    outputs_TS: list[list[PolicyOutput]],
    patches_TS: list[list[list[Tensor]]],
    heads: Heads,
    boxes_BTSK4: Tensor | None,
    sizes_B2: Tensor,
    rollouts: int,
    glance_logits_BN: Tensor | None,
    first_chosen: int,
    multi_label: bool = False,
) -> Trace:
    """Make a trace of what each step and level did. patches_TS: those of each surface, or empty.
    sizes_B2: (height, width) of the photos, one row per photo."""

    def stacked(name: str) -> Tensor:
        """Stack a field of the policy outputs, B x T x S."""
        values = [getattr(output, name) for outputs_S in outputs_TS for output in outputs_S]
        return torch.stack(values, 1).unflatten(1, (len(outputs_TS), -1))

    log_probs, entropies = stacked("log_prob_B"), stacked("entropy_B")
    locations = stacked("location_B2")
    first, *others = outputs_TS[0]
    if others and all(output is first for output in others):
        # the top level chooses for all levels: the probability of its choice counts once
        below = torch.arange(log_probs.shape[2], device=log_probs.device) < log_probs.shape[2] - 1
        log_probs = log_probs.masked_fill(below, 0.0)
        entropies = entropies.masked_fill(below, 0.0)
    return Trace(
        logits_BTN=heads.logits_BTN,
        locations_BTS2=locations[..., :2],
        samples_BTS2=stacked("sample_B2"),
        means_BTS2=stacked("mean_B2"),
        log_probs_BTS=log_probs,
        entropies_BTS=entropies,
        baselines_BT=heads.baselines_BT,
        first_chosen=first_chosen,
        boxes_BTSK4=boxes_BTSK4,
        read_B=None
        if boxes_BTSK4 is None
        else fraction_read(boxes_BTSK4, sizes_B2.repeat_interleave(rollouts, 0)),
        rollouts=rollouts,
        zooms_BTS=locations[..., 2].long() if locations.shape[-1] == 3 else None,
        glance_logits_BN=glance_logits_BN,
        region_weights_BTR=region_weights(outputs_TS),
        stop_logits_BT=heads.stop_logits_BT,
        multi_label=multi_label,
        patches_BTSKCPP=torch.stack(
            [torch.stack([surfaces[0] for surfaces in step], 1) for step in patches_TS], 1
        )
        if patches_TS
        else None,
        map_patches_BTKCPP=[
            torch.stack(read, 1) for read in zip(*(step[0] for step in patches_TS), strict=True)
        ]
        if patches_TS
        else None,
    )


def region_weights(outputs_TS: list[list[PolicyOutput]]) -> Tensor | None:
    """Stack the top level's weights over the regions, B x T x R; zeros at steps without any."""
    weights = [outputs[-1].weights_BR for outputs in outputs_TS]
    like = next((each for each in weights if each is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if each is None else each for each in weights], 1)


def fraction_read(boxes_BTSK4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Compute the fraction of each photo's pixels that its boxes cover, at most 1.

    The widest box of each step and level counts (the others lie inside it), cut at the photo's
    edges; boxes of different steps may overlap, so this is an upper bound.
    """
    left, top, right, bottom = boxes_BTSK4.unbind(-1)
    height, width = (side.view(-1, 1, 1, 1) for side in sizes_B2.unbind(1))
    across = (torch.minimum(right, width) - left.clamp(min=0)).clamp(min=0)
    down = (torch.minimum(bottom, height) - top.clamp(min=0)).clamp(min=0)
    pixels_B = (across * down).amax(-1).sum((1, 2))
    return (pixels_B / sizes_B2.prod(1)).clamp(max=1.0)

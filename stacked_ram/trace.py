"""The trace: everything that one forward pass did, with named fields.

    B rows: photos times rollouts, photo-major (rows b*M to b*M+M-1 looked at photo b)
    T steps   S levels (1 without `stack: rnn`)   N classes   K patches of P x P   R regions
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor


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
    """Log-probability of the sample under the policy; 0 where it drew nothing."""
    entropies_BTS: Tensor
    """Entropy of the policy; 0 where it drew nothing."""
    baselines_BT: Tensor
    """Return expected from each step on, told from what was known before its glimpse."""
    chosen_T: tuple[bool, ...]
    """Whether the policy chose the location of a step (not a random or forced one)."""
    boxes_BTSK4: Tensor
    """Boxes that were read, (left, top, right, bottom) in pixels of the photo."""
    read_B: Tensor
    """Share of the photo's pixels inside any of those boxes, 0 to 1 (an upper bound: boxes of
    different steps may overlap)."""
    rollouts: int = 1
    glance_logits_BN: Tensor | None = None
    """Class scores after the glance alone, where there is one that starts the core."""
    region_weights_BTR: Tensor | None = None
    """Soft attention, and policies over cells: weights over the regions before each glimpse."""
    stop_logits_BT: Tensor | None = None
    """Learned stop: score for stopping after each step."""
    patches_BTSKCPP: Tensor | None = None
    """On request: the patches as the network got them, normalised."""
    map_patches_BTLCPP: list[Tensor] | None = None
    """On request, stack conv and backbone: the patches cut from each level's feature map."""

    def detach(self) -> Trace:
        """The same trace without its graph."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return Trace(
            **{
                name: value.detach() if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
        )

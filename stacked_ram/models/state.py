"""The state of the model between two glimpses.

R rows = photos times rollouts   S levels   D features   N classes
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from stacked_ram.models.attention.base import Context, PolicyOutput
from stacked_ram.models.core import State
from stacked_ram.models.retina.retina import View


@dataclass
class LoopState:
    """The state that `RAM.steps` yields before the first glimpse (step 0) and after each. Lists
    have an entry for each level, except `earlier`."""

    views: list[View]
    """The work that is done once per photo."""
    core_states: list[State]
    outputs: list[Tensor]
    """The cores' last outputs, R x D; zeros before the first glimpse."""
    contexts: list[Context] | None = None
    """The regions of the glance that each attention reads; None without a glance."""
    glance_logits_RN: Tensor | None = None
    """Class scores after the glance alone, if it starts the core."""
    glance_RD: Tensor | None = None
    """The input of the policies before the first glimpse, if the glance starts only the first
    location; None after the first glimpse."""
    policy_outputs: list[PolicyOutput] = field(default_factory=list)
    """How the location of the last glimpse was chosen."""
    patches: list[list[Tensor]] = field(default_factory=list)
    """The patches of the last glimpse, for each level those of each surface, R x K x C x P x P."""
    earlier: list[list[Tensor]] = field(default_factory=list)
    """For each step so far, the locations of the levels, R x 2."""

    @property
    def step(self) -> int:
        """Glimpses taken so far."""
        return len(self.earlier)

    @property
    def rows(self) -> int:
        return self.outputs[0].shape[0]

    @property
    def policy_inputs(self) -> list[Tensor]:
        """The input of each level's policy, R x D; the baseline reads that of the top level."""
        return self.outputs if self.glance_RD is None else [self.glance_RD] * len(self.outputs)

    def empty_cores(self, rows_R: Tensor) -> None:
        """Set outputs and states of some rows (a mask) to zero, as before the glance. (The
        transformer's state keeps a token of zeros.)"""

        def emptied(values: Tensor) -> Tensor:
            return values.masked_fill(rows_R.view(-1, *[1] * (values.ndim - 1)), 0.0)

        self.outputs = [emptied(output) for output in self.outputs]
        self.core_states = [tuple(emptied(part) for part in parts) for parts in self.core_states]

    def keep(self, rows_r: Tensor) -> None:
        """Keep only these rows (indices; one row per photo), for early exit."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows_r]

        self.views = [view.select(rows_r) for view in self.views]
        self.core_states = [tuple(part[rows_r] for part in parts) for parts in self.core_states]
        self.outputs = [output[rows_r] for output in self.outputs]
        self.contexts = self.contexts and [context.select(rows_r) for context in self.contexts]
        self.glance_logits_RN, self.glance_RD = some(self.glance_logits_RN), some(self.glance_RD)
        self.earlier = [[location[rows_r] for location in levels] for levels in self.earlier]

    def repeat(self, times: int) -> LoopState:
        """Return this state with each row `times` times, next to each other. The views, which have
        a row for each photo, stay as they are."""

        def more(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(times, 0)

        return dataclasses.replace(
            self,
            core_states=[
                tuple(part.repeat_interleave(times, 0) for part in parts)
                for parts in self.core_states
            ],
            outputs=[output.repeat_interleave(times, 0) for output in self.outputs],
            contexts=self.contexts and [context.repeat(times) for context in self.contexts],
            glance_logits_RN=more(self.glance_logits_RN),
            glance_RD=more(self.glance_RD),
            earlier=[
                [location.repeat_interleave(times, 0) for location in levels]
                for levels in self.earlier
            ],
        )

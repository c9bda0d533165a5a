"""Where a batch stands between two glimpses.

R rows = photos times rollouts   S levels   D features
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stacked_ram.models.attention.base import Context
from stacked_ram.models.core import State
from stacked_ram.models.retina.retina import View


@dataclass
class LoopState:
    views: list[View]
    """One a level; per photo."""
    states: list[State]
    """One a level."""
    outs: list[Tensor]
    """Each level's core's last output, R x D; zeros before the first."""
    contexts: list[Context] | None = None
    """What the glance left for each level's attention; per row."""
    hint_RD: Tensor | None = None
    """Before the first glimpse, where the glance starts the first location alone: what it says."""
    visited_RSR: Tensor | None = None
    """Categorical policy: the cells that each row has visited, a level."""
    step: int = 0

    @property
    def rows(self) -> int:
        return len(self.outs[0])

    @property
    def known(self) -> list[Tensor]:
        """What each level's attention (and of the top level's the baseline) reads: the core's last
        output, or the hint, where there is one."""
        return self.outs if self.hint_RD is None else [self.hint_RD] * len(self.outs)

    def forget(self, rows_R: Tensor) -> None:
        """Empty the cores of some rows (a mask): zeros, as before anything was seen (of a
        transformer, a token of zeros in place of what was)."""

        def emptied(values: Tensor) -> Tensor:
            return values.masked_fill(rows_R.view(-1, *[1] * (values.ndim - 1)), 0.0)

        self.outs = [emptied(out) for out in self.outs]
        self.states = [tuple(emptied(part) for part in state) for state in self.states]

    def select(self, rows_r: Tensor) -> LoopState:
        """Some rows only (one row a photo): what an early exit goes on with."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows_r]

        return LoopState(
            views=[view.select(rows_r) for view in self.views],
            states=[tuple(part[rows_r] for part in state) for state in self.states],
            outs=[out[rows_r] for out in self.outs],
            contexts=self.contexts and [context.select(rows_r) for context in self.contexts],
            hint_RD=some(self.hint_RD),
            visited_RSR=some(self.visited_RSR),
            step=self.step,
        )

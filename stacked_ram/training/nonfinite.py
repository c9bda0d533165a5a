"""Finds losses that are not finite without making the device wait in every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stacked_ram.runtime.errors import RunFailed
from stacked_ram.training.meters import Values

NAMES_SHOWN = 4
MOST_UNCHECKED = 256  # steps


class NonFiniteMonitor:
    """Keeps the values of each step on the device; `check` reads them and ends the run.

    names: file of each photo of the training split.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._unchecked: list[tuple[int, float, Tensor, tuple[str, ...], Tensor]] = []

    def note(self, step: int, lr: float, index_B: Tensor, values: Values) -> None:
        self._unchecked.append((step, lr, index_B, values.names, values.numbers_V.clone()))
        if len(self._unchecked) >= MOST_UNCHECKED:
            self.check()

    def check(self) -> None:
        """Raises RunFailed for the first step with a value that is not finite."""
        steps, self._unchecked = self._unchecked, []
        if not steps or bool(torch.cat([numbers for *_, numbers in steps]).isfinite().all()):
            return
        for step, lr, index_B, names, numbers_V in steps:
            finite = numbers_V.isfinite().tolist()
            bad = [name for name, fine in zip(names, finite, strict=True) if not fine]
            if bad:
                files = [self.names[row] for row in index_B[:NAMES_SHOWN].tolist()]
                more = len(index_B) - len(files)
                raise RunFailed(
                    f"step {step}: {', '.join(bad)} not finite at learning rate {lr:.3g}, photos"
                    f" {', '.join(files)}{f' and {more} more' if more else ''}; lower"
                    " --learning-rate, set --clip-norm, or skip such batches with"
                    " --not-finite skip"
                )

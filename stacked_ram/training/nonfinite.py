"""Notices a loss that is not finite without making the device wait in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from stacked_ram.runtime.errors import RunFailed
from stacked_ram.training.meters import Values

NAMES_SHOWN = 4
CHECK_AT_LEAST_EVERY = 256  # steps kept unread


class NotFiniteWatch:
    """Notes the values of each step on the device; `check` reads them and stops the run.

    names: file of each photo of the training split.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._noted: list[tuple[int, float, Tensor, tuple[str, ...], Tensor]] = []

    def note(self, step: int, rate: float, index_B: Tensor, values: Values) -> None:
        self._noted.append((step, rate, index_B, values.names, values.numbers_V.clone()))
        if len(self._noted) >= CHECK_AT_LEAST_EVERY:
            self.check()

    def check(self) -> None:
        """Raises RunFailed for the first step with a value that is not finite."""
        noted, self._noted = self._noted, []
        if not noted or bool(torch.cat([numbers for *_, numbers in noted]).isfinite().all()):
            return
        for step, rate, index_B, parts, numbers_V in noted:
            fine = numbers_V.isfinite().tolist()
            bad = [part for part, whole in zip(parts, fine, strict=True) if not whole]
            if bad:
                files = [self.names[row] for row in index_B[:NAMES_SHOWN].tolist()]
                more = len(index_B) - len(files)
                raise RunFailed(
                    f"step {step}: {', '.join(bad)} not finite at learning rate {rate:.3g}, photos"
                    f" {', '.join(files)}{f' and {more} more' if more else ''}; lower"
                    " --learning-rate, set --clip-norm, or leave such batches out with"
                    " --not-finite skip"
                )

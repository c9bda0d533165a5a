"""Averages over photos, kept on the device: nothing waits for it until they are read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stacked_ram.runtime.distributed import World

Row = dict[str, float | int]  # the metrics of an epoch by name: a row of metrics.csv


class Values(NamedTuple):
    """Named numbers of a batch as one tensor, so that an operation on all of them is one kernel."""

    names: tuple[str, ...]
    numbers_V: Tensor

    @staticmethod
    def of(values: dict[str, Tensor]) -> Values:
        """From scalar tensors on one device; detached, float32."""
        return Values(
            tuple(values), torch.stack([value.detach().float() for value in values.values()])
        )


class Averages:
    """Sums of named values weighted by photos; exact over batches of any size and processes."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # by the names of the values added at once
        self._weights: dict[tuple[str, ...], float] = {}

    @torch.no_grad()
    def add(self, values: Values, photos: int) -> None:
        """Add the means over a batch of this many photos."""
        names, means_V = values
        if names not in self._sums:
            wide = torch.float32 if means_V.device.type == "mps" else torch.float64
            self._sums[names] = torch.zeros_like(means_V, dtype=wide)
        self._sums[names].add_(means_V, alpha=photos)
        self._weights[names] = self._weights.get(names, 0.0) + photos

    def read(self, world: World | None = None) -> dict[str, float]:
        """The averages so far; with a world, over all its processes (some may have added nothing).
        Waits for the device."""
        totals: dict[str, list[float]] = {}
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.tolist(), strict=True):
                before = totals.get(name, [0.0, 0.0])
                totals[name] = [before[0] + total, before[1] + self._weights[names]]
        known = sorted(totals if world is None else world.union(totals))
        if not known:
            return {}
        both = torch.tensor([totals.get(name, [0.0, 0.0]) for name in known], dtype=torch.float64)
        if world is not None:
            world.sum(both)
        return dict(zip(known, (both[:, 0] / both[:, 1]).tolist(), strict=True))

    def clear(self) -> None:
        self._sums.clear()
        self._weights.clear()

    def state_dict(self) -> dict[str, dict]:
        return {"sums": dict(self._sums), "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, dict], device: torch.device) -> None:
        self._sums = {name: value.to(device, copy=True) for name, value in state["sums"].items()}
        self._weights = dict(state["weights"])

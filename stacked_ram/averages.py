"""Averages over photos, kept on the device: nothing waits for it until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from stacked_ram.distributed import World


class Averages:
    """Sums of named values weighted by photos; exact over batches of any size and processes."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # by the names of what is added together
        self._weights: dict[tuple[str, ...], float] = {}

    @torch.no_grad()
    def add(self, values: dict[str, Tensor], photos: int) -> None:
        """Add the means over a batch of so many photos."""
        names = tuple(values)
        wide = torch.stack([value.float() for value in values.values()])
        if wide.device.type != "mps":
            wide = wide.double()
        if names in self._sums:
            self._sums[names].add_(wide, alpha=photos)
        else:
            self._sums[names] = wide * photos
        self._weights[names] = self._weights.get(names, 0.0) + photos

    def read(self, world: World | None = None) -> dict[str, float]:
        """The averages so far; with a world, over all its processes. Waits for the device."""
        if not self._sums:
            return {}
        totals: dict[str, list[float]] = {}
        for together, sums in self._sums.items():
            for name, total in zip(together, sums.tolist(), strict=True):
                before = totals.get(name, [0.0, 0.0])
                totals[name] = [before[0] + total, before[1] + self._weights[together]]
        names = sorted(totals)
        both = torch.tensor([totals[name] for name in names], dtype=torch.float64)
        if world is not None:
            world.sum(both)
        return dict(zip(names, (both[:, 0] / both[:, 1]).tolist(), strict=True))

    def clear(self) -> None:
        self._sums.clear()
        self._weights.clear()

    def state_dict(self) -> dict[str, dict]:
        return {"sums": dict(self._sums), "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, dict], device: torch.device) -> None:
        self._sums = {name: value.to(device, copy=True) for name, value in state["sums"].items()}
        self._weights = dict(state["weights"])

"""Averages over photos, kept on the device: nothing waits for it until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from stacked_ram.distributed import World


class Averages:
    """Sums of named values weighted by photos; exact over batches of any size and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    @torch.no_grad()
    def add(self, values: dict[str, Tensor], photos: int) -> None:
        """Add the means over a batch of so many photos."""
        for name, value in values.items():
            wide = value if value.device.type == "mps" else value.double()
            if name in self._sums:
                self._sums[name] += wide * photos
            else:
                self._sums[name] = wide * photos
            self._weights[name] = self._weights.get(name, 0.0) + photos

    def read(self, world: World | None = None) -> dict[str, float]:
        """The averages so far; with a world, over all its processes. Waits for the device."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).cpu()
        weights = torch.tensor([self._weights[name] for name in names], dtype=sums.dtype)
        if world is not None:
            world.sum(sums)
            world.sum(weights)
        return dict(zip(names, (sums / weights).tolist(), strict=True))

    def clear(self) -> None:
        self._sums.clear()
        self._weights.clear()

    def state_dict(self) -> dict[str, dict]:
        return {"sums": dict(self._sums), "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, dict], device: torch.device) -> None:
        self._sums = {name: value.to(device, copy=True) for name, value in state["sums"].items()}
        self._weights = dict(state["weights"])

"""What a photo costs: multiply-accumulates counted by torch, and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """GMACs of one photo, everything that torch's counter knows (matrix products, convolutions):
    the glance and feature maps, each glimpse with all its patches, and the core."""

    total: float
    per_glimpse: float
    before: float
    """What is done once, before the first glimpse."""


@torch.no_grad()
def photo_cost(model: Any, height: int, width: int) -> Cost:
    """The cost of one photo of this size, measured on a pass without and with a last glimpse."""
    steps = model.config.num_glimpses
    device = next(model.parameters()).device
    channels = len(model.mean)
    pixels = torch.zeros(1, channels, height, width, dtype=torch.uint8, device=device)

    def gmacs(glimpses: int) -> float:
        with FlopCounterMode(display=False) as counter:
            model(model.photos(pixels), num_glimpses=glimpses)
        return counter.get_total_flops() / 2e9

    was_training = model.training
    model.eval()
    one, two = gmacs(1), gmacs(2)
    total = gmacs(steps)
    model.train(was_training)
    return Cost(total=total, per_glimpse=two - one, before=max(0.0, 2 * one - two))


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    counts = [(one.numel(), one.requires_grad) for one in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)

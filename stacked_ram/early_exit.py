"""Looking no longer than needed: a photo leaves the batch when its belief is sure enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stacked_ram.model import RAM
from stacked_ram.retina.patches import Photos


@dataclass
class Answers:
    beliefs_BN: Tensor
    """Class probabilities after each photo's last glimpse."""
    glimpses_B: Tensor
    """Glimpses used."""
    locations_BT2: Tensor
    """(x, y) of each glimpse of the top level; nan after a photo's last."""


@torch.no_grad()
def look_until(model: RAM, photos: Photos, threshold: float | None = None) -> Answers:
    """The deterministic pass, step by step; photos whose likeliest class has at least this
    probability are looked at no more. None: every photo gets every glimpse."""
    steps = model.config.num_glimpses
    looking, _ = model.start(photos)
    rows = torch.arange(looking.rows, device=photos.device)  # that are still looked at
    beliefs_BN = torch.zeros(looking.rows, model.num_classes, device=photos.device)
    glimpses_B = torch.zeros_like(rows)
    locations_BT2 = torch.full((looking.rows, steps, 2), float("nan"), device=photos.device)
    for step in range(steps):
        choices, _ = model.choose(looking)
        logits, _, looking = model.glimpse(looking, choices)
        beliefs = logits.float().softmax(1)
        beliefs_BN[rows] = beliefs
        glimpses_B[rows] = step + 1
        locations_BT2[rows, step] = choices[-1].location_B2.float()
        if threshold is None or step + 1 == steps:
            continue
        unsure = (beliefs.amax(1) < threshold).nonzero()[:, 0]
        if len(unsure) == 0:
            break
        if len(unsure) < len(rows):
            rows, looking = rows[unsure], looking.select(unsure)
    return Answers(beliefs_BN, glimpses_B, locations_BT2)

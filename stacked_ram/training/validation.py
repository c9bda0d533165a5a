"""Validation between epochs: one deterministic pass over a split, as averages."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.left_out import LeftOut
from stacked_ram.evaluation.predictions import traces
from stacked_ram.runtime.distributed import World
from stacked_ram.training.meters import Averages, Values


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Loader,
    device: torch.device,
    settings: TrainingConfig,
    world: World,
    left_out: LeftOut,
) -> dict[str, float]:
    """Loss and accuracy of the last prediction, accuracy after each glimpse, fraction of pixels
    read, and the spread of the last locations (0: one place for all photos), over all processes.
    Photos that cannot be read are noted in `left_out`."""
    averages = Averages()
    for batch, trace in traces(model, loader, precision=settings.precision, left_out=left_out):
        assert trace.read_B is not None
        correct_BT = trace.logits_BTN.argmax(2) == batch.labels_B[:, None]
        logits_BN = trace.logits_BTN[:, -1].float()
        values = {
            "loss": functional.cross_entropy(logits_BN, batch.labels_B),
            "accuracy": correct_BT[:, -1].float().mean(),
            "read": trace.read_B.float().mean(),
        }
        for step, accuracy in enumerate(correct_BT.float().mean(0), 1):
            values[f"accuracy_after_{step}"] = accuracy
        last_B2 = trace.locations_BTS2[:, -1, -1].float()
        for axis, name in enumerate("xy"):
            values[f"mean_{name}"] = last_B2[:, axis].mean()
            values[f"square_{name}"] = last_B2[:, axis].square().mean()
        averages.add(Values.of(values), len(batch))
    metrics = averages.read(world)
    for name in "xy":
        square = metrics.pop(f"square_{name}") - metrics[f"mean_{name}"] ** 2
        metrics[f"spread_{name}"] = max(square, 0.0) ** 0.5
    return metrics

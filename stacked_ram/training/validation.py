"""Validation between epochs: one deterministic pass over a split, as averages."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.dataset import Dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.evaluation.multi_label import choose_thresholds, mean_average_precision
from stacked_ram.evaluation.predictions import traces
from stacked_ram.models.decisions import photo_f1
from stacked_ram.models.ram import RAM
from stacked_ram.runtime.distributed import World
from stacked_ram.training.losses import binary_cross_entropies
from stacked_ram.training.meters import Averages, Values


@torch.no_grad()
def validate(
    model: RAM,
    loader: Loader,
    device: torch.device,
    settings: TrainingConfig,
    world: World,
    left_out: LeftOut,
) -> dict[str, float]:
    """Loss and accuracy of the last prediction, accuracy after each glimpse, fraction of pixels
    read, and the spread of the last locations (0: one place for all photos), over all processes.
    With several labels mAP takes the place of the accuracy, and the model gets the best threshold
    of each class. Photos that cannot be read are noted in `left_out`.
    """
    averages = Averages()
    kept = KeptBeliefs(loader.dataset, model) if loader.dataset.multi_label else None
    for batch, trace in traces(model, loader, precision=settings.precision, left_out=left_out):
        assert trace.read_B is not None
        logits_BTN = trace.logits_BTN.float()
        if kept is None:
            correct_BT = logits_BTN.argmax(2) == batch.labels_B[:, None]
            values = {
                "loss": functional.cross_entropy(logits_BTN[:, -1], batch.labels_B),
                "accuracy": correct_BT[:, -1].float().mean(),
            }
            for step, accuracy in enumerate(correct_BT.float().mean(0), 1):
                values[f"accuracy_after_{step}"] = accuracy
        else:
            kept.add(batch.index_B, logits_BTN.sigmoid())
            values = {
                "loss": binary_cross_entropies(logits_BTN[:, -1:], batch.labels_B).mean(),
                "F1": photo_f1(logits_BTN[:, -1] >= 0, batch.labels_B).mean(),
            }
        values["read"] = trace.read_B.float().mean()
        last_B2 = trace.locations_BTS2[:, -1, -1].float()
        for axis, name in enumerate("xy"):
            values[f"mean_{name}"] = last_B2[:, axis].mean()
            values[f"square_{name}"] = last_B2[:, axis].square().mean()
        averages.add(Values.of(values), len(batch))
    metrics = averages.read(world)
    for name in "xy":
        square = metrics.pop(f"square_{name}") - metrics[f"mean_{name}"] ** 2
        metrics[f"spread_{name}"] = max(square, 0.0) ** 0.5
    if kept is None:
        return metrics
    labels_NC, beliefs_NTC = kept.of_all(world)
    by_step = [mean_average_precision(labels_NC, each) for each in np.moveaxis(beliefs_NTC, 1, 0)]
    metrics["mAP"] = by_step[-1]
    metrics |= {f"mAP_after_{step}": found for step, found in enumerate(by_step, 1)}
    model.thresholds = choose_thresholds(labels_NC, beliefs_NTC[:, -1])
    return metrics


class KeptBeliefs:
    """Class probabilities of all photos of a split, each photo in one of the processes."""

    def __init__(self, dataset: Dataset, model: RAM) -> None:
        self.labels_NC = dataset.labels.astype(bool)
        count, classes = self.labels_NC.shape
        self.beliefs_NTC = torch.zeros(count, model.num_glimpses, classes)
        self.read_N = torch.zeros(count)

    def add(self, index_B: Tensor, beliefs_BTC: Tensor) -> None:
        self.beliefs_NTC[index_B.cpu()] = beliefs_BTC.cpu()
        self.read_N[index_B.cpu()] = 1

    def of_all(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        """The labels, N x C, and beliefs, N x T x C, of the photos that could be read in any
        process."""
        beliefs_NTC = world.sum(self.beliefs_NTC).numpy()
        read_N = world.sum(self.read_N).bool().numpy()
        return self.labels_NC[read_N], beliefs_NTC[read_N]

"""What a model saw and said of every photo of a split, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.left_out import LeftOut
from stacked_ram.models.trace import Trace
from stacked_ram.runtime.devices import autocast, seed_everything

TOP = 5


@dataclass
class Predictions:
    """N photos in the order of the data set, T steps."""

    index_N: np.ndarray
    """Rows of the photos in their split: all but those that could not be read."""
    labels_N: np.ndarray
    predicted_N: np.ndarray
    confidence_N: np.ndarray
    """Probability of the predicted class."""
    loss_N: np.ndarray
    top_N: np.ndarray
    """Whether the class is among the TOP likeliest."""
    right_NT: np.ndarray
    """Whether the prediction after each step is right."""
    read_N: np.ndarray
    """Share of the photo's pixels inside the boxes that were read."""
    last_N2: np.ndarray
    """Location (x, y) of the last glimpse."""
    hit_NT: np.ndarray
    """Whether each location lies in the object's box; nan where there is no box."""
    covered_NT: np.ndarray
    """Share of the object's box inside the finest patch of each glimpse; nan without a box."""
    glance_right_N: np.ndarray | None = None
    """Whether what the glance alone says is right, where it says anything."""
    beliefs_NTC: np.ndarray | None = None
    """On request: class probabilities after each step and, where they may end the looking
    (early_exit), before them those after the glance."""
    stops_NT: np.ndarray | None = None
    """On request, of a model with a stopping head: its probabilities after each step."""

    @property
    def fewest(self) -> int:
        """Glimpses that the first of the beliefs follow: 0 where it is the glance's, or 1."""
        return 1 + self.right_NT.shape[1] - self.beliefs_NTC.shape[1]

    @property
    def right_N(self) -> np.ndarray:
        return self.right_NT[:, -1]

    @property
    def accuracy(self) -> float:
        return float(self.right_N.mean())


@torch.no_grad()
def look_at(
    model: Any,
    loader: Loader,
    *,
    precision: str = "float32",
    seed: int = 0,
    samples: int = 0,
    keep_beliefs: bool = False,
    progress: str = "",
    left_out: LeftOut | None = None,
    at_boxes: bool = False,
    **how: Any,
) -> Predictions:
    """One pass over a split; deterministic unless `samples` scan paths a photo are drawn, whose
    beliefs are averaged. `at_boxes`: every glimpse is sent to the middle of the object's box (of
    the photo, where it has none). `how` goes to the model's forward (location_source,
    num_glimpses). Photos that cannot be read are noted in `left_out`."""
    from tqdm import tqdm

    model.eval()
    seed_everything(seed)
    loader.set_epoch(0)
    parts: list[dict[str, Tensor]] = []
    left_out = LeftOut(loader.dataset) if left_out is None else left_out
    if samples:
        how |= {"rollouts": samples, "sample": True}

    def look(batch: Batch) -> Trace:
        sent = {}
        if at_boxes:  # `centre` takes given places as they are; a policy over cells would round
            steps, levels = model.num_glimpses, len(model.levels)
            places_B112 = box_centres(batch.boxes_B4, batch.sizes_B2)[:, None, None]
            sent = {
                "location_source": "centre",
                "locations_BTS2": places_B112.expand(-1, steps, levels, 2),
            }
        with autocast(loader.device, precision):
            return model(batch.photos(model), **how, **sent)

    batches = tqdm(loader, desc=progress, unit=" batches", disable=None, leave=False)
    for batch, trace in left_out.each(batches, look):
        found = measure(trace, batch)
        if keep_beliefs:
            logits_BTN = trace.logits_BTN
            if trace.stop_logits_BT is not None:
                found["stops_NT"] = trace.stop_logits_BT.sigmoid()
            elif trace.glance_logits_BN is not None:
                logits_BTN = torch.cat([trace.glance_logits_BN[:, None], logits_BTN], 1)
            found["beliefs_NTC"] = logits_BTN.float().softmax(2)
        parts.append({name: value.cpu() for name, value in found.items()})
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    place_N = joined["index_N"].argsort()
    return Predictions(**{name: value[place_N] for name, value in joined.items()})


def measure(trace: Trace, batch: Batch) -> dict[str, Tensor]:
    """The fields of Looks for one batch; over several rollouts beliefs are averaged, and places
    are those of the first."""
    rollouts = trace.rollouts
    beliefs_RTN = trace.logits_BTN.float().softmax(2)
    beliefs_BTN = beliefs_RTN.unflatten(0, (-1, rollouts)).mean(1)
    last_BN = beliefs_BTN[:, -1]
    labels_B = batch.labels_B
    confidence_B, predicted_B = last_BN.max(1)
    own_B = last_BN.gather(1, labels_B[:, None]).squeeze(1)
    locations_BT2 = trace.locations_BTS2[::rollouts, :, 0].float()
    glance_BN = trace.glance_logits_BN
    of_glance = {}
    if glance_BN is not None:
        of_glance["glance_right_N"] = glance_BN[::rollouts].argmax(1) == labels_B
    return of_glance | {
        "index_N": batch.index_B,
        "labels_N": labels_B,
        "predicted_N": predicted_B,
        "confidence_N": confidence_B,
        "loss_N": -own_B.clamp(min=1e-12).log(),
        "top_N": (last_BN > own_B[:, None]).sum(1) < TOP,
        "right_NT": beliefs_BTN.argmax(2) == labels_B[:, None],
        "read_N": trace.read_B[::rollouts].float(),
        "last_N2": locations_BT2[:, -1],
        "hit_NT": hits(locations_BT2, batch.boxes_B4, batch.sizes_B2),
        "covered_NT": covered(trace.boxes_BTSK4[::rollouts, :, 0].float(), batch.boxes_B4),
    }


def box_centres(boxes_B4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Middle of each box as a location, B x 2; the photo's own where there is no box."""
    middle_B2 = (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2
    return (middle_B2 / sizes_B2.flip(1) * 2 - 1).nan_to_num(0.0).clamp(-1, 1)


def hits(locations_BT2: Tensor, boxes_B4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Whether each location lies in the box (1, 0, or nan without a box), B x T."""
    pixels_BT2 = (locations_BT2 + 1) / 2 * sizes_B2.flip(1)[:, None]
    inside_BT = (pixels_BT2 >= boxes_B4[:, None, :2]) & (pixels_BT2 <= boxes_B4[:, None, 2:])
    return inside_BT.all(2).float() + 0 * boxes_B4.sum(1)[:, None]


def covered(patches_BTK4: Tensor, boxes_B4: Tensor) -> Tensor:
    """Share of each box that the narrowest patch of each glimpse covers, B x T."""
    widths_BTK = patches_BTK4[..., 2] - patches_BTK4[..., 0]
    narrowest = widths_BTK.argmin(2)[..., None, None].expand(-1, -1, 1, 4)
    patch_BT4 = patches_BTK4.gather(2, narrowest).squeeze(2)
    box_B14 = boxes_B4[:, None]
    low = torch.maximum(patch_BT4[..., :2], box_B14[..., :2])
    high = torch.minimum(patch_BT4[..., 2:], box_B14[..., 2:])
    shared_BT = (high - low).clamp(min=0).prod(2)
    return shared_BT / (box_B14[..., 2:] - box_B14[..., :2]).prod(2)

"""One pass of a model over a split, and its prediction for every photo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from stacked_ram.data.base_loader import Loader
from stacked_ram.data.batch import Batch
from stacked_ram.data.left_out import LeftOut
from stacked_ram.evaluation.controls import Locate
from stacked_ram.evaluation.objects import at_object, covered, hits, narrowest, objects_of
from stacked_ram.models.trace import Trace
from stacked_ram.runtime.devices import autocast, seed_everything

TOP = 5


@dataclass
class Predictions:
    """N photos in the order of the data set, T steps."""

    index_N: np.ndarray
    """Row of each photo in its split; photos that could not be read are missing."""
    labels_N: np.ndarray
    """The class of each photo; with several labels bool, N x C."""
    predicted_N: np.ndarray
    """The likeliest class; with several labels bool, N x C: the classes above their thresholds."""
    confidence_N: np.ndarray
    """Probability of the likeliest class."""
    energy_N: np.ndarray
    """Log sum exp of the class scores: low for photos unlike those of training. With several
    labels the sum of log(1 + exp) (Wang et al., 2021)."""
    loss_N: np.ndarray
    right_NT: np.ndarray
    """Whether the prediction after each step is right; with several labels, for every class."""
    read_N: np.ndarray
    """Fraction of the photo's pixels inside the boxes that were read."""
    locations_NT2: np.ndarray
    """Location (x, y) of each glimpse, of the top level."""
    hit_NT: np.ndarray
    """Whether each location lies in the object's box; nan where there is no box."""
    covered_NT: np.ndarray
    """Fraction of the object's box inside the narrowest patch of each glimpse; nan without a
    box."""
    found_NT: np.ndarray
    """Whether that patch was at the object (`at_object`); nan without a box."""
    top_N: np.ndarray | None = None
    """Whether the class is among the TOP likeliest, where there are more classes."""
    glance_right_N: np.ndarray | None = None
    """Whether the prediction after the glance alone is right, where there is one."""
    beliefs_NTC: np.ndarray | None = None
    """On request, and with several labels always: class probabilities after each step, and before
    them those after the glance where early exit may stop there."""
    stops_NT: np.ndarray | None = None
    """On request, of a model with a stopping head: its probabilities after each step."""
    states_ND: np.ndarray | None = None
    """On request: the output of the top core after the last glimpse, which the classifier reads."""

    @property
    def multi_label(self) -> bool:
        """Whether a photo may have several classes."""
        return self.labels_N.ndim == 2

    @property
    def last_N2(self) -> np.ndarray:
        """Location of the last glimpse."""
        return self.locations_NT2[:, -1]

    @property
    def right_N(self) -> np.ndarray:
        return self.right_NT[:, -1]

    @property
    def accuracy(self) -> float:
        return float(self.right_N.mean())


def traces(
    model: Any,
    loader: Loader,
    *,
    precision: str = "float32",
    left_out: LeftOut | None = None,
    locate: Locate | None = None,
    progress: str | None = None,
    **how: Any,
) -> Iterator[tuple[Batch, Trace]]:
    """Run the model over a split, in evaluation mode: each batch with its trace.

    This is the one pass behind validation, test and the pictures of a whole split. locate: the
    locations of a batch's glimpses, in place of the policy's. progress: title of a bar on a
    terminal. how: for the model's forward (location_source, num_glimpses, ...). Photos that
    cannot be read are noted in `left_out`.
    """
    model.eval()
    loader.set_epoch(0)
    left_out = LeftOut(loader.dataset) if left_out is None else left_out

    def look(batch: Batch) -> Trace:
        sent = {}
        if locate is not None:  # `centre` takes given places as they are; a policy would round
            locations_BTS2 = locate(batch).to(batch.labels_B.device)
            sent = {"location_source": "centre", "locations_BTS2": locations_BTS2}
        with torch.no_grad(), autocast(loader.device, precision):
            return model(batch.photos(model), **how, **sent)

    batches: Iterable[Batch] = loader
    if progress is not None:
        from tqdm import tqdm

        batches = tqdm(loader, desc=progress, unit=" batches", disable=None, leave=False)
    yield from left_out.each(batches, look)


def predict_split(
    model: Any,
    loader: Loader,
    *,
    seed: int = 0,
    samples: int = 0,
    keep_beliefs: bool = False,
    keep_states: bool = False,
    **how: Any,
) -> Predictions:
    """Predict every photo of a split in one deterministic pass, or, with `samples`, by the mean
    belief of that many sampled scan paths a photo. keep_beliefs: keep the class probabilities
    after every step. keep_states: keep the last output of the top core. how: as for `traces`."""
    seed_everything(seed)
    if samples:
        how |= {"rollouts": samples, "sample": True}
    parts: list[dict[str, Tensor]] = []
    read: list[Tensor] = []
    hooks = contextlib.ExitStack()
    if keep_states:
        hook = model.classifier.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        hooks.callback(hook.remove)
    with hooks:
        for batch, trace in traces(model, loader, **how):
            parts.append(found_in(model, loader, batch, trace, keep_beliefs))
            if keep_states:
                parts[-1]["states_ND"] = read[-1][:, -1].float().cpu()
                read.clear()
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    place_N = joined["index_N"].argsort()
    return Predictions(**{name: value[place_N] for name, value in joined.items()})


def found_in(
    model: Any, loader: Loader, batch: Batch, trace: Trace, keep_beliefs: bool
) -> dict[str, Tensor]:
    """The fields of Predictions for one batch, on the CPU."""
    found = measure(trace, batch, objects_of(loader.dataset, batch), model.thresholds_N)
    if keep_beliefs or trace.multi_label:
        found["beliefs_NTC"] = beliefs_of(trace.logits_BTN, batch.labels_B)
        if trace.stop_logits_BT is not None:
            found["stops_NT"] = trace.stop_logits_BT.sigmoid()
        elif trace.glance_logits_BN is not None:
            glance_BN = beliefs_of(trace.glance_logits_BN[:, None], batch.labels_B)
            found["beliefs_NTC"] = torch.cat([glance_BN, found["beliefs_NTC"]], 1)
    return {name: value.cpu() for name, value in found.items()}


def beliefs_of(logits_RTN: Tensor, labels_B: Tensor) -> Tensor:
    """Class probabilities, the mean over a photo's rollouts, B x T x N. Scores that are not
    finite count as a wrong answer of no confidence. labels_B: B x N with several labels."""
    multi_label = labels_B.ndim == 2
    beliefs_RTN = logits_RTN.float().sigmoid() if multi_label else logits_RTN.float().softmax(2)
    beliefs_BTN = beliefs_RTN.unflatten(0, (len(labels_B), -1)).mean(1)
    classes = beliefs_BTN.shape[2]
    wrong_BN = 1 - labels_B if multi_label else 1e-6 * one_hot((labels_B + 1) % classes, classes)
    broken_BT1 = beliefs_BTN.isnan().any(2, keepdim=True)
    return torch.where(broken_BT1, wrong_BN[:, None], beliefs_BTN)


def measure(
    trace: Trace, batch: Batch, objects_BO4: Tensor, thresholds_N: Tensor
) -> dict[str, Tensor]:
    """The fields of Predictions for one batch; of several rollouts the locations are those of the
    first. thresholds_N: with several labels, from which probability on each class is said."""
    assert trace.boxes_BTSK4 is not None and trace.read_B is not None
    rollouts, labels_B = trace.rollouts, batch.labels_B
    beliefs_BTN = beliefs_of(trace.logits_BTN, labels_B)
    last_BN = beliefs_BTN[:, -1]
    if trace.multi_label:
        found = decided(trace, beliefs_BTN, labels_B, thresholds_N.to(labels_B.device))
    else:
        found = classified(trace, beliefs_BTN, labels_B)
    locations_BT2 = trace.locations_BTS2[::rollouts, :, -1].float().nan_to_num(0.0)
    patches_BT4 = narrowest(trace.boxes_BTSK4[::rollouts].float().nan_to_num(0.0))
    energy_B = found.pop("energy_R").unflatten(0, (len(labels_B), -1)).mean(1)
    return found | {
        "index_N": batch.index_B,
        "confidence_N": last_BN.amax(1),
        "energy_N": energy_B,
        "read_N": trace.read_B[::rollouts].float().nan_to_num(0.0),
        "locations_NT2": locations_BT2,
        "hit_NT": hits(locations_BT2, objects_BO4, batch.sizes_B2),
        "covered_NT": covered(patches_BT4, objects_BO4),
        "found_NT": at_object(patches_BT4, objects_BO4),
    }


def classified(trace: Trace, beliefs_BTN: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
    """Of photos with one class each: what was predicted, and whether it is right."""
    last_BN = beliefs_BTN[:, -1]
    own_B = last_BN.gather(1, labels_B[:, None]).squeeze(1)
    found = {
        "labels_N": labels_B,
        "predicted_N": last_BN.argmax(1),
        "energy_R": trace.logits_BTN[:, -1].float().logsumexp(1),
        "loss_N": -own_B.clamp(min=1e-12).log(),
        "right_NT": beliefs_BTN.argmax(2) == labels_B[:, None],
    }
    if last_BN.shape[1] > TOP:
        found["top_N"] = (last_BN > own_B[:, None]).sum(1) < TOP
    if trace.glance_logits_BN is not None:
        glance_BN = beliefs_of(trace.glance_logits_BN[:: trace.rollouts, None], labels_B)[:, 0]
        found["glance_right_N"] = glance_BN.argmax(1) == labels_B
    return found


def decided(
    trace: Trace, beliefs_BTN: Tensor, labels_BN: Tensor, thresholds_N: Tensor
) -> dict[str, Tensor]:
    """Of photos with several classes each: which were said, and whether all of that is right."""
    has_BN, last_BN = labels_BN > 0, beliefs_BTN[:, -1]
    each_BN = torch.where(has_BN, last_BN, 1 - last_BN).clamp(min=1e-12)
    return {
        "labels_N": has_BN,
        "predicted_N": last_BN >= thresholds_N,
        "energy_R": softplus(trace.logits_BTN[:, -1].float()).sum(1),
        "loss_N": -each_BN.log().sum(1),
        "right_NT": ((beliefs_BTN >= thresholds_N) == has_BN[:, None]).all(2),
    }

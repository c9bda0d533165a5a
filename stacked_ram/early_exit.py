"""Looking no longer than needed: a photo leaves the batch when its belief is sure enough.

The threshold is chosen on the validation split, from one full pass over it; what is reported for
the test split is then at that threshold.

B photos   T steps   N classes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stacked_ram.errors import UserError
from stacked_ram.model import RAM
from stacked_ram.retina.patches import Photos

if TYPE_CHECKING:  # counting brings imports that predict has no use for
    from stacked_ram.cost import Cost

Criterion = Literal["belief", "stop"]
NEVER = float("inf")  # a threshold that no photo passes


@dataclass
class Answers:
    beliefs_BN: Tensor
    """Class probabilities after each photo's last glimpse."""
    glimpses_B: Tensor
    """Glimpses used."""
    locations_BT2: Tensor
    """(x, y) of each glimpse of the top level; nan after a photo's last."""


@torch.no_grad()
def look_until(
    model: RAM, photos: Photos, threshold: float | None = None, criterion: Criterion = "belief"
) -> Answers:
    """The deterministic pass, step by step; photos that are sure enough are looked at no more.

    threshold: of the likeliest class's probability (`belief`), or of the probability that the
    model's stopping head gives to being right already (`stop`). None: every photo gets every
    glimpse.
    """
    if criterion == "stop" and model.stop is None:
        raise UserError("criterion stop: the model has no stopping head; train with learned_stop")
    steps = model.config.num_glimpses
    looking, _ = model.start(photos)
    rows = torch.arange(looking.rows, device=photos.device)  # that are still looked at
    beliefs_BN = torch.zeros(looking.rows, model.num_classes, device=photos.device)
    glimpses_B = torch.zeros_like(rows)
    locations_BT2 = torch.full((looking.rows, steps, 2), float("nan"), device=photos.device)
    for step in range(steps):
        choices = model.choose(looking)
        looking = model.integrate(looking, choices, model.look(looking, choices))
        beliefs = model.scores(looking.outs[-1]).softmax(1)
        beliefs_BN[rows] = beliefs
        glimpses_B[rows] = step + 1
        locations_BT2[rows, step] = choices[-1].location_B2.float()
        if threshold is None or step + 1 == steps:
            continue
        if criterion == "belief":
            sure = beliefs.amax(1)
        else:
            sure = model.stop(looking.outs[-1]).float().sigmoid()[:, 0]
        unsure = (sure < threshold).nonzero()[:, 0]
        if len(unsure) == 0:
            break
        if len(unsure) < len(rows):
            rows, looking = rows[unsure], looking.select(unsure)
    return Answers(beliefs_BN, glimpses_B, locations_BT2)


def exit_table(
    beliefs_BTN: NDArray, labels_B: NDArray, stops_BT: NDArray | None = None
) -> dict[str, NDArray]:
    """What each threshold that makes a difference would give: threshold, accuracy, mean_glimpses.

    beliefs_BTN: class probabilities after every glimpse, of a full pass. stops_BT: the stopping
    head's probabilities, where they and not the beliefs decide. Thresholds rise from 0 (one
    glimpse for all) to infinity (every glimpse for all).
    """
    right_BT = beliefs_BTN.argmax(2) == np.asarray(labels_B)[:, None]
    sure_BT = beliefs_BTN.max(2) if stops_BT is None else np.asarray(stops_BT)
    steps = sure_BT.shape[1]
    thresholds = np.unique(sure_BT[:, :-1])
    thresholds = np.concatenate([[0.0], thresholds, [NEVER]])
    # the first step at which each photo passes: how sure it was at most up to each step
    most_BT = np.maximum.accumulate(sure_BT[:, :-1], axis=1)
    accuracy, glimpses = [], []
    for threshold in thresholds:
        last_B = (most_BT < threshold).sum(1)
        accuracy.append(right_BT[np.arange(len(last_B)), last_B].mean())
        glimpses.append(last_B.mean() + 1)
    assert steps == 1 or glimpses[-1] == steps
    return {
        "threshold": thresholds,
        "accuracy": np.array(accuracy),
        "mean_glimpses": np.array(glimpses),
    }


def choose_threshold(
    beliefs_BTN: NDArray,
    labels_B: NDArray,
    *,
    accuracy: float | None = None,
    mean_glimpses: float | None = None,
    stops_BT: NDArray | None = None,
) -> float:
    """The threshold for a wanted accuracy (0 to 1) with the fewest glimpses, or for a wanted mean
    number of glimpses with the highest accuracy. Give one of them, and the validation split's
    beliefs.

    Raises UserError if it cannot be had.
    """
    if (accuracy is None) == (mean_glimpses is None):
        raise ValueError("give accuracy or mean_glimpses, one of them")
    table = exit_table(beliefs_BTN, labels_B, stops_BT)
    if accuracy is not None:
        good = table["accuracy"] >= accuracy
        order = (-table["accuracy"], table["mean_glimpses"])  # the last key counts first
        if not good.any():
            raise UserError(
                f"accuracy: {accuracy:.4f} is not reached at any threshold; the best is"
                f" {table['accuracy'].max():.4f}"
            )
    else:
        good = table["mean_glimpses"] <= mean_glimpses
        order = (table["mean_glimpses"], -table["accuracy"])
        if not good.any():
            raise UserError(f"mean_glimpses: {mean_glimpses} is below 1")
    best = np.lexsort([np.where(good, key, NEVER) for key in order])
    return float(table["threshold"][best[0]])


def exit_curve(
    beliefs_BTN: NDArray,
    labels_B: NDArray,
    cost: Cost,
    stops_BT: NDArray | None = None,
    points: int = 101,
) -> object:
    """The whole curve, a pandas table: threshold, accuracy, mean_glimpses, mean_gmacs.

    cost: of one photo (stacked_ram.cost.photo_cost). At most this many points, evenly spread over
    the mean number of glimpses.
    """
    import pandas

    table = pandas.DataFrame(exit_table(beliefs_BTN, labels_B, stops_BT))
    table["mean_gmacs"] = cost.before + table["mean_glimpses"] * cost.per_glimpse
    wanted = np.linspace(1, beliefs_BTN.shape[1], points)
    nearest = np.searchsorted(table["mean_glimpses"], wanted).clip(max=len(table) - 1)
    return table.iloc[np.unique(nearest)].reset_index(drop=True)

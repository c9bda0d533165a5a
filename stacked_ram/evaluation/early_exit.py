"""Early exit: a photo leaves the batch as soon as the model is sure enough of its class.

Where a glance starts the core, the model may be sure after the glance, and the photo gets no
glimpse at all. (A stopping head was trained after glimpses, so it decides only there.)

The threshold is chosen on the validation split, from one full pass over it; what is reported for
the test split is then at that threshold.

B photos   T steps   N classes   K patches
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stacked_ram.models.ram import RAM
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.errors import UserError, check

if TYPE_CHECKING:  # predict has no use for these imports
    import pandas

    from stacked_ram.evaluation.cost import Cost

Criterion = Literal["belief", "stop"]
ExitTable = dict[str, NDArray]  # threshold, accuracy, mean_glimpses, by rising threshold
NEVER = float("inf")  # a threshold that no photo passes


@dataclass(frozen=True)
class Stop:
    """When a photo is looked at no longer. Raises UserError for a threshold outside 0 to 1."""

    at: float
    """The least probability, 0 to 1, that stops it."""
    by: Criterion = "belief"
    """Whose: the likeliest class's, or the stopping head's."""

    def __post_init__(self) -> None:
        check(0 <= self.at <= 1, f"stop_at: {self.at} is not in 0 to 1")


@dataclass
class Answers:
    beliefs_BN: Tensor
    """Class probabilities after each photo's last glimpse."""
    glimpses_B: Tensor
    """Glimpses used; 0: the glance was enough."""
    locations_BT2: Tensor
    """(x, y) of each glimpse of the top level; nan after a photo's last."""
    boxes_BTK4: Tensor
    """What each of those glimpses read: (left, top, right, bottom) of its patches in pixels of the
    photo; nan after a photo's last."""


@torch.no_grad()
def look_until(
    model: RAM, photos: Photos, threshold: float | None = None, criterion: Criterion = "belief"
) -> Answers:
    """The deterministic pass, step by step; photos that are sure enough are looked at no more.

    threshold: of the likeliest class's probability (`belief`; with several labels, of the margin of
    every class, `RAM.sureness`), or of the probability that the model's stopping head gives to
    being right already (`stop`). None: every photo gets every glimpse.
    """
    check_criterion(model, criterion)
    steps, count = model.num_glimpses, photos.batch_size
    rows = torch.arange(count, device=photos.device)  # that are still looked at
    beliefs_BN = torch.zeros(count, model.num_classes, device=photos.device)
    glimpses_B = torch.full_like(rows, steps)
    locations_BT2 = torch.full((count, steps, 2), float("nan"), device=photos.device)
    boxes_BTK4 = torch.full((count, steps, 0, 4), float("nan"), device=photos.device)
    for state in model.steps(photos, sample=False):
        used = state.step
        if used:
            location_B2 = state.policy_outputs[-1].location_B2
            locations_BT2[rows, used - 1] = location_B2[:, :2].float()
            boxes_BK4 = model.levels[-1].retina.boxes(
                state.views[-1], location_B2, smooth=not model.has_policy
            )
            if used == 1:
                boxes_BTK4 = boxes_BTK4.new_full((count, steps, *boxes_BK4.shape[1:]), float("nan"))
            boxes_BTK4[rows, used - 1] = boxes_BK4.float()
            scores = model.scores(state.outputs[-1])
        elif state.glance_logits_RN is None or criterion == "stop":
            continue
        else:
            scores = state.glance_logits_RN
        beliefs = model.beliefs(scores)
        beliefs_BN[rows] = beliefs
        if threshold is None or used == steps:
            continue
        if criterion == "belief":
            sure = model.sureness(beliefs)
        else:
            assert model.stop is not None
            sure = model.stop(state.outputs[-1]).float().sigmoid()[:, 0]
        enough = sure >= threshold
        glimpses_B[rows[enough]] = used
        unsure = (~enough).nonzero()[:, 0]
        if len(unsure) == 0:
            break
        if len(unsure) < len(rows):
            rows = rows[unsure]
            state.keep(unsure)
    return Answers(beliefs_BN, glimpses_B, locations_BT2, boxes_BTK4)


def check_criterion(model: RAM, criterion: Criterion) -> None:
    """Raises UserError where a model has no stopping head to ask."""
    if criterion == "stop" and model.stop is None:
        raise UserError("criterion stop: the model has no stopping head; train with learned_stop")


def exit_table(
    beliefs_BTN: NDArray, labels_B: NDArray, stops_BT: NDArray | None = None, fewest: int = 1
) -> ExitTable:
    """What each threshold that makes a difference would give: threshold, accuracy, mean_glimpses.

    beliefs_BTN: class probabilities after every glimpse, of a full pass. stops_BT: the stopping
    head's probabilities, where they and not the beliefs decide. fewest: how many glimpses the
    first of them follow; 0: those of the glance stand first. Thresholds rise from 0 (as few
    glimpses as can be for all) to infinity (every glimpse for all).
    """
    right_BT = beliefs_BTN.argmax(2) == np.asarray(labels_B)[:, None]
    sure_BT = beliefs_BTN.max(2) if stops_BT is None else np.asarray(stops_BT)
    return table_of(right_BT, sure_BT, fewest)


def table_of(right_BT: NDArray, sure_BT: NDArray, fewest: int) -> ExitTable:
    """`exit_table` from whether each prediction is right, and the probability that decides."""
    thresholds = np.unique(sure_BT[:, :-1])
    thresholds = np.concatenate([[0.0], thresholds, [NEVER]])
    accuracy, glimpses = [], []
    for threshold in thresholds:
        last_B = stopped_after(sure_BT, threshold)
        accuracy.append(right_BT[np.arange(len(last_B)), last_B].mean())
        glimpses.append(last_B.mean() + fewest)
    return {
        "threshold": thresholds,
        "accuracy": np.array(accuracy),
        "mean_glimpses": np.array(glimpses),
    }


def stopped_after(sure_BT: NDArray, threshold: float) -> NDArray:
    """Index of the first step at which each photo passes; of the last step where none does.

    sure_BT: the probability that decides, after each step.
    """
    # how sure it was at most up to each step
    most_BT = np.maximum.accumulate(sure_BT[:, :-1], axis=1)
    return (most_BT < threshold).sum(1)


def choose_threshold(
    table: ExitTable, *, accuracy: float | None = None, mean_glimpses: float | None = None
) -> float:
    """The threshold for a wanted accuracy (0 to 1) with the fewest glimpses, or for a wanted mean
    number of glimpses with the highest accuracy. Give one of them, and the validation split's
    table.

    Raises UserError if it cannot be had.
    """
    if (accuracy is None) == (mean_glimpses is None):
        raise ValueError("give accuracy or mean_glimpses, one of them")
    if accuracy is not None:
        good = table["accuracy"] >= accuracy
        order = (-table["accuracy"], table["mean_glimpses"])  # the last key counts first
        if not good.any():
            raise UserError(
                f"--exit-accuracy: {accuracy:.4f} is not reached at any threshold on the validation"
                f" split; the best is {table['accuracy'].max():.4f}"
            )
    else:
        good = table["mean_glimpses"] <= mean_glimpses
        order = (table["mean_glimpses"], -table["accuracy"])
        if not good.any():
            raise UserError(
                f"--exit-glimpses: {mean_glimpses} is below {table['mean_glimpses'][0]:.0f}"
            )
    best = np.lexsort([np.where(good, key, NEVER) for key in order])
    return float(table["threshold"][best[0]])


def exit_at(table: ExitTable, threshold: float) -> tuple[float, float]:
    """Accuracy and mean number of glimpses at any threshold, another split's for one: between two
    of the table's nothing changes."""
    place = np.searchsorted(table["threshold"], threshold)
    return float(table["accuracy"][place]), float(table["mean_glimpses"][place])


def exit_curve(table: ExitTable, cost: Cost, points: int = 101) -> pandas.DataFrame:
    """The whole curve: threshold, accuracy, mean_glimpses, mean_gmacs.

    cost: of one photo (evaluation.cost.photo_cost). At most this many points, evenly spread over
    the mean number of glimpses.
    """
    import pandas

    curve = pandas.DataFrame(table)
    curve["mean_gmacs"] = cost.before + curve["mean_glimpses"] * cost.per_glimpse
    mean_glimpses = table["mean_glimpses"]
    wanted = np.linspace(mean_glimpses[0], mean_glimpses[-1], points)
    nearest = np.searchsorted(mean_glimpses, wanted)
    return curve.iloc[np.unique(nearest)].reset_index(drop=True)

"""Figures of photos that may have several classes: each class is ranked and decided on its own.

N photos   C classes   T steps   R resamples
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stacked_ram.data.manifest import SEPARATOR
from stacked_ram.evaluation.metrics import calibration_error
from stacked_ram.models.decisions import decision_margins, photo_f1

if TYPE_CHECKING:
    import pandas

    from stacked_ram.evaluation.predictions import Predictions

RESAMPLES = 200  # of a bootstrap
LEAST = 1e-3  # a threshold is so far from 0 and from 1


def average_precisions(labels_NC: np.ndarray, beliefs_NC: np.ndarray) -> np.ndarray:
    """The average precision of each class; nan for a class that no photo has."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(labels_N, beliefs_N) if labels_N.any() else np.nan
            for labels_N, beliefs_N in zip(labels_NC.T, beliefs_NC.T, strict=True)
        ]
    )


def mean_average_precision(labels_NC: np.ndarray, beliefs_NC: np.ndarray) -> float:
    """mAP: the mean of the average precisions over the classes that a photo has; nan if none."""
    found_C = average_precisions(labels_NC, beliefs_NC)
    return float(np.nanmean(found_C)) if np.isfinite(found_C).any() else float("nan")


def resampled_map(labels_NC: np.ndarray, beliefs_NC: np.ndarray, seed: int = 0) -> np.ndarray:
    """mAP of bootstrap samples of the photos, R values; equal seeds give equal samples.

    A photo that is drawn twice counts twice: its weight in scikit-learn's average precision, here
    for all samples at once.
    """
    count = len(labels_NC)
    weights_RN = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES)
    found = []
    for labels_N, beliefs_N in zip(labels_NC.T, beliefs_NC.T, strict=True):
        if not labels_N.any():
            continue
        order = np.argsort(-beliefs_N, kind="stable")
        ends = np.flatnonzero(np.diff(beliefs_N[order], append=np.inf))  # of equal probabilities
        drawn_RX = weights_RN[:, order].cumsum(1)[:, ends]
        right_RX = (weights_RN[:, order] * labels_N[order]).cumsum(1)[:, ends]
        gained_RX = np.diff(right_RX, axis=1, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision_RX = np.where(drawn_RX > 0, right_RX / drawn_RX, 0)
            found.append((precision_RX * gained_RX).sum(1) / right_RX[:, -1])
    return np.nanmean(found, axis=0) if found else np.full(RESAMPLES, np.nan)


def interval(values_R: np.ndarray) -> list[float]:
    """The middle 95 % of bootstrapped values."""
    return [float(value) for value in np.nanquantile(values_R, (0.025, 0.975))]


def choose_thresholds(labels_NC: np.ndarray, beliefs_NC: np.ndarray) -> tuple[float, ...]:
    """For each class the probability from which on to say it, so that its F1 is highest on these
    photos: halfway between the least probability that is said and the next one. 0.5 for a class
    that no photo has."""
    from sklearn.metrics import precision_recall_curve

    found = []
    for labels_N, beliefs_N in zip(labels_NC.T, beliefs_NC.T, strict=True):
        if not labels_N.any():
            found.append(0.5)
            continue
        precision, recall, thresholds = precision_recall_curve(labels_N, beliefs_N)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(f1[:-1].argmax())
        below = float(thresholds[best - 1]) if best else 0.0
        found.append(float(np.clip((thresholds[best] + below) / 2, LEAST, 1 - LEAST)))
    return tuple(found)


def least_margin(beliefs: np.ndarray, thresholds_C: np.ndarray) -> np.ndarray:
    """How sure answers are, ... of ... x C: the margin of the decision nearest to its threshold."""
    return decision_margins(beliefs, thresholds_C).min(-1)


def label_scores(predictions: Predictions) -> dict[str, Any]:
    """The figures of one pass over a split: of the ranking (mAP) and of the decisions."""
    labels_NC, beliefs_NTC = predictions.labels_N, predictions.beliefs_NTC
    assert beliefs_NTC is not None  # kept with several labels
    steps = predictions.right_NT.shape[1]
    by_step = [mean_average_precision(labels_NC, beliefs_NTC[:, t]) for t in range(-steps, 0)]
    by_class = by_label(labels_NC, predictions.predicted_N)
    found: dict[str, Any] = {
        "mAP": by_step[-1],
        "interval_95": interval(resampled_map(labels_NC, beliefs_NTC[:, -1])),
        "mean_f1": float(by_class["f1"].iloc[-1]),
        "photo_f1": float(photo_f1(predictions.predicted_N, labels_NC).mean()),
        "exact_match": predictions.accuracy,
        "loss": float(predictions.loss_N.mean()),
        "calibration_error": calibration_error(beliefs_NTC[:, -1].ravel(), labels_NC.ravel()),
        "mAP_after": by_step,
    }
    if beliefs_NTC.shape[1] > steps:
        found["mAP_glance"] = mean_average_precision(labels_NC, beliefs_NTC[:, 0])
    return found


def by_label(
    labels_NC: np.ndarray, said_NC: np.ndarray, classes: Sequence[str] | None = None
) -> pandas.DataFrame:
    """Precision, recall, F1 and number of photos of each class, and their mean over the classes
    that have photos."""
    import pandas

    right_C = (labels_NC & said_NC).sum(0)
    said_C, photos_C = said_NC.sum(0), labels_NC.sum(0)
    table = pandas.DataFrame(
        {
            "precision": right_C / np.maximum(said_C, 1),
            "recall": right_C / np.maximum(photos_C, 1),
            "f1": 2 * right_C / np.maximum(said_C + photos_C, 1),
            "photos": photos_C,
        },
        index=pandas.Index(classes or range(labels_NC.shape[1]), name="class"),
    )
    means = table.loc[table["photos"] > 0, ["precision", "recall", "f1"]].mean()
    table.loc["mean over classes"] = [*means, len(labels_NC)]
    return table.astype({"photos": int})


def label_table(
    predictions: Predictions, classes: Sequence[str], thresholds: Sequence[float]
) -> pandas.DataFrame:
    """`by_label` with the average precision and the threshold of each class before it."""
    labels_NC, beliefs_NTC = predictions.labels_N, predictions.beliefs_NTC
    assert beliefs_NTC is not None  # kept with several labels
    table = by_label(labels_NC, predictions.predicted_N, classes)
    precisions_C = average_precisions(labels_NC, beliefs_NTC[:, -1])
    mean = np.nanmean(precisions_C) if np.isfinite(precisions_C).any() else np.nan
    table.insert(0, "average_precision", [*precisions_C, mean])
    table.insert(1, "threshold", [*thresholds, np.nan])
    return table


def joined(classes: Sequence[str], has_C: np.ndarray) -> str:
    """The names of the classes, as the manifest joins them."""
    return SEPARATOR.join(classes[label] for label in np.flatnonzero(has_C).tolist())

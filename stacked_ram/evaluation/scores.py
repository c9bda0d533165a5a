"""The figures of one pass over a split, whether a photo has one class or several.

N photos   C classes   T steps
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stacked_ram.data.dataset import Dataset
from stacked_ram.evaluation.early_exit import ExitTable, exit_table, table_of
from stacked_ram.evaluation.metrics import calibration_error, wilson_interval
from stacked_ram.evaluation.multi_label import joined, label_scores, least_margin
from stacked_ram.evaluation.predictions import TOP, Predictions
from stacked_ram.models.decisions import photo_f1
from stacked_ram.runs.checkpoint import LoadedRun


def scores(predictions: Predictions) -> dict[str, Any]:
    """The figures of one pass over a split."""
    found: dict[str, Any] = {
        "photos": len(predictions.labels_N),
        **(label_scores if predictions.multi_label else class_scores)(predictions),
        "read": float(predictions.read_N.mean()),
        "last_location": {
            "mean": predictions.last_N2.mean(0).tolist(),
            "spread": predictions.last_N2.std(0).tolist(),
        },
    }
    boxed = ~np.isnan(predictions.hit_NT[:, 0])
    if boxed.any():
        found |= {
            "photos_with_box": int(boxed.sum()),
            "hit_rate": predictions.hit_NT[boxed].mean(0).tolist(),
            "hit_by_any": float(predictions.hit_NT[boxed].any(1).mean()),
            "box_covered": predictions.covered_NT[boxed].mean(0).tolist(),
            "box_covered_best": float(predictions.covered_NT[boxed].max(1).mean()),
            "object_found": np.logical_or.accumulate(predictions.found_NT[boxed] == 1, axis=1)
            .mean(0)
            .tolist(),
        }
    return found


def class_scores(predictions: Predictions) -> dict[str, Any]:
    """The figures of the answers, where a photo has one class."""
    found: dict[str, Any] = {
        "accuracy": predictions.accuracy,
        "interval_95": wilson_interval(predictions.right_N.sum(), len(predictions.right_N)),
        **({} if predictions.top_N is None else {f"top_{TOP}": float(predictions.top_N.mean())}),
        "loss": float(predictions.loss_N.mean()),
        "calibration_error": calibration_error(predictions.confidence_N, predictions.right_N),
        "accuracy_after": predictions.right_NT.mean(0).tolist(),
    }
    if predictions.glance_right_N is not None:
        found["accuracy_glance"] = float(predictions.glance_right_N.mean())
    return found


def last_beliefs(predictions: Predictions) -> np.ndarray:
    """Class probabilities after the last glimpse, N x C, of a pass that kept them."""
    assert predictions.beliefs_NTC is not None
    return predictions.beliefs_NTC[:, -1]


def confidences(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether what they are of is so: of each photo's answer or, with several
    labels, of each of its classes."""
    if predictions.multi_label:
        return last_beliefs(predictions).ravel(), predictions.labels_N.ravel()
    return predictions.confidence_N, predictions.right_N


def exit_table_of(predictions: Predictions, loaded: LoadedRun) -> ExitTable:
    """What each threshold would give; the predictions were made with `keep_beliefs`. With several
    labels, the F1 of the photos stands in for the accuracy."""
    beliefs_NTC = predictions.beliefs_NTC
    assert beliefs_NTC is not None
    fewest = 1 + predictions.right_NT.shape[1] - beliefs_NTC.shape[1]
    if predictions.multi_label:
        thresholds_C = loaded.model.thresholds_N.numpy()
        f1_NT = photo_f1(beliefs_NTC >= thresholds_C, predictions.labels_N[:, None])
        sure_NT = least_margin(beliefs_NTC, thresholds_C)
        return table_of(
            f1_NT, sure_NT if predictions.stops_NT is None else predictions.stops_NT, fewest
        )
    return exit_table(beliefs_NTC, predictions.labels_N, predictions.stops_NT, fewest)


def photo_table(predictions: Predictions, dataset: Dataset) -> str:
    """One row a photo, the surest mistakes first; with several labels, those of the lowest F1."""
    import pandas

    if predictions.multi_label:
        f1_N = photo_f1(predictions.predicted_N, predictions.labels_N)
        answers: dict[str, Any] = {
            "labels": [joined(dataset.classes, has_C) for has_C in predictions.labels_N],
            "predicted": [joined(dataset.classes, said_C) for said_C in predictions.predicted_N],
            "f1": f1_N.round(4),
        }
        order = np.argsort(f1_N, kind="stable")
    else:
        names = np.array(dataset.classes)
        answers = {
            "class": names[predictions.labels_N],
            "predicted": names[predictions.predicted_N],
            "confidence": predictions.confidence_N.round(4),
        }
        order = np.lexsort((-predictions.confidence_N, predictions.right_N))
    table = pandas.DataFrame(
        {
            "path": [dataset.names[row] for row in predictions.index_N],
            **answers,
            "right": predictions.right_N,
            "x": predictions.last_N2[:, 0].round(4),
            "y": predictions.last_N2[:, 1].round(4),
        }
    )
    return table.iloc[order].to_csv(index=False, lineterminator="\n")

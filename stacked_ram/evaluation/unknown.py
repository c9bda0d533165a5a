"""How well a model tells photos of its classes from photos of something else.

Two scores for "this is one of my classes": the probability of the likeliest class (Hendrycks and
Gimpel, "A baseline for detecting misclassified and out-of-distribution examples", 2017), and the
energy, log sum exp of the class scores (Liu et al., "Energy-based out-of-distribution detection",
2020); with several labels, the joint energy (Wang et al., "Can multi-label classification networks
know what they don't know?", 2021).

N photos
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.evaluation.predictions import Predictions
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError


def open_unknown(loaded: LoadedRun, folder: Path) -> Dataset:
    """Open the test split of another data set, whose classes the model does not know.

    Raises:
        UserError: there is none, it has the model's classes, or another number of channels.
    """
    config = dataclasses.replace(
        loaded.config.data, dataset=str(folder), limit_photos=None, fold=None
    )
    dataset = open_dataset(config, "test")
    shared = sorted(set(dataset.classes) & set(loaded.classes))
    if shared:
        raise UserError(f"--unknown: {folder} has the model's class {shared[0]}, which it knows")
    if dataset.channels != loaded.metadata.channels:
        raise UserError(
            f"--unknown: {folder} has photos of {dataset.channels} channel(s), the model takes"
            f" {loaded.metadata.channels}"
        )
    several = (len(loaded.classes),) if loaded.metadata.multi_label else ()
    return dataclasses.replace(dataset, labels=np.zeros((len(dataset), *several), np.int64))


def separation(known: Predictions, unknown: Predictions) -> dict[str, Any]:
    """Return how well each score separates the two.

    For each: `auroc`, the probability that a photo of the known classes has the higher score (0.5:
    chance), and `false_95`, the fraction of unknown photos that are taken for known where 95 % of
    the known ones are.
    """
    from sklearn.metrics import roc_auc_score

    is_known = np.repeat([1, 0], [len(known.labels_N), len(unknown.labels_N)])
    found: dict[str, Any] = {"photos": [len(known.labels_N), len(unknown.labels_N)]}
    for name in ("confidence", "energy"):
        scores = [getattr(predictions, f"{name}_N") for predictions in (known, unknown)]
        found[name] = {
            "auroc": float(roc_auc_score(is_known, np.concatenate(scores))),
            "false_95": float((scores[1] >= np.quantile(scores[0], 0.05)).mean()),
        }
    return found

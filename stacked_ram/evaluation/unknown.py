"""How well a model tells photos of its classes from photos of something else.

Scores for "this is one of my classes", the higher the surer:

- the probability of the likeliest class (Hendrycks and Gimpel, "A baseline for detecting
  misclassified and out-of-distribution examples", 2017)
- the energy, log sum exp of the class scores (Liu et al., "Energy-based out-of-distribution
  detection", 2020); with several labels the joint energy, the sum over the classes of
  log(1 + exp score) (Wang et al., "Can multi-label classification networks know what they don't
  know?", 2021)
- minus the squared Mahalanobis distance of the features to the nearest class mean of the training
  photos, with one covariance for all classes (Lee et al., "A simple unified framework for detecting
  out-of-distribution samples", 2018); with several labels, to the mean of all photos. The features
  are what the classifier reads: the core's output after the last glimpse.

The same scores are computed for the plain backbone: its pooled features of the whole photo, and the
logistic regression of the linear probe on them.

N photos   C classes   D features
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import Loader
from stacked_ram.evaluation.predictions import Predictions
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError

MOST = 10_000  # training photos whose features are used

Scores = dict[str, np.ndarray]


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


def model_scores(training: Predictions, asked: Predictions) -> Scores:
    """Return the scores of photos by the model, each N. Both passes were made with keep_states."""
    assert training.states_ND is not None and asked.states_ND is not None
    distances = mahalanobis(training.states_ND, training.labels_N, asked.states_ND)
    return {
        "confidence": asked.confidence_N,
        "energy": asked.energy_N,
        "mahalanobis": -distances,
    }


def backbone_separation(
    loaded: LoadedRun, training: Loader, known: Loader, unknown: Loader, gmacs: float
) -> dict[str, Any]:
    """Return what `separation` gives for the plain backbone, with the photo's size for it, the
    GMACs of a photo, and the accuracy (with several labels: mAP) on the known photos. gmacs: of the
    model; the largest size counts that costs no more."""
    from stacked_ram.evaluation.linear_probe import (
        features,
        fit_probe,
        image_gmacs,
        probe_backbone,
        sizes_for,
    )
    from stacked_ram.evaluation.multi_label import mean_average_precision

    backbone = probe_backbone(loaded).to(loaded.device).eval()
    costs = {
        size: image_gmacs(backbone, size, loaded.device) for size in sizes_for(backbone, loaded)
    }
    size = max((each for each in costs if costs[each] <= gmacs), default=min(costs))
    given, own, strange = (
        features(backbone, [size], loader, loaded, LeftOut(loader.dataset))
        for loader in (training, known, unknown)
    )
    probe = fit_probe(given[size], given["labels"])
    labels = own["labels"]

    def scores_of(features_ND: np.ndarray) -> Scores:
        scores_NC = class_scores(probe, features_ND)
        distances = mahalanobis(given[size], given["labels"], features_ND)
        return sure_of(scores_NC, labels.ndim == 2) | {"mahalanobis": -distances}

    answers: dict[str, Any] = {"accuracy": float((probe.predict(own[size]) == labels).mean())}
    if labels.ndim == 2:
        answers = {"mAP": mean_average_precision(labels, class_scores(probe, own[size]))}
    return {
        "size": size,
        "gmacs": costs[size],
        **answers,
        **separation(scores_of(own[size]), scores_of(strange[size])),
    }


def class_scores(probe: Any, features_ND: np.ndarray) -> np.ndarray:
    """Return the scores of the classes by a logistic regression, N x C."""
    scores = probe.decision_function(features_ND)
    # of two classes scikit-learn gives the difference alone
    return np.stack([-scores / 2, scores / 2], 1) if scores.ndim == 1 else scores


def sure_of(scores_NC: np.ndarray, multi_label: bool) -> Scores:
    """Return confidence and energy from class scores."""
    from scipy.special import expit, logsumexp, softmax

    if multi_label:
        energy_N = np.logaddexp(0, scores_NC).sum(1)
        return {"confidence": expit(scores_NC).max(1), "energy": energy_N}
    return {
        "confidence": softmax(scores_NC, axis=1).max(1),
        "energy": logsumexp(scores_NC, axis=1),
    }


def mahalanobis(training_ND: np.ndarray, labels_N: np.ndarray, asked_ND: np.ndarray) -> np.ndarray:
    """Return the squared Mahalanobis distance of each photo to the nearest class mean.

    labels_N: of the training photos. With several labels (N x C) all count as one class. The
    covariance is shrunk (Ledoit and Wolf, 2004), so that it may have fewer photos than features.
    """
    from scipy.spatial.distance import cdist
    from sklearn.covariance import LedoitWolf
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training_ND.astype(np.float64))
    training_ND, asked_ND = scaler.transform(training_ND), scaler.transform(asked_ND)
    rows_N = np.zeros(len(labels_N), np.int64) if labels_N.ndim == 2 else labels_N
    classes, place_N = np.unique(rows_N, return_inverse=True)
    means_CD = np.stack([training_ND[rows_N == label].mean(0) for label in classes])
    shrunk = LedoitWolf(assume_centered=True).fit(training_ND - means_CD[place_N])
    whiten_DD = np.linalg.cholesky(shrunk.precision_)
    return cdist(asked_ND @ whiten_DD, means_CD @ whiten_DD, "sqeuclidean").min(1)


def separation(known: Scores, unknown: Scores) -> dict[str, Any]:
    """Return how well each score separates the two.

    For each: `auroc`, the probability that a photo of the known classes has the higher score (0.5:
    chance), and `false_95`, the fraction of unknown photos that are taken for known where 95 % of
    the known ones are.
    """
    from sklearn.metrics import roc_auc_score

    found = {}
    for name, known_N in known.items():
        unknown_N = unknown[name]
        is_known = np.repeat([1, 0], [len(known_N), len(unknown_N)])
        found[name] = {
            "auroc": float(roc_auc_score(is_known, np.concatenate([known_N, unknown_N]))),
            "false_95": float((unknown_N >= np.quantile(known_N, 0.05)).mean()),
        }
    return found

"""Metrics from each photo's label and prediction. N photos, C classes, T steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas

Z_95 = 1.959964  # quantile of the normal distribution
BINS = 15


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion, `right` of `count` (Wilson, 1927). Unlike a
    bootstrap it does not shrink to nothing where all or none are right."""
    from scipy.stats import binomtest

    found = binomtest(int(right), int(count)).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def paired_interval(right_N: np.ndarray, other_N: np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the difference of two accuracies on the same photos: an
    adjusted Wald interval (Bonett & Price, 2012), which only photos that one of the two answers
    right move."""
    count = len(right_N)
    ours = (np.sum(right_N & ~other_N) + 1) / (count + 2)
    theirs = (np.sum(other_N & ~right_N) + 1) / (count + 2)
    difference = ours - theirs
    width = Z_95 * np.sqrt((ours + theirs - difference**2) / (count + 2))
    return float(max(-1.0, difference - width)), float(min(1.0, difference + width))


def mean_interval(values_N: np.ndarray) -> dict[str, Any]:
    """Mean over photos and its 95 % confidence interval (normal); that of one photo is a point."""
    mean = float(values_N.mean())
    half = Z_95 * float(values_N.std(ddof=1)) / len(values_N) ** 0.5 if len(values_N) > 1 else 0.0
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., 2017, equation 3): the mean distance of confidence
    and accuracy over bins of equal width, weighted by their photos."""
    place_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    right = np.bincount(place_N, right_N, bins)
    confidence = np.bincount(place_N, confidence_N, bins)
    return float(np.abs(right - confidence).sum() / len(right_N))


def per_class(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: Sequence[str]
) -> pandas.DataFrame:
    """Precision, recall, F1 and number of photos of each class, and their mean over the classes
    that have photos."""
    import pandas
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        labels_N, predicted_N, labels=range(len(classes)), zero_division=0
    )
    table = pandas.DataFrame(
        dict(zip(("precision", "recall", "f1", "photos"), scores, strict=True)),
        index=pandas.Index(classes, name="class"),
    )
    means = table.loc[table["photos"] > 0, ["precision", "recall", "f1"]].mean()
    table.loc["mean over classes"] = [*means, len(labels_N)]
    return table.astype({"photos": int})


def confusion(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: Sequence[str]
) -> pandas.DataFrame:
    """Photos of each class (rows) by predicted class (columns)."""
    import pandas
    from sklearn.metrics import confusion_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a data set with a single class
        counts_CC = confusion_matrix(labels_N, predicted_N, labels=range(len(classes)))
    rows = pandas.Index(classes, name="class")
    return pandas.DataFrame(counts_CC, index=rows, columns=list(classes))


def confused_pairs(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: Sequence[str]
) -> pandas.DataFrame:
    """The cells of `confusion` that are not empty: class, predicted class and number of photos."""
    import pandas

    names = np.asarray(classes, object)
    pairs = pandas.DataFrame({"class": labels_N, "predicted": predicted_N})
    table = pairs.value_counts(sort=False).rename("photos").reset_index()
    return table.assign(**{name: names[table[name]] for name in pairs})

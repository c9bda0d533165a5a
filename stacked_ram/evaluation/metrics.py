"""Metrics from each photo's label and prediction. N photos, C classes, T steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stacked_ram.runtime.fonts import families

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


def reliability_png(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> bytes:
    """Draw a reliability diagram: accuracy over confidence, and how many photos are in each bin."""
    import io

    from matplotlib.figure import Figure

    place_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    counts = np.bincount(place_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(place_N, right_N, bins) / counts
    middles = (np.arange(bins) + 0.5) / bins
    figure = Figure(figsize=(4.2, 4.8), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfectly calibrated")
    top.bar(middles, accuracy, width=0.9 / bins, color="#0072b2", label="this model")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    error = calibration_error(confidence_N, right_N, bins)
    top.set_title(f"Calibration error {error:.1%}, {len(right_N)} photos", fontsize=10)
    top.legend(loc="upper left", fontsize=8, frameon=False)
    below.bar(middles, counts, width=0.9 / bins, color="0.6")
    below.set(xlabel="confidence: probability of the predicted class", ylabel="photos")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


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


def confusion_png(table: pandas.DataFrame) -> bytes:
    """Draw a confusion matrix; shades are fractions of the row."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    counts_CC = table.to_numpy()
    count = len(table)
    side = 3 + 0.32 * min(count, 60)
    content = io.BytesIO()
    with rc_context({"font.family": families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no font here has: boxes
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.add_subplot()
        fractions_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(fractions_CC, display_labels=list(table.columns))
        display.plot(
            ax=axes, cmap="Blues", include_values=count <= 40, xticks_rotation="vertical",
            colorbar=False, text_kw={"fontsize": 7}, im_kw={"vmin": 0, "vmax": 1},
        )  # fmt: skip
        if count <= 40:  # shades are fractions, numbers are photos
            for text, number in zip(display.text_.flat, counts_CC.flat, strict=True):
                text.set_text(str(number) if number else "")
        figure.colorbar(display.im_, label="fraction of the class's photos", shrink=0.8)
        axes.set(xlabel="predicted", ylabel="class")
        figure.savefig(content, format="png", dpi=120)
    return content.getvalue()

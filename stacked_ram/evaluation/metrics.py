"""What a test reports, from each photo's label and prediction. N photos, C classes, T steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stacked_ram.viz.fonts import families

if TYPE_CHECKING:
    import pandas

RESAMPLES = 10_000
BINS = 15


def bootstrap_interval(
    right_N: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy (Efron, 1979).

    A resample of N right-or-wrong answers has a binomial number of right ones, so it is drawn
    directly.
    """
    count = len(right_N)
    drawn = np.random.default_rng(seed).binomial(count, np.mean(right_N), RESAMPLES) / count
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    """Precision, recall, F1 and number of photos of each class, and their mean over classes."""
    import pandas
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        labels_N, predicted_N, labels=range(len(classes)), zero_division=0
    )
    table = pandas.DataFrame(
        dict(zip(("precision", "recall", "f1", "photos"), scores, strict=True)),
        index=pandas.Index(classes, name="class"),
    )
    means = table[["precision", "recall", "f1"]].mean()
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
    """A confusion matrix as a picture; shades are shares of the row."""
    import io

    from matplotlib.figure import Figure

    counts_CC = table.to_numpy()
    count = len(table)
    side = 3 + 0.32 * min(count, 60)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    image = axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class's photos", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="class")
    axes.set_xticks(range(count), table.columns, rotation=90, fontfamily=families())
    axes.set_yticks(range(count), table.index, fontfamily=families())
    if count <= 40:
        for row, column in zip(*counts_CC.nonzero(), strict=True):
            colour = "white" if shares_CC[row, column] > 0.5 else "black"
            number = counts_CC[row, column]
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=7)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no font here has: boxes
        figure.savefig(content, format="png", dpi=120)
    return content.getvalue()

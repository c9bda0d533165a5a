"""Plots of metrics as PNG files. N photos, C classes."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from stacked_ram.evaluation.metrics import BINS, calibration_error
from stacked_ram.runtime.fonts import families

if TYPE_CHECKING:
    import pandas


def reliability_png(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> bytes:
    """Draw a reliability diagram: accuracy over confidence, and how many photos are in each bin."""
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


def confusion_png(table: pandas.DataFrame) -> bytes:
    """Draw a confusion matrix; shades are fractions of the row."""
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

"""Make a model's probabilities honest, and know below which of them it should not answer.

Temperature scaling (Guo et al., "On calibration of modern neural networks", 2017, section 4.2)
divides the class scores by one number, chosen for the smallest loss on the validation split. It
changes no answer, only how sure the model says it is. With several labels the scores are divided
before the sigmoid, and the thresholds of the classes move along.

N photos   C classes
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stacked_ram.config.schema import Config
from stacked_ram.evaluation.metrics import calibration_error
from stacked_ram.evaluation.multi_label import least_margin
from stacked_ram.runs.checkpoint import LoadedRun, read_weights, save_weights
from stacked_ram.runtime.errors import UserError, check

LEAST = 1e-12  # probability
PERCENTS = 101  # stored quantiles of the confidence: 0 to 100 % of the photos


def check_can_calibrate(config: Config) -> None:
    """Raise UserError if the run has learned the validation split."""
    if config.data.train_on != "train":
        raise UserError(
            "--calibrate: the temperature is chosen on the validation split, which this run has"
            f" learned (train_on: {config.data.train_on}); calibrate a run that was trained on"
            " train alone"
        )


def fit_temperature(scores_XN: np.ndarray, labels_X: np.ndarray) -> float:
    """Return the temperature for which scores (before the softmax, or log probabilities; with
    several labels, labels x N, before the sigmoid) have the smallest mean cross-entropy."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_expit, log_softmax

    def loss_at(log_temperature: float) -> float:
        scaled_XN = scores_XN * np.exp(-log_temperature)
        if labels_X.ndim == 2:
            return float(-log_expit(np.where(labels_X, scaled_XN, -scaled_XN)).sum(1).mean())
        logs_XN = log_softmax(scaled_XN, axis=1)
        return float(-logs_XN[np.arange(len(labels_X)), labels_X].mean())

    found = minimize_scalar(loss_at, bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def tempered(beliefs_NC: np.ndarray, temperature: float, multi_label: bool = False) -> np.ndarray:
    """Return the probabilities after their scores are divided by a temperature."""
    from scipy.special import expit, softmax

    if multi_label:
        return expit(log_odds(beliefs_NC) / temperature)
    return softmax(log_of(beliefs_NC) / temperature, axis=1)


def log_of(beliefs_NC: np.ndarray) -> np.ndarray:
    """Return log probabilities, which are finite."""
    return np.log(np.maximum(beliefs_NC.astype(np.float64), LEAST))


def log_odds(beliefs_NC: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), which is finite."""
    return log_of(beliefs_NC) - log_of(1 - beliefs_NC.astype(np.float64))


def loss(beliefs_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the mean cross-entropy; with several labels (N x C), of the classes' sum."""
    if labels_N.ndim == 2:
        each_NC = np.where(labels_N, beliefs_NC, 1 - beliefs_NC.astype(np.float64))
        return float(-log_of(each_NC).sum(1).mean())
    return float(-log_of(beliefs_NC)[np.arange(len(labels_N)), labels_N].mean())


def calibrated(loaded: LoadedRun, beliefs_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
    """Calibrate a model by its beliefs about the validation split, and store it in its file.

    Returns:
        The temperature, and loss and calibration error on that split before and after.

    Raises:
        NotWritten: the weights file cannot be written.
    """
    several = loaded.metadata.multi_label
    further = fit_temperature((log_odds if several else log_of)(beliefs_NC), labels_N)
    after_NC = tempered(beliefs_NC, further, several)
    thresholds_C = tempered(loaded.model.thresholds_N.numpy(), further, True) if several else None
    sure_N = after_NC.max(1) if thresholds_C is None else least_margin(after_NC, thresholds_C)
    confidences = np.quantile(sure_N, np.linspace(0, 1, PERCENTS))
    loaded.metadata = dataclasses.replace(
        loaded.metadata,
        temperature=loaded.metadata.temperature * further,
        confidences=tuple(float(value) - 1e-6 for value in confidences),
        thresholds=() if thresholds_C is None else tuple(thresholds_C.tolist()),
    )
    loaded.model.temperature = loaded.metadata.temperature
    loaded.model.thresholds = loaded.metadata.thresholds
    weights, _ = read_weights(loaded.path)
    save_weights(loaded.path, weights, loaded.metadata)
    return {
        "temperature": loaded.metadata.temperature,
        "photos": len(labels_N),
        "split": "valid",
        "loss": [loss(beliefs_NC, labels_N), loss(after_NC, labels_N)],
        "calibration_error": [
            calibration_error(beliefs.ravel(), labels_N.ravel())
            if several
            else calibration_error(beliefs.max(1), beliefs_NC.argmax(1) == labels_N)
            for beliefs in (beliefs_NC, after_NC)
        ],
    }


def least_confidence(loaded: LoadedRun, coverage: float) -> float:
    """Return the confidence that a fraction `coverage` of the validation photos reached.

    Raises:
        UserError: the fraction is not in 0 to 1, or the model is not calibrated.
    """
    check(0 <= coverage <= 1, f"coverage: {coverage} is not in 0 to 1")
    known = loaded.metadata.confidences
    if not known:
        raise UserError(
            f"{loaded.path}: --coverage needs a calibrated model; run `test --calibrate` first"
        )
    return float(np.interp(1 - coverage, np.linspace(0, 1, len(known)), known))

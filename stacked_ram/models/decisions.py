"""Decisions on several labels: which classes a photo has, by a threshold for each. N classes"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Values = TypeVar("Values", Tensor, np.ndarray)


def decision_margins(beliefs: Values, thresholds_N: Values) -> Values:
    """Return how far each probability lies from its threshold, as a fraction of the way from there
    to 0 or to 1: 0 at the threshold, 1 where the model is certain.

    beliefs: probabilities, ... x N. thresholds_N: each above 0 and below 1.
    """
    above = beliefs >= thresholds_N
    way = above * (1 - thresholds_N) + ~above * thresholds_N
    return abs(beliefs - thresholds_N) / way


def photo_f1(said: Values, labels: Values) -> Values:
    """Return the F1 of the classes said of each photo, over the last axis: twice those that are
    right, over those that are said and those that the photo has. 1 where there are neither.

    said: boolean. labels: 0 or 1, or between where two photos are blended.
    """
    both, count = (said * labels).sum(-1), said.sum(-1) + labels.sum(-1)
    nothing = count == 0
    return (2 * both + nothing) / (count + nothing)

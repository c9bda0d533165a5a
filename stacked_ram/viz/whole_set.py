"""Where a model looks over a whole split: the numbers behind the overview and the galleries.

N photos   T steps   S levels
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from stacked_ram.data.batch import Batch
from stacked_ram.data.left_out import LeftOut
from stacked_ram.evaluation.cost import Cost, photo_cost, typical_size
from stacked_ram.evaluation.early_exit import (
    ExitTable,
    Stop,
    check_criterion,
    stopped_after,
    table_of,
)
from stacked_ram.evaluation.metrics import wilson_interval
from stacked_ram.evaluation.multi_label import (
    interval,
    least_margin,
    mean_average_precision,
    resampled_map,
)
from stacked_ram.evaluation.objects import hits, objects_of
from stacked_ram.evaluation.predictions import traces
from stacked_ram.evaluation.verdict import FEWEST, movement
from stacked_ram.models.attention.hard import CategoricalPolicy
from stacked_ram.models.decisions import photo_f1
from stacked_ram.models.trace import Trace
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.viz.photo_record import Answer, answer_name, answer_probability
from stacked_ram.viz.photos import Split
from stacked_ram.viz.records import believed, numpy

AT_EDGE = 0.97  # a location with a coordinate beyond this counts as at the edge


@dataclass
class WholeSet:
    """Photos in the order of the split."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    names: Sequence[str]
    labels_N: np.ndarray
    """The true answer."""
    predicted_NT: np.ndarray
    """Answer after each step."""
    true_NT: np.ndarray
    """Probability of the true answer after each step."""
    confidence_NT: np.ndarray
    """How sure it is after each step: the probability of the predicted class or, where a photo may
    have several, the smallest margin of a decision."""
    locations_NTS2: np.ndarray
    inside_NT: np.ndarray
    """1 where the last level's location lies inside the object's box, else 0; nan without a box."""
    box_fraction_N: np.ndarray
    """Fraction of the photo that its box covers: how often a random location lies inside."""
    centre_inside_N: np.ndarray
    """1 where the photo's centre lies inside the box, else 0; nan without a box."""
    sizes_N2: np.ndarray
    """True (height, width)."""
    chosen_T: tuple[bool, ...]
    """Whether the attention (policy or soft) chose the location of each step."""
    glance_predicted_N: np.ndarray | None = None
    glance_true_N: np.ndarray | None = None
    glance_confidence_N: np.ndarray | None = None
    stops_NT: np.ndarray | None = None
    """Probability of being right already after each step, by the stopping head where there is
    one."""
    stop: Stop | None = None
    """When the model stops looking; None: never before the last step."""
    cost: Cost | None = None
    """Of a photo of typical size."""
    labels_NC: np.ndarray | None = None
    """Where a photo may have several classes: bool, N x C."""
    beliefs_NTC: np.ndarray | None = None
    """There: class probabilities after each step, and before them those after the glance, where
    there is one."""
    thresholds_C: np.ndarray | None = None
    """There: the probability from which on each class is said."""
    answers: list[Answer] = field(default_factory=list)
    """What labels and predictions are numbers of: single classes, in their order; or, where a photo
    may have several, the sets of classes that occur."""
    cells: tuple[int, int] | None = None
    """Rows and columns of the cells that a categorical policy chooses among; None for others."""

    def __post_init__(self) -> None:
        self.answers = self.answers or [(label,) for label in range(len(self.classes))]

    @property
    def right_NT(self) -> np.ndarray:
        return self.predicted_NT == self.labels_N[:, None]

    @property
    def has_glance(self) -> bool:
        """Whether a glance starts the core, so that it may be enough."""
        return self.glance_predicted_N is not None

    def with_glance(self, values_NT: np.ndarray, glance_N: np.ndarray | None) -> np.ndarray:
        """Values after each step, and before them that after the glance where there is one."""
        return values_NT if glance_N is None else np.hstack([glance_N[:, None], values_NT])

    @property
    def used_N(self) -> np.ndarray:
        """Glimpses at each photo before the model stopped; 0 where its glance was enough."""
        if self.stop is None:
            return np.full(len(self.labels_N), self.steps)
        sure_NT, fewest = self.sure
        return stopped_after(sure_NT, self.stop.at) + fewest

    @property
    def sure(self) -> tuple[np.ndarray, int]:
        """The probability that decides on stopping after each step, and the glimpses that the
        first of them follows."""
        if self.stop is not None and self.stop.by == "stop":
            assert self.stops_NT is not None  # `check_criterion` was asked
            return self.stops_NT, 1
        sure_NT = self.with_glance(self.confidence_NT, self.glance_confidence_N)
        return sure_NT, 1 + self.steps - sure_NT.shape[1]

    def in_the_end(self, values_NT: np.ndarray, glance_N: np.ndarray | None) -> np.ndarray:
        """Of values after each step, those where the model stopped."""
        values_NT = self.with_glance(values_NT, glance_N)
        return values_NT[np.arange(len(values_NT)), self.used_N - self.steps - 1]

    @property
    def predicted_N(self) -> np.ndarray:
        """Class predicted where the model stopped."""
        return self.in_the_end(self.predicted_NT, self.glance_predicted_N)

    @property
    def true_N(self) -> np.ndarray:
        """Probability of the true class where the model stopped."""
        return self.in_the_end(self.true_NT, self.glance_true_N)

    @property
    def confidence_N(self) -> np.ndarray:
        """Probability of the predicted class where the model stopped."""
        return self.in_the_end(self.confidence_NT, self.glance_confidence_N)

    @property
    def right_N(self) -> np.ndarray:
        return self.predicted_N == self.labels_N

    @property
    def final_from_N(self) -> np.ndarray:
        """The step (from 1) from which each prediction stayed the same until the model stopped; 0
        where its glance was enough."""
        differs_NT = self.predicted_NT != self.predicted_N[:, None]
        differs_NT &= np.arange(self.steps) < self.used_N[:, None]
        last_N = self.steps - differs_NT[:, ::-1].argmax(1)  # the last step that differs, from 1
        return np.minimum(np.where(differs_NT.any(1), last_N + 1, 1), self.used_N)

    @property
    def can_stop(self) -> bool:
        """Whether there is a step before the last, after which it could stop."""
        return self.cost is not None and self.steps + self.has_glance > 1

    def exits(self) -> tuple[ExitTable, str]:
        """What stopping at each threshold would give, and what the threshold is compared with. The
        F1 of the photos stands in for the accuracy where a photo may have several classes."""
        sure_NT, fewest = self.sure
        right_NT = self.with_glance(self.predicted_NT, self.glance_predicted_N)
        right_NT = right_NT[:, -sure_NT.shape[1] :] == self.labels_N[:, None]
        by = "belief" if self.stop is None else self.stop.by
        if self.beliefs_NTC is not None and self.labels_NC is not None:
            said_NTC = self.beliefs_NTC[:, -sure_NT.shape[1] :] >= self.thresholds_C
            right_NT = photo_f1(said_NTC, self.labels_NC[:, None])
        return table_of(right_NT, sure_NT, fewest), by

    @property
    def steps(self) -> int:
        return self.predicted_NT.shape[1]

    @property
    def labels(self) -> list[int]:
        """The classes that have photos."""
        if self.labels_NC is not None:
            return np.flatnonzero(self.labels_NC.any(0)).tolist()
        return np.unique(self.labels_N).tolist()

    def photos_of(self, label: int) -> np.ndarray:
        """Which photos have a class, N."""
        return self.labels_N == label if self.labels_NC is None else self.labels_NC[:, label]

    def name(self, answer: int) -> str:
        """The name of an answer by its number."""
        return answer_name(self.answers[answer], self.classes)

    @property
    def metric(self) -> str:
        """What `figure` and `accuracy` measure."""
        return "accuracy" if self.labels_NC is None else "mAP"

    @cached_property
    def figure(self) -> tuple[float, list[float]]:
        """How good it is where it stops, and the 95 % confidence interval of that."""
        if self.labels_NC is None or self.beliefs_NTC is None:
            right = wilson_interval(self.right_N.sum(), len(self.right_N))
            return float(self.right_N.mean()), list(right)
        end_NC = self.beliefs_NTC[np.arange(len(self.names)), self.used_N - self.steps - 1]
        found = mean_average_precision(self.labels_NC, end_NC)
        return found, interval(resampled_map(self.labels_NC, end_NC))

    def class_figure(self, label: int) -> tuple[str, float]:
        """What is measured of a class that has photos, in a word, and how good it is."""
        if self.labels_NC is None or self.beliefs_NTC is None:
            return "right", float(self.right_N[self.labels_N == label].mean())
        only = slice(label, label + 1)
        return "AP", mean_average_precision(self.labels_NC[:, only], self.beliefs_NTC[:, -1, only])

    @property
    def changes_N(self) -> np.ndarray:
        """How often each photo's prediction changed from step to step."""
        return (self.predicted_NT[:, 1:] != self.predicted_NT[:, :-1]).sum(1)

    def cells_at(self, step: int) -> tuple[int, int] | None:
        """The cells that the policy chose among at a step; None where it chose none."""
        return self.cells if self.chosen_T[step] else None

    @property
    def distance_NT(self) -> np.ndarray:
        """Distance of the last level's locations from the photo's centre (1: an edge's middle)."""
        return np.hypot(*np.moveaxis(self.locations_NTS2[:, :, -1], -1, 0))

    @property
    def has_boxes(self) -> bool:
        return bool(np.isfinite(self.inside_NT).any())

    @property
    def aspect(self) -> float:
        """Height over width of the median photo."""
        return float(np.median(self.sizes_N2[:, 0] / self.sizes_N2[:, 1]))

    def accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps (0: after the glance, where there is one) and the accuracy, or mAP, after each."""
        if self.labels_NC is not None and self.beliefs_NTC is not None:
            each_T = np.moveaxis(self.beliefs_NTC, 1, 0)
            found = [mean_average_precision(self.labels_NC, each_NC) for each_NC in each_T]
            return np.arange(self.steps + 1 - len(found), self.steps + 1), np.array(found)
        accuracy_T = self.right_NT.mean(0)
        if self.glance_predicted_N is None:
            return np.arange(1, self.steps + 1), accuracy_T
        of_glance = (self.glance_predicted_N == self.labels_N).mean()
        return np.arange(self.steps + 1), np.concatenate([[of_glance], accuracy_T])


def record_split(run: LoadedRun, split: Split, stop: Stop | None = None) -> WholeSet:
    """One deterministic pass over a split, in the precision in which the run is tested. Photos
    that cannot be read are taken out of the split. stop: when the model stops looking."""
    if stop is not None:
        check_criterion(run.model, stop.by)
    model, attention = run.model, run.model.levels[-1].attention
    left_out = LeftOut(split.dataset)
    chosen: tuple[bool, ...] = ()
    parts: list[dict[str, np.ndarray]] = []
    precision = run.config.training.precision
    for batch, trace in traces(model, split.loader, precision=precision, left_out=left_out):
        boxes_B4, sizes_B2 = numpy(batch.boxes_B4), numpy(batch.sizes_B2)
        locations_BTS2 = trace.locations_BTS2
        boxes_B14 = objects_of(split.dataset, batch)
        middle_B12 = torch.zeros_like(locations_BTS2[:, :1, -1])
        part = {
            "index": numpy(batch.index_B).astype(int),
            **(several_part if trace.multi_label else part_of)(trace, batch),
            "locations_NTS2": numpy(locations_BTS2),
            "inside_NT": numpy(hits(locations_BTS2[:, :, -1], boxes_B14, batch.sizes_B2)),
            "box_fraction_N": np.prod(boxes_B4[:, 2:] - boxes_B4[:, :2], 1) / np.prod(sizes_B2, 1),
            "centre_inside_N": numpy(hits(middle_B12, boxes_B14, batch.sizes_B2))[:, 0],
        }
        if trace.stop_logits_BT is not None:
            part["stops_NT"] = numpy(trace.stop_logits_BT.float().sigmoid())
        parts.append(part)
        chosen = tuple(step or not model.has_policy for step in trace.chosen_T)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    index = joined.pop("index")
    order = index.argsort()
    if left_out:
        split.keep(index[order])
    dataset = split.dataset
    answers: list[Answer] = []
    if dataset.multi_label:
        answers = several_answers(joined, model.thresholds_N.numpy())
    return WholeSet(
        dataset=dataset.name,
        split=dataset.split,
        classes=run.classes,
        names=dataset.names,
        answers=answers,
        thresholds_C=model.thresholds_N.numpy() if dataset.multi_label else None,
        sizes_N2=dataset.sizes,
        chosen_T=chosen,
        stop=stop,
        cost=photo_cost(model, *typical_size(dataset, run.config.data)),
        cells=attention.regions if isinstance(attention, CategoricalPolicy) else None,
        **{name: value[order] for name, value in joined.items()},
    )


def part_of(trace: Trace, batch: Batch) -> dict[str, np.ndarray]:
    """The fields about the answers to a batch of photos with one class each."""
    belief_BTN = trace.logits_BTN.float().softmax(2)
    labels_B11 = batch.labels_B[:, None, None].expand(-1, belief_BTN.shape[1], 1)
    confidence_BT, predicted_BT = belief_BTN.max(2)
    part = {
        "labels_N": numpy(batch.labels_B).astype(int),
        "predicted_NT": numpy(predicted_BT).astype(int),
        "true_NT": numpy(belief_BTN.gather(2, labels_B11)[..., 0]),
        "confidence_NT": numpy(confidence_BT),
    }
    if trace.glance_logits_BN is not None:
        glance_BN = trace.glance_logits_BN.float().softmax(1)
        sure_B, predicted_B = glance_BN.max(1)
        part["glance_predicted_N"] = numpy(predicted_B).astype(int)
        part["glance_confidence_N"] = numpy(sure_B)
        part["glance_true_N"] = numpy(glance_BN.gather(1, batch.labels_B[:, None])[:, 0])
    return part


def several_part(trace: Trace, batch: Batch) -> dict[str, np.ndarray]:
    """The same of photos that may have several classes: what `several_answers` reads."""
    scores_BTN = trace.logits_BTN
    if trace.glance_logits_BN is not None:
        scores_BTN = torch.cat([trace.glance_logits_BN[:, None], scores_BTN], 1)
    return {
        "labels_NC": numpy(batch.labels_B) > 0,
        "beliefs_NTC": believed(trace, scores_BTN),
    }


def several_answers(fields: dict[str, np.ndarray], thresholds_C: np.ndarray) -> list[Answer]:
    """Number the sets of classes that photos have and are said to have, and add the fields of
    WholeSet that hold such numbers; returns the sets."""
    labels_NC, beliefs_NTC = fields["labels_NC"], fields["beliefs_NTC"]
    count, rows, classes = beliefs_NTC.shape
    said_NTC = beliefs_NTC >= thresholds_C
    both = np.concatenate([labels_NC, said_NTC.reshape(-1, classes)])
    sets, numbers = np.unique(both, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    steps = fields["locations_NTS2"].shape[1]
    fields["labels_N"] = numbers[:count]
    by_step = {
        "predicted": numbers[count:].reshape(count, rows),
        "true": answer_probability(beliefs_NTC, labels_NC[:, None]),
        "confidence": least_margin(beliefs_NTC, thresholds_C),
    }
    for name, values in by_step.items():
        fields[f"{name}_NT"] = values[:, rows - steps :]
        if rows > steps:
            fields[f"glance_{name}_N"] = values[:, 0]
    return [tuple(np.flatnonzero(has_C).tolist()) for has_C in sets]


def warnings(whole: WholeSet) -> list[str]:
    """Sentences about what is wrong with where the model looks."""
    chosen = np.flatnonzero(whole.chosen_T)
    if not len(chosen) or len(whole.labels_N) < FEWEST:
        return []
    locations_NT2 = whole.locations_NTS2[:, :, -1]
    found = movement(locations_NT2, whole.chosen_T)
    at_edge = float((np.abs(locations_NT2[:, chosen]) > AT_EDGE).any(2).mean())
    if at_edge > 0.5:
        found.append(
            f"{at_edge:.0%} of the locations it chose lie at the photo's edge: its policy ran"
            " into the border."
        )
    return found


def chosen_threshold(run: LoadedRun, whole: WholeSet) -> float | None:
    """The threshold that the model stops at here; otherwise the one that `test --exit-accuracy` or
    `--exit-glimpses` wrote into the run's folder, if it did."""
    if whole.stop is not None:
        return whole.stop.at
    try:
        report = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
        found = report["early_exit"]
        return found["threshold"] if found["by"] == "belief" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no test, another test, or one without early exit

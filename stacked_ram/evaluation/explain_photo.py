"""Explain one photo: what the model would have believed elsewhere, and which glimpse decided.

T steps   K = T + 1   G places   N classes   P patch size
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch

from stacked_ram.evaluation.attribution import glimpse_evidence, has_captum
from stacked_ram.evaluation.causes import cause_of
from stacked_ram.evaluation.objects import at_object, narrowest
from stacked_ram.evaluation.what_if import grid_of, what_if
from stacked_ram.models.attention.base import region_centres
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast

PLACES = 300


@dataclass
class PhotoExplanation:
    """Beliefs are probabilities from 0 to 1. "At the end": after the last glimpse. Steps and places
    count from 0."""

    classes: tuple[str, ...]
    label: int
    """The class that maps, drops and evidence are about."""
    grid: tuple[int, int]
    """Rows and columns of the places, which cover the photo row by row."""
    beliefs_KN: np.ndarray
    """On the model's own path: before the first glimpse (after the glance, where there is one), and
    after each."""
    forced_TGN: np.ndarray
    """At the end, with glimpse t at place g instead."""
    hidden_TN: np.ndarray
    """At the end, without glimpse t."""
    temperature: float
    """Scores were divided by it. It comes from `test --explain`; 1 where that has not been run."""
    calibrated: bool
    """Whether `test --explain` found a temperature for this model."""
    cause: str | None = None
    """Why the answer is wrong; None where it is right, or the true class is not known."""
    evidence: list[np.ndarray] | None = None
    """For each surface that is read, T x K x P x P: nats of log belief in the class that each patch
    pixel gave; None without Captum."""

    @property
    def places_G2(self) -> np.ndarray:
        """(x, y) of the places, in [-1, 1]."""
        return region_centres(self.grid).numpy()

    @property
    def maps_TYX(self) -> np.ndarray:
        """Belief in the class at the end by place of each glimpse, T x rows x columns."""
        return self.forced_TGN[..., self.label].reshape(-1, *self.grid)

    @property
    def own(self) -> float:
        """Belief in the class at the end, as it looked."""
        return float(self.beliefs_KN[-1, self.label])

    @property
    def without_T(self) -> np.ndarray:
        """Belief in the class at the end without each glimpse."""
        return self.hidden_TN[:, self.label]

    @property
    def elsewhere_T(self) -> np.ndarray:
        """Belief in the class at the end with each glimpse at a random place: the mean over all
        places."""
        return self.forced_TGN[..., self.label].mean(1)

    @property
    def deciding(self) -> int:
        """The glimpse whose absence changes the belief in the class most."""
        return int(np.abs(self.own - self.without_T).argmax())

    @property
    def best(self) -> tuple[int, int]:
        """The glimpse and the place at which the belief in the class is highest."""
        step, place = divmod(int(self.forced_TGN[..., self.label].argmax()), len(self.places_G2))
        return step, place


def explain_photo(
    loaded: LoadedRun,
    photos: PhotoBatch,
    *,
    label: int | None = None,
    about: int | None = None,
    box_4: np.ndarray | None = None,
    num_glimpses: int | None = None,
    places: int = PLACES,
) -> PhotoExplanation:
    """Explain a batch of one photo.

    label: its true class, where it is known. about: the class to explain; default: the true one, or
    else the predicted one. box_4: the object's (left, top, right, bottom) in pixels, where it is
    known. places: of the maps, at most; a policy over cells has its own.
    """
    model = loaded.model
    kept = kept_temperature(loaded)
    temperature = kept or 1.0
    height, width = photos.sizes_B2[0].tolist()
    grid = grid_of(model, (height, width), places)
    with autocast(loaded.device, loaded.config.training.precision):
        found = what_if(model, photos, grid, num_glimpses)
    own_KN, forced_TGN, hidden_TN = (
        (values[0].float() / temperature).softmax(-1).cpu().numpy()
        for values in (found.own_BKN, found.forced_BTGN, found.hidden_BTN)
    )
    predicted = int(own_KN[-1].argmax())
    if about is None:
        about = predicted if label is None else label
    cause = None
    if label is not None and label != predicted:
        hit = None
        if box_4 is not None:
            objects_114 = torch.from_numpy(box_4).view(1, 1, 4).to(found.boxes_BTSK4)
            hit = bool(at_object(narrowest(found.boxes_BTSK4), objects_114).any())
        cause = cause_of(own_KN[:, label], float(forced_TGN[..., label].max()), hit)
    patched = all(isinstance(level.retina, PatchRetina) for level in model.levels)
    return PhotoExplanation(
        loaded.classes, about, grid, own_KN, forced_TGN, hidden_TN, temperature, kept is not None,
        cause,
        glimpse_evidence(model, photos, about, num_glimpses) if patched and has_captum() else None,
    )  # fmt: skip


def kept_temperature(loaded: LoadedRun) -> float | None:
    """What these scores must still be divided by, as `test --explain` found; None if it was not
    run. It keeps the whole temperature; a calibrated model divides by its own already."""
    try:
        report = json.loads((loaded.folder / "test.json").read_text(encoding="utf-8"))
        same = report["epoch"] == loaded.metadata.epoch
        found = float(report["explain"]["temperature"])
        return found / loaded.model.temperature if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

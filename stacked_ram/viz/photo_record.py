"""What the model did with one photo, as plain arrays that every drawing reads.

T steps   S levels   K patches of P x P pixels   N classes
Y X rows and columns of the regions that an attention weighs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stacked_ram.evaluation.early_exit import Stop, stopped_after
from stacked_ram.evaluation.multi_label import least_margin
from stacked_ram.viz.photos import Photo
from stacked_ram.viz.style import step_colours

Answer = tuple[int, ...]
"""The classes that a photo has or is said to have, in their order; one, where it may have one."""


@dataclass
class Surface:
    """What a retina reads from: the photo, the photo as a level sees it, or a feature map."""

    title: str
    image_HWC: np.ndarray
    """uint8 RGB, at its own resolution."""
    size: tuple[float, float]
    """(height, width) in the units of the boxes, whatever the resolution of the image."""
    boxes_TK4: np.ndarray
    """Exactly what the retina read: (left, top, right, bottom)."""
    patches_TKPPC: np.ndarray
    """uint8 RGB, as the network got them, without the normalisation; K is 0 if nothing was read."""
    is_map: bool = False
    """Whether it is a feature map; its boxes are in cells."""

    @property
    def unit(self) -> str:
        return "cells" if self.is_map else "px"

    @property
    def patch_rows(self) -> int:
        """Number of patches read at each step."""
        return self.patches_TKPPC.shape[1]


@dataclass
class PhotoRecord:
    """What the model did with one photo."""

    photo: Photo
    classes: tuple[str, ...]
    beliefs_TN: np.ndarray
    """Class probabilities after each step."""
    locations_TS2: np.ndarray
    """(x, y) of each glimpse, in [-1, 1]."""
    surfaces: list[Surface]
    """One for each level, or the surfaces of a stack of maps, finest first."""
    means_TS2: np.ndarray
    """Centre of the policy at each step."""
    chosen_T: tuple[bool, ...]
    """Whether the policy chose the location of each step."""
    glance_belief_N: np.ndarray | None = None
    glance_HWC: np.ndarray | None = None
    """uint8 RGB: the whole photo at the glance's resolution."""
    region_weights_TYX: np.ndarray | None = None
    """Weight of each region before each glimpse, where the attention weighs regions."""
    std: float | None = None
    """Standard deviation of a Gaussian policy, in units of location."""
    stops_T: np.ndarray | None = None
    """Probability of being right already after each step, by the stopping head where there is
    one."""
    most_steps: int = 0
    """The steps of the whole pass, where the record holds fewer of them; see `until`."""
    stop: Stop | None = None
    """What it was made to stop by."""
    thresholds_N: np.ndarray | None = None
    """Where a photo may have several classes: the probability from which on each is said."""

    @property
    def main_surface(self) -> Surface:
        """What small pictures show: the photo, in a stack of levels as the top level sees it."""
        return [each for each in self.surfaces if not each.is_map][-1]

    @property
    def maps(self) -> list[Surface]:
        """The feature maps among the surfaces."""
        return [each for each in self.surfaces if each.is_map]

    @property
    def photo_surfaces(self) -> list[Surface]:
        """The surfaces whose patches come from the photo itself, not from a feature map."""
        return [each for each in self.surfaces if each.patch_rows and not each.is_map]

    @property
    def steps(self) -> int:
        return len(self.beliefs_TN)

    @property
    def all_steps(self) -> int:
        """The steps of the whole pass, also of one that was stopped."""
        return max(self.most_steps, self.steps)

    @property
    def stopped(self) -> bool:
        """Whether it stopped before its last step."""
        return self.steps < self.all_steps

    @property
    def colours(self) -> tuple[str, ...]:
        """A colour for each step, the same whether it was stopped or not."""
        return step_colours(self.all_steps)

    @property
    def belief_N(self) -> np.ndarray:
        """Class probabilities after the last step; without steps, after the glance."""
        if self.steps:
            return self.beliefs_TN[-1]
        assert self.glance_belief_N is not None  # only a glance can be enough
        return self.glance_belief_N

    @property
    def predicted(self) -> int:
        """The likeliest class in the end."""
        return int(self.belief_N.argmax())

    def answer_of(self, belief_N: np.ndarray) -> Answer:
        """What these class probabilities say: the likeliest class; or, where a photo may have
        several, those above their thresholds."""
        if self.thresholds_N is None:
            return (int(belief_N.argmax()),)
        return tuple(np.flatnonzero(belief_N >= self.thresholds_N).tolist())

    @property
    def answer(self) -> Answer:
        """What it said in the end."""
        return self.answer_of(self.belief_N)

    @property
    def truth(self) -> Answer | None:
        """What would be right; None where that is not known."""
        if self.thresholds_N is not None:
            return self.photo.labels
        return None if self.photo.label is None else (self.photo.label,)

    def name_of(self, answer: Answer) -> str:
        return answer_name(answer, self.classes)

    def sure(self, belief_XN: np.ndarray) -> np.ndarray:
        """How sure answers are, 0 to 1, X values: what early exit compares."""
        if self.thresholds_N is None:
            return belief_XN.max(1)
        return least_margin(belief_XN, self.thresholds_N)

    @property
    def confidence(self) -> float:
        """Probability of the predicted class; where a photo may have several, the smallest margin
        of a decision."""
        return float(self.sure(self.belief_N[None])[0])

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; None where the truth is not known."""
        return None if self.truth is None else self.answer == self.truth

    @property
    def followed(self) -> Answer:
        """What is followed over the steps: the truth where it is known, else the prediction."""
        return self.answer if self.truth is None else self.truth

    def followed_belief(self, belief_XN: np.ndarray) -> np.ndarray:
        """The probability of what is followed, X values."""
        if self.thresholds_N is None:
            return belief_XN[:, self.followed[0]]
        has_N = np.zeros(len(self.classes), bool)
        has_N[list(self.followed)] = True
        return answer_probability(belief_XN, has_N)

    @property
    def final_from(self) -> int:
        """The step (from 1) from which the prediction stayed the same until the end; 0 without
        steps."""
        if not self.steps:
            return 0
        differs = np.flatnonzero(
            [self.answer_of(belief_N) != self.answer for belief_N in self.beliefs_TN]
        )
        return int(differs[-1]) + 2 if len(differs) else 1

    @property
    def object_4(self) -> tuple[float, float, float, float] | None:
        """Where the object is, if the data set says it: (left, top, right, bottom) as fractions of
        the photo's sides."""
        if self.photo.box_4 is None:
            return None
        height, width = self.photo.size
        left, top, right, bottom = (float(edge) for edge in self.photo.box_4)
        return left / width, top / height, right / width, bottom / height

    def until(self, steps: int) -> PhotoRecord:
        """The record as if the model had stopped after this many steps."""
        surfaces = [
            dataclasses.replace(
                surface,
                boxes_TK4=surface.boxes_TK4[:steps],
                patches_TKPPC=surface.patches_TKPPC[:steps],
            )
            for surface in self.surfaces
        ]
        weights = self.region_weights_TYX
        return dataclasses.replace(
            self,
            beliefs_TN=self.beliefs_TN[:steps],
            locations_TS2=self.locations_TS2[:steps],
            surfaces=surfaces,
            region_weights_TYX=None if weights is None else weights[:steps],
            means_TS2=self.means_TS2[:steps],
            chosen_T=self.chosen_T[:steps],
            stops_T=None if self.stops_T is None else self.stops_T[:steps],
            most_steps=self.all_steps,
        )

    def stopped_by(self, stop: Stop | None) -> PhotoRecord:
        """The record as if the model had stopped where `look_until` stops; None: the whole."""
        if stop is None:
            return self
        if stop.by == "belief":
            glance = self.glance_belief_N
            sure_T = self.sure(self.beliefs_TN)
            fewest = 1 if glance is None else 0
            sure_T = sure_T if glance is None else np.append(self.sure(glance[None]), sure_T)
        else:
            assert self.stops_T is not None  # `check_criterion` was asked
            sure_T, fewest = self.stops_T, 1
        steps = fewest + int(stopped_after(sure_T[None], stop.at)[0])
        return dataclasses.replace(self.until(steps), stop=stop)


def answer_probability(beliefs: np.ndarray, has: np.ndarray) -> np.ndarray:
    """The probability that a photo has exactly these classes (bool, ... x N), from that of each."""
    return np.where(has, beliefs, 1 - beliefs).prod(-1)


def answer_name(answer: Answer, classes: Sequence[str]) -> str:
    """Name an answer: the class, or the classes."""
    return ", ".join(classes[label] for label in answer) or "no class"

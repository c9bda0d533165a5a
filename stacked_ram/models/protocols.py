"""The protocols of the model's parts. A part of your own needs no more, and inherits only from
`torch.nn.Module`; `examples/` has one of each.

B photos   R rows: B * M rollouts, photo-major   D features   K patches of P x P pixels, C channels
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stacked_ram.models.attention.base import Context, PolicyOutput
from stacked_ram.models.core import State
from stacked_ram.models.retina.retina import View
from stacked_ram.ops.photo_batch import PhotoBatch


class Retina(Protocol):
    """Photo and location -> glimpse feature.

    Locations are (x, y) in [-1, 1], (-1, -1) the top left corner of the photo; a sampled one may
    lie at the very edge. Rows that look at one photo follow each other: R is a multiple of B.
    A retina may also have `anneal(progress)`, called before every training step with the fraction
    of the training that is done, 0 to 1. A class named in a config by its import path is called
    with `channels`, `geometry` (a GlimpseGeometry), `feature_size` and the `retina_options`.
    """

    out_features: int
    """D, the width of the glimpse feature."""

    def view(self, photos: PhotoBatch) -> View:
        """Do the work that is done once per photo, before the first glimpse."""
        ...

    def boxes(self, view: View, locations_R2: Tensor, smooth: bool = False) -> Tensor:
        """Return the boxes that are read: (left, top, right, bottom) in pixels, R x K x 4."""
        ...

    def __call__(
        self, view: View, locations_R2: Tensor, smooth: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the glimpse feature, R x D, and the patches that were read, R x K x C x P x P, in
        a list (a tensor for each surface of the view). `smooth`: gradients reach the locations."""
        ...


class Core(Protocol):
    """The recurrent network that integrates glimpse features over the steps.

    A state is a tuple of tensors whose first dimension is the rows, so that early exit can select
    rows. In a stack, a level above the first gets its own feature and the output of the level
    below, side by side. A class named in a config by its import path is called with `in_features`,
    `out_features` and the `core_options`.
    """

    out_features: int
    """D, the width of the output."""

    def start(self, rows: int, like: Tensor) -> State:
        """Return the state before the first glimpse, with the dtype and device of `like`."""
        ...

    def __call__(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        """Do one step; return the output, R x D, and the next state."""
        ...


class Attention(Protocol):
    """Core output -> next location.

    There are two kinds. A policy (`differentiable = False`) draws a location: the draw is detached,
    and REINFORCE trains the policy by `log_prob_B` (of the draw, before it is clamped to the
    photo). A policy reads a detached state. A differentiable attention draws nothing: the gradient
    of the classification loss reaches it through the location. Both may have `anneal(progress)`,
    as a retina. A class named in a config by its import path is called with `state_features`,
    `region_features` (None without a glance), `regions` (rows, columns) and the
    `attention_options`.
    """

    differentiable: bool

    def __call__(
        self,
        state_RD: Tensor,
        context: Context | None,
        *,
        sample: bool,
        given_R2: Tensor | None,
        earlier: list[Tensor],
        generator: torch.Generator | None,
    ) -> PolicyOutput:
        """Choose the next location.

        state_RD: the core's last output. context: regions of the glance's map, None without a
        glance. sample: draw with `generator`; otherwise take the mean (or the likeliest). given_R2:
        take this draw instead, and return its log-probability. earlier: the locations so far, R x 2
        for each step; empty before the first glimpse.
        """
        ...

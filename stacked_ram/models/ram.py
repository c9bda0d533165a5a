"""The Recurrent Attention Model (Mnih et al., 2014), as in the paper's figure 1.

    l_t ---> retina(photo, l_t) ---> g_t ---> core(g_t, h_{t-1}) ---> h_t ---> classifier: belief
                                                                       |----> attention: l_{t+1}
                                                                       |----> baseline

Notable features
- any retina with any core and any attention; photos of any shape, several sizes in a batch
- a glance (optional): a low-resolution look at the whole photo before the first glimpse
- levels (stack rnn): each has its own retina, core and location; levels feed upward
- rollouts: M scan paths of a photo share all per-photo work
- class scores, baseline and stopping score are computed for all steps at once, after the last
- the policy and the baseline read a detached state: the policy gradient trains the policy (and,
  with policy_trains_glance, the glance's map), the baseline's regression trains the baseline, the
  classification loss trains everything else (with soft attention and the pathwise estimator,
  gradients go through the crops instead)

    B photos   R rows = B * M rollouts, photo-major   T steps   S levels   N classes   D features
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from stacked_ram.config.model import ModelConfig
from stacked_ram.models.attention.base import PolicyOutput, with_zooms
from stacked_ram.models.decisions import decision_margins
from stacked_ram.models.glance import Glance
from stacked_ram.models.level import (
    Glimpse,
    Level,
    boxes_read,
    glimpse,
    glimpse_ahead,
    num_zooms_of,
    run_cores,
)
from stacked_ram.models.protocols import Attention, Core, Retina
from stacked_ram.models.retina.backbone import Pretrained, find_backbone
from stacked_ram.models.state import LoopState
from stacked_ram.models.trace import Heads, Trace, assemble
from stacked_ram.ops.exported import exporting
from stacked_ram.ops.patches import Photos
from stacked_ram.ops.photo_batch import PhotoBatch

LOCATION_SOURCES = ("policy", "centre", "random")


class RAM(nn.Module):
    """The model, built from its parts (`models/protocols.py` describes what each must do).

    Args:
        retina, core, attention: the parts of a model of one level; or
        levels: several levels, from the lowest to the top one.
        glance: the glance; None for none.
        glance_starts: `core`, or `location`: only the first location.
        glance_dropout: fraction of the photos of a training batch whose glance the core forgets.
        policy_trains_glance: whether the policy's gradient trains the glance's map.
        num_glimpses: steps of a pass (T).
        first_location: where the first glimpse looks: `random` (in evaluation the centre),
            `centre`, or `learned`: chosen by the attention. Soft attention chooses it always.
        dropout: before the classifier, 0 to 1.
        learned_stop: have a head that predicts after each glimpse whether the answer is right.
        mean, std: of the photos' values in 0..1 units, a number for each channel.
        multi_label: whether a photo may have several classes.
    """

    temperature: float = 1.0
    """What the class scores are divided by, once the model is calibrated."""
    multi_label: bool = False
    """Whether a photo may have several classes: each then has a probability of its own."""
    thresholds: Sequence[float] = ()
    """With several labels: the probability from which on a photo is said to have each class; none:
    0.5 for all."""
    config: ModelConfig | None = None
    """The config given to `build_model`; the model itself does not read it."""
    mean: Tensor
    std: Tensor
    levels: Sequence[Level]
    """An nn.ModuleList, which does not tell a type checker what it holds."""

    def __init__(
        self,
        *,
        num_classes: int,
        retina: Retina | None = None,
        core: Core | None = None,
        attention: Attention | None = None,
        levels: Sequence[Level] | None = None,
        glance: Glance | None = None,
        glance_starts: Literal["core", "location"] = "core",
        glance_dropout: float = 0.0,
        policy_trains_glance: bool = False,
        num_glimpses: int = 6,
        first_location: Literal["random", "centre", "learned"] = "random",
        dropout: float = 0.0,
        learned_stop: bool = False,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        multi_label: bool = False,
    ):
        super().__init__()
        if levels is None and retina is not None and core is not None:
            levels = [Level(retina, core, attention)]
        if levels is None or levels[-1].attention is None:
            raise ValueError("RAM: give retina, core and attention, or levels")
        top, policy = levels[-1], levels[-1].attention
        if glance is not None and glance.out_features != top.retina.out_features:
            raise ValueError(
                f"RAM: the glance has {glance.out_features} features, the retina"
                f" {top.retina.out_features}; the core takes both, so they must be equal"
            )
        self.num_classes, self.num_glimpses = num_classes, num_glimpses
        self.multi_label = multi_label
        self.first_location, self.glance_dropout = first_location, glance_dropout
        self.policy_trains_glance = policy_trains_glance
        self.has_policy = not policy.differentiable
        self.backbone = find_backbone(levels)
        self.glance = glance
        self.levels = cast("Sequence[Level]", nn.ModuleList(levels))
        features, width = top.retina.out_features, top.core.out_features
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)
        self.baseline = nn.Linear(width, 1) if self.has_policy else None
        self.stop = nn.Linear(width, 1) if learned_stop else None
        self.first_out: nn.Linear | None = None
        self.attend: nn.Linear | None = None
        if glance is not None and glance_starts == "location":
            self.first_out = nn.Linear(features, width)
        if glance is not None and not self.has_policy:
            self.attend = nn.Linear(glance.region_features, features)
        self.normalises = any(mean) or any(value != 1 for value in std)
        self.register_buffer("mean", torch.tensor(tuple(mean)))
        self.register_buffer("std", torch.tensor(tuple(std)))
        self.shares_location = sum(level.attention is not None for level in levels) == 1
        self.generator: torch.Generator | None = None
        """Draws samples and random locations; None: torch's own."""
        self.activation_checkpointing = False
        """Compute glimpses again in the backward pass, to save memory."""

    def forward(
        self,
        images: Tensor | PhotoBatch,
        sizes_B2: Tensor | None = None,
        *,
        rollouts: int = 1,
        location_source: str = "policy",
        sample: bool | None = None,
        locations_BTS2: Tensor | None = None,
        keep_patches: bool = False,
        num_glimpses: int | None = None,
        smooth: bool = False,
    ) -> Trace:
        """Look at each photo `num_glimpses` times and classify it after each.

        Args:
            images: B x C x H x W, uint8 (0 to 255) or floating point (0 to 1), of any height and
                width; or the result of `photos`.
            sizes_B2: (height, width) of each photo in a batch of several sizes: photos are at the
                top left, zeros fill the rest. None: each fills its image.
            rollouts: scan paths per photo (M); the trace has R = B * M rows, photo-major.
            location_source: `policy`; or `centre` or `random` (controls, warm-up), which never
                have a policy term.
            sample: draw from the policy, or take its mean (or likeliest cell). Default: draw in
                training.
            locations_BTS2: take these draws instead for the first steps, R x t x S x 2, and compute
                their log-probability. With num_zooms over 1, x 3: (x, y, zoom), or x 2 for the
                middle width.
            keep_patches: put the patches in the trace.
            num_glimpses: number of steps. Default: the model's.
            smooth: let gradients reach the locations (pathwise estimator; soft attention always
                does).
        """
        photos = self.photos(images, sizes_B2) if isinstance(images, Tensor) else images
        policy_inputs, outputs, patches = [], [], []
        for state in self.steps(
            photos, rollouts=rollouts, location_source=location_source, sample=sample,
            locations_BTS2=locations_BTS2, num_glimpses=num_glimpses, smooth=smooth,
        ):  # fmt: skip
            policy_inputs.append(state.policy_inputs[-1])
            if state.step > 0:
                outputs.append(state.policy_outputs)
                if keep_patches:
                    patches.append(state.patches)
        boxes = None  # neither training nor an exported program needs them
        if not (self.training or exporting()):
            smooth = smooth or not self.has_policy
            boxes = boxes_read(self.levels, state.views, state.earlier, smooth)
        return assemble(
            outputs, patches, self.heads(policy_inputs), boxes, photos.sizes_B2, rollouts,
            state.glance_logits_RN, self.first_chosen(location_source, len(outputs)),
            self.multi_label,
        )  # fmt: skip

    def photos(self, images: Tensor | PhotoBatch, sizes_B2: Tensor | None = None) -> PhotoBatch:
        """Wrap photos with this model's normalisation; arguments as for `forward`."""
        channels = images.shape[1] if isinstance(images, Tensor) else images.channels
        if channels != len(self.mean):
            raise ValueError(
                f"images (B x C x H x W) have {channels} channels; this model takes"
                f" {len(self.mean)}"
            )
        mean, std = (self.mean, self.std) if self.normalises else (None, None)
        if not isinstance(images, Tensor):
            return images.normalised(mean, std)
        images = images.float() if images.is_floating_point() else images
        return Photos(images, sizes_B2, mean, std)

    # ------------------------------------------------------------------ one step after the other

    def steps(
        self,
        photos: PhotoBatch,
        *,
        rollouts: int = 1,
        location_source: str = "policy",
        sample: bool | None = None,
        locations_BTS2: Tensor | None = None,
        num_glimpses: int | None = None,
        smooth: bool = False,
    ) -> Iterator[LoopState]:
        """Yield the state before the first glimpse, then after each; arguments as for `forward`.

        Between two steps `state.keep(rows)` drops photos (location_source `policy` only).
        """
        if location_source not in LOCATION_SOURCES:
            raise ValueError(
                f"location_source: {location_source!r} is not one of {LOCATION_SOURCES}"
            )
        smooth = smooth or not self.has_policy
        sample = self.training if sample is None else sample
        steps = num_glimpses or self.num_glimpses
        given: list[Tensor | None] = [None] * steps
        if locations_BTS2 is not None:
            given_BTS2 = with_zooms(locations_BTS2, self.num_zooms)
            given[: given_BTS2.shape[1]] = given_BTS2.unbind(1)[:steps]
        recompute = self.activation_checkpointing and self.training

        state = self.start(photos, rollouts, smooth)
        yield state
        if location_source != "policy" and self.has_policy and not recompute:
            # no location depends on an earlier glimpse: the retina takes all steps in one batch
            chosen_T = [self.choose(state, location_source, sample, each, smooth) for each in given]
            glimpses_T = glimpse_ahead(self.levels, state.views, chosen_T, smooth)
            for chosen, glimpses in zip(chosen_T, glimpses_T, strict=True):
                state = self.integrate(state, chosen, glimpses)
                yield state
            return
        for given_RS2 in given:
            chosen = self.choose(state, location_source, sample, given_RS2, smooth)
            glimpses = glimpse(self.levels, state.views, chosen, smooth, recompute)
            state = self.integrate(state, chosen, glimpses)
            yield state

    def start(self, photos: PhotoBatch, rollouts: int = 1, smooth: bool = False) -> LoopState:
        """Do all per-photo work, the glance included; return the state before the first glimpse."""
        rows = photos.batch_size * rollouts
        views = [level.retina.view(photos) for level in self.levels]
        like = self.classifier.weight
        cores = [level.core for level in self.levels]
        outputs = [like.new_zeros(rows, core.out_features) for core in cores]
        state = LoopState(views, [core.start(rows, like) for core in cores], outputs)
        if self.glance is None:
            return state
        vector, context = self.glance(photos)
        vector = vector.repeat_interleave(rollouts, 0)
        if self.has_policy and not (smooth or self.policy_trains_glance):
            context = context.detach()
        state.contexts = [
            context.read_by(level.attention).repeat(rollouts) for level in self.levels
        ]
        if self.first_out is not None:
            state.glance_RD = self.first_out(vector)
            return state
        vectors = [vector] * len(self.levels)
        state.outputs, state.core_states = run_cores(self.levels, vectors, state.core_states)
        state.glance_logits_RN = self.scores(state.outputs[-1])
        if self.training and self.glance_dropout > 0:
            drawn_B = like.new_empty(photos.batch_size).uniform_(generator=self.generator)
            state.empty_cores((drawn_B < self.glance_dropout).repeat_interleave(rollouts))
        return state

    def choose(
        self,
        state: LoopState,
        location_source: str = "policy",
        sample: bool = False,
        given_RS2: Tensor | None = None,
        smooth: bool = False,
    ) -> list[PolicyOutput]:
        """Choose where each level looks next. A shared location is chosen by the top level."""
        source = location_source
        if source == "policy" and state.step < self.first_chosen(source, 0):
            source = self.first_location if sample or smooth else "centre"
        chosen = []
        for index, level in enumerate(self.levels):
            if level.attention is not None:
                given = None if given_RS2 is None else given_RS2[:, index]
                chosen.append(
                    level.choose(state, index, source, sample, given, smooth, self.generator)
                )
        return chosen * len(self.levels) if self.shares_location else chosen

    def integrate(
        self, state: LoopState, policy_outputs: list[PolicyOutput], glimpses: list[Glimpse]
    ) -> LoopState:
        """Update the cores with a glimpse; return the state after it."""
        features = []
        for (feature, _), output in zip(glimpses, policy_outputs, strict=True):
            if output.attended_BD is not None:
                assert self.attend is not None  # only a glance gives regions to attend to
                feature = feature + self.attend(output.attended_BD).relu()
            features.append(feature)
        outputs, core_states = run_cores(self.levels, features, state.core_states)
        return dataclasses.replace(
            state,
            core_states=core_states,
            outputs=outputs,
            glance_RD=None,
            policy_outputs=policy_outputs,
            patches=[patches for _, patches in glimpses],
            earlier=[*state.earlier, [output.location_B2 for output in policy_outputs]],
        )

    @property
    def num_zooms(self) -> int:
        """Widths that the policy chooses from with each location."""
        return num_zooms_of(self.levels[-1].attention)

    def first_chosen(self, location_source: str, steps: int) -> int:
        """Return the step from which on the policy chooses locations; `steps` if never."""
        if location_source != "policy" or not self.has_policy:
            return steps
        return 0 if self.first_location == "learned" else 1

    # ------------------------------------------------------------------ heads

    def scores(self, output: Tensor) -> Tensor:
        """Compute class scores from the top core's output, of one step or several."""
        scores = self.classifier(self.dropout(output)).float()
        return scores if self.temperature == 1 else scores / self.temperature

    def beliefs(self, scores: Tensor) -> Tensor:
        """Return class probabilities from class scores, ... x N."""
        return scores.sigmoid() if self.multi_label else scores.softmax(-1)

    def sureness(self, beliefs: Tensor) -> Tensor:
        """Return how sure answers are, 0 to 1, from class probabilities, ... x N: the likeliest
        class's probability; with several labels, the smallest of `decision_margins`."""
        if not self.multi_label:
            return beliefs.amax(-1)
        return decision_margins(beliefs, self.thresholds_N.to(beliefs.device)).amin(-1)

    @property
    def thresholds_N(self) -> Tensor:
        """The threshold of each class, on the CPU."""
        return torch.tensor(self.thresholds or (0.5,) * self.num_classes)

    def heads(self, policy_inputs: list[Tensor]) -> Heads:
        """Compute class scores, baseline and stopping score of all steps at once. policy_inputs:
        of the top level, before the first step and after each, R x D."""
        after_RTD = torch.stack(policy_inputs[1:], 1)
        # the regressions of baseline and stopping train only these two
        before_RTD = torch.stack([each.detach() for each in policy_inputs[:-1]], 1)
        if self.baseline is None:
            baselines_RT = before_RTD.new_zeros(before_RTD.shape[:2])
        else:
            baselines_RT = self.baseline(before_RTD)[..., 0]
        stops_RT = None if self.stop is None else self.stop(after_RTD.detach())[..., 0].float()
        return Heads(self.scores(after_RTD), baselines_RT.float(), stops_RT)

    # ------------------------------------------------------------------ for training and loading

    @property
    def needs_whole_photo(self) -> bool:
        """Whether a retina makes maps of whole photos, whose pixels must be in memory."""
        return any(getattr(level.retina, "maps", None) is not None for level in self.levels)

    def anneal(self, progress: float) -> None:
        """Tell the parts that change over training (the std of a Gaussian policy, batch norm of a
        retina) which fraction of it is done, 0 to 1."""
        for level in self.levels:
            for part in (level.retina, level.attention):
                if part is not None and hasattr(part, "anneal"):
                    part.anneal(progress)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of pretrained networks, which have their own learning rate."""
        owners = [part for part in self.modules() if isinstance(part, Pretrained)]
        return [parameter for owner in owners for parameter in owner.parameters()]

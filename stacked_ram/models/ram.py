"""The Recurrent Attention Model (Mnih et al., 2014), as in the paper's figure 1.

    l_t ---> retina(photo, l_t) ---> g_t ---> core(g_t, h_{t-1}) ---> h_t ---> classifier: belief
                                                                       |----> attention: l_{t+1}
                                                                       |----> baseline

Notable features
- any retina with any core and any attention; photos of any shape, several sizes in a batch
- a glance (optional): a low-resolution look at the whole photo before the first glimpse
- levels (stack rnn): each has its own retina, core and location; levels feed upward
- rollouts: M scan paths of a photo share all per-photo work
- what nothing of the loop waits for (class scores, baseline, stopping) is computed for all steps at
  once
- the attention and the baseline read a detached state: the policy gradient trains the policy, the
  baseline's regression trains the baseline, the classification loss trains everything else
  (soft attention and the pathwise estimator send their gradient through the crops instead)

    B photos   R rows = B * M rollouts, photo-major   T steps   S levels   N classes   D features
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stacked_ram.config.schema import ModelConfig
from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.attention.base import PolicyOutput, fixed_location
from stacked_ram.models.attention.hard import GaussianPolicy
from stacked_ram.models.core import State
from stacked_ram.models.glance import Glance
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.maps import BackboneMaps
from stacked_ram.models.retina.retina import Retina
from stacked_ram.models.state import LoopState
from stacked_ram.models.trace import Heads, Step, Trace, assemble
from stacked_ram.ops.activation_checkpointing import checkpointed
from stacked_ram.ops.patches import Photos

LOCATION_SOURCES = ("policy", "centre", "random")
NORM_FREEZE_PROGRESS = (
    0.5  # share of training from which on conv retinas normalise as in evaluation
)
Glimpsed = tuple[Tensor, list[Tensor]]  # of one level: its feature, the patches of each surface


class Level(nn.Module):
    """One retina with its own recurrent layer, and the attention that moves it (or none)."""

    def __init__(self, retina: Retina, core: nn.Module, attention: nn.Module | None):
        super().__init__()
        self.retina = retina
        self.core = core
        self.attention = attention


class RAM(nn.Module):
    """Built by `stacked_ram.models.build.build_model`.

    Args:
        levels: one, or several for stack rnn.
        glance: None without one.
        mean, std: normalisation of uint8 photos, C values each, in 0..1 units.
    """

    def __init__(
        self,
        config: ModelConfig,
        levels: list[Level],
        glance: Glance | None,
        *,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        backbone: Backbone | None,
    ):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = backbone
        self.glance = glance
        self.levels = nn.ModuleList(levels)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.core_size, num_classes)
        self.baseline = nn.Linear(config.core_size, 1) if config.attention == "hard" else None
        self.stop = nn.Linear(config.core_size, 1) if config.learned_stop else None
        self.first_out = self.attend = None
        if glance is not None and config.glance_starts == "location":
            self.first_out = nn.Linear(config.feature_size, config.core_size)
        if config.attention == "soft":
            self.attend = nn.Linear(glance.region_features, config.feature_size)
        self.normalises = any(mean) or any(one != 1 for one in std)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.one_location = config.stack_location == "shared" or len(levels) == 1
        self.generator: torch.Generator | None = None
        """Draws samples and random places; None: torch's own."""
        self.activation_checkpointing = False

    # ------------------------------------------------------------------ the paper's figure

    def forward(
        self,
        photos: Photos,
        *,
        rollouts: int = 1,
        location_source: str = "policy",
        sample: bool | None = None,
        locations_BTS2: Tensor | None = None,
        keep_patches: bool = False,
        num_glimpses: int | None = None,
        smooth: bool = False,
    ) -> Trace:
        """Look at each photo `num_glimpses` times and say what was seen.

        Args:
            rollouts: scan paths a photo (M); the trace has B * M rows, photo-major.
            location_source: `policy`; or `centre` or `random` places (controls, warm-up), which
                never have a policy term.
            sample: draw from the policy, or take its mean (or likeliest cell). Default: draw in
                training.
            locations_BTS2: look there instead, R x T x S x 2, and say the log-probability of it.
                Unclamped samples are taken as they are.
            keep_patches: put the patches in the trace.
            num_glimpses: steps; default: the config's.
            smooth: let gradients reach the locations (pathwise estimator; soft attention always
                does).
        """
        sample = self.training if sample is None else sample
        steps = num_glimpses or self.config.num_glimpses
        loop, glance_logits = self.start(photos, rollouts, smooth)
        given = [None] * steps if locations_BTS2 is None else locations_BTS2.unbind(1)
        ahead = self.glimpse_ahead(loop, location_source, sample, given[:steps], smooth)
        known, done = [loop.known[-1]], []
        for step in range(steps):
            if ahead is None:
                choices = self.choose(loop, location_source, sample, given[step], smooth)
                seen = self.glimpse(loop, choices, smooth)
            else:
                choices, seen = ahead[step]
            loop = self.integrate(loop, choices, seen)
            known.append(loop.known[-1])
            done.append(Step(choices, [patches for _, patches in seen] if keep_patches else None))
        heads = self.heads(known)
        boxes = None if self.training else self.boxes(loop, done, smooth)
        first = self.first_chosen(location_source, steps)
        return assemble(done, heads, boxes, photos.sizes_B2, rollouts, glance_logits, first)

    def photos(
        self,
        pixels_BCHW: Tensor | LazyPhotos,
        sizes_B2: Tensor | None = None,
        glance: tuple[Tensor, Tensor] | None = None,
    ) -> Photos | LazyPhotos:
        """uint8 pixels as this model wants them. sizes_B2: (height, width) of each photo inside
        the zero padding at the bottom and right; None: all of it. glance: what `Glance.find` said
        of them before. Photos that are read piece by piece (LazyPhotos) stay so; which models
        cannot have them, stacked_ram.images.opening knows."""
        mean, std = (self.mean, self.std) if self.normalises else (None, None)
        if isinstance(pixels_BCHW, LazyPhotos):
            photos = pixels_BCHW.normalised(mean, std)
        else:
            photos = Photos(pixels_BCHW, sizes_B2, mean, std)
        photos.glance = glance
        return photos

    def start(
        self, photos: Photos, rollouts: int = 1, smooth: bool = False
    ) -> tuple[LoopState, Tensor | None]:
        """All per-photo work: views, the glance, and what the attentions read in its map. Returns
        the class scores after the glance, R x N, where it starts the core."""
        rows = photos.batch_size * rollouts
        views = [level.retina.view(photos) for level in self.levels]
        states = [level.core.start(rows, self.classifier.weight) for level in self.levels]
        outs = [self.classifier.weight.new_zeros(rows, self.config.core_size) for _ in self.levels]
        loop = LoopState(views, states, outs)
        if self.config.attention == "hard" and self.config.policy == "categorical":
            shape = rows, len(self.levels), math.prod(self.config.regions)
            loop.visited_RSR = torch.zeros(shape, dtype=torch.bool, device=photos.device)
        if self.glance is None:
            return loop, None
        vector, context = self.glance(photos)
        vector = vector.repeat_interleave(rollouts, 0)
        if self.config.attention == "hard" and not smooth:  # no policy gradient trains the glance
            context = context.detach()
        loop.contexts = [context.read_by(level.attention).repeat(rollouts) for level in self.levels]
        if self.first_out is not None:
            loop.hint_RD = self.first_out(vector)
            return loop, None
        loop.outs, loop.states = self.run_cores([vector] * len(self.levels), states)
        scores = self.scores(loop.outs[-1])
        if self.training and self.config.glance_dropout > 0:
            drawn_B = scores.new_empty(photos.batch_size).uniform_(generator=self.generator)
            loop.forget((drawn_B < self.config.glance_dropout).repeat_interleave(rollouts))
        return loop, scores

    def choose(
        self,
        loop: LoopState,
        location_source: str = "policy",
        sample: bool = False,
        given_RS2: Tensor | None = None,
        smooth: bool = False,
    ) -> list[PolicyOutput]:
        """Where each level looks next; of levels that share a location the top one decides."""
        if location_source not in LOCATION_SOURCES:
            raise ValueError(
                f"location_source: {location_source!r} is not one of {LOCATION_SOURCES}"
            )
        where = location_source
        if location_source == "policy" and loop.step == 0:
            where = self.config.first_location
        choices = []
        for index, level in enumerate(self.levels):
            if level.attention is None:
                continue
            given = None if given_RS2 is None else given_RS2[:, index]
            if self.config.attention == "soft":
                choices.append(self.soft_attend(loop, location_source, given))
            elif where in ("policy", "learned"):
                choices.append(self.query_policy(index, loop, sample, given, smooth))
            else:
                draw = where == "random" and (sample or smooth or location_source == "random")
                choices.append(fixed_location(loop.outs[0], draw, given, self.generator))
        return choices * len(self.levels) if self.one_location else choices

    def query_policy(
        self,
        index: int,
        loop: LoopState,
        sample: bool,
        given_R2: Tensor | None,
        smooth: bool,
    ) -> PolicyOutput:
        """What a level's policy says. It reads a detached state, but for a hint of the glance,
        which nothing but the policy gradient trains."""
        attention, state = self.levels[index].attention, loop.known[index]
        if not smooth and loop.hint_RD is None:
            state = state.detach()
        context = None if loop.contexts is None else loop.contexts[index]
        extra = {}
        if loop.visited_RSR is not None:
            extra["visited_BR"] = loop.visited_RSR[:, index]
        return attention(state, context, sample, given_R2, generator=self.generator, **extra)

    def soft_attend(
        self, loop: LoopState, location_source: str, given_R2: Tensor | None
    ) -> PolicyOutput:
        """Soft attention: its weights. Another place than theirs moves the glimpse, and nothing
        else."""
        level, context = self.levels[0], loop.contexts[0]
        weighed = level.attention(loop.outs[0], context, loop.step == 0)
        if location_source == "policy" and given_R2 is None:
            return weighed
        place = fixed_location(loop.outs[0], location_source == "random", given_R2, self.generator)
        return dataclasses.replace(
            place, weights_BR=weighed.weights_BR, attended_BD=weighed.attended_BD
        )

    def first_chosen(self, location_source: str, steps: int) -> int:
        """The first step whose place the policy chooses, as it does from there on; `steps`: it
        chooses none."""
        if location_source != "policy" or self.config.attention == "soft":
            return steps
        return 0 if self.config.first_location == "learned" else 1

    def glimpse_ahead(
        self,
        loop: LoopState,
        location_source: str,
        sample: bool,
        given: Sequence[Tensor | None],
        smooth: bool,
    ) -> list[tuple[list[PolicyOutput], list[Glimpsed]]] | None:
        """Choices of all steps, and what is seen there, where no place waits for an earlier
        glimpse (random places, the centre): all their patches go through the retina in one batch.
        None where they wait, or where memory is to be saved."""
        waits = location_source == "policy" or self.config.attention == "soft"
        if waits or (self.activation_checkpointing and self.training):
            return None
        choices_T = [self.choose(loop, location_source, sample, one, smooth) for one in given]
        levels = []
        for index, level in enumerate(self.levels):
            locations_RT2 = torch.stack([one[index].location_B2 for one in choices_T], 1)
            feature, patches = level.retina(loop.views[index], locations_RT2.flatten(0, 1), smooth)
            steps = [
                one.unflatten(0, locations_RT2.shape[:2]).unbind(1) for one in (feature, *patches)
            ]
            levels.append([(one, read) for one, *read in zip(*steps, strict=True)])
        return [(one, [*seen]) for one, *seen in zip(choices_T, *levels, strict=True)]

    def glimpse(
        self, loop: LoopState, choices: list[PolicyOutput], smooth: bool = False
    ) -> list[Glimpsed]:
        """What each level sees where the choices say."""
        smooth = smooth or self.config.attention == "soft"
        seen = []
        for level, view, choice in zip(self.levels, loop.views, choices, strict=True):
            location = choice.location_B2 if smooth else choice.location_B2.detach()

            def glimpse(location: Tensor, level=level, view=view):
                return level.retina(view, location, smooth)

            if self.activation_checkpointing and self.training:
                seen.append(checkpointed(glimpse, location, level.retina))
            else:
                seen.append(glimpse(location))
        return seen

    def integrate(
        self, loop: LoopState, choices: list[PolicyOutput], seen: list[Glimpsed]
    ) -> LoopState:
        """Where the rows stand after a glimpse, from what each level saw where it chose to look."""
        features = [
            feature if choice.attended_BD is None
            else feature + self.attend(choice.attended_BD).relu()
            for (feature, _), choice in zip(seen, choices, strict=True)
        ]  # fmt: skip
        outs, states = self.run_cores(features, loop.states)
        visited = loop.visited_RSR
        if visited is not None:
            seen_by = self.levels[-1].attention.seen_by
            visited = visited | torch.stack([seen_by(one.location_B2) for one in choices], 1)
        return dataclasses.replace(
            loop, states=states, outs=outs, hint_RD=None, visited_RSR=visited,
            step=loop.step + 1,
        )  # fmt: skip

    def run_cores(
        self, features: list[Tensor], states: list[State]
    ) -> tuple[list[Tensor], list[State]]:
        """One step of every level's core, from the lowest up: each takes its own feature with the
        output of the level below. Returns their outputs and states."""
        outs: list[Tensor] = []
        later = []
        for level, feature, state in zip(self.levels, features, states, strict=True):
            if outs:
                feature = torch.cat([feature, outs[-1].to(feature.dtype)], 1)
            out, state = level.core(feature, state)
            outs.append(out)
            later.append(state)
        return outs, later

    def scores(self, out: Tensor) -> Tensor:
        """Class scores from the top core's output, of one step or of several."""
        return self.classifier(self.dropout(out)).float()

    def heads(self, known: list[Tensor]) -> Heads:
        """What is said of all steps at once. known: what the top level knew before the first step
        and after each, R x D."""
        after_RTD = torch.stack(known[1:], 1)
        # the regressions of baseline and stopping train these two alone
        before_RTD = torch.stack([one.detach() for one in known[:-1]], 1)
        if self.baseline is None:
            baselines_RT = before_RTD.new_zeros(before_RTD.shape[:2])
        else:
            baselines_RT = self.baseline(before_RTD)[..., 0]
        stops_RT = None if self.stop is None else self.stop(after_RTD.detach())[..., 0].float()
        return Heads(self.scores(after_RTD), baselines_RT.float(), stops_RT)

    def boxes(self, loop: LoopState, steps: list[Step], smooth: bool = False) -> Tensor:
        """The boxes that these steps read, R x T x S x K x 4, in pixels of the photo."""
        smooth = smooth or self.config.attention == "soft"
        boxes = []
        for index, level in enumerate(self.levels):
            locations = torch.stack([step.choices[index].location_B2 for step in steps], 1).detach()
            read = level.retina.boxes(loop.views[index], locations.flatten(0, 1), smooth)
            boxes.append(read.unflatten(0, locations.shape[:2]))
        return torch.stack(boxes, 2)

    def anneal(self, progress: float) -> None:
        """Set what changes over training, for this point of it (0 start, 1 end): the std of a
        Gaussian policy; conv retinas are settled in the last part."""
        start, end = self.config.std, self.config.std_end
        std = start if end is None else start + (end - start) * min(max(progress, 0.0), 1.0)
        for level in self.levels:
            if isinstance(level.attention, GaussianPolicy):
                level.attention.std.fill_(std)
            level.retina.settle(progress >= NORM_FREEZE_PROGRESS)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters of the pretrained network, which learn at their own rate."""
        owners = [self.backbone, *(level.retina.maps for level in self.levels)]
        return [
            parameter
            for owner in owners
            if isinstance(owner, Backbone | BackboneMaps)
            for parameter in owner.parameters()
        ]

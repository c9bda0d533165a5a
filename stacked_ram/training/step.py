"""How a batch changes the weights: losses, gradients, optimiser, average of the weights.

What a step draws is a function of (seed, process, step): nothing of it has to be saved, and a run
that is killed at any moment and resumed draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.data.batch import Batch
from stacked_ram.data.left_out import LeftOut
from stacked_ram.images.lazy import LazyPhotos, UnreadablePhoto
from stacked_ram.models.ram import NORM_FREEZE_PROGRESS, RAM
from stacked_ram.models.retina.norms import synchronise
from stacked_ram.ops.depthwise import use_fast_depthwise
from stacked_ram.runtime.devices import autocast, seed_everything
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.cuda_graphs import StepGraphs
from stacked_ram.training.estimators import Losses, training_losses
from stacked_ram.training.meters import Averages, Values
from stacked_ram.training.nonfinite import NotFiniteWatch
from stacked_ram.training.optim import Schedule, make_capturable, make_optimizer


class LossModule(nn.Module):
    """One learning pass as a module, so that DDP sees the loss and what it leaves out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.found: tuple[Losses, Batch] | None = None

    def forward(self, passes: Iterator[tuple[Losses, Batch]]) -> Tensor:
        self.found = next(passes)
        return self.found[0].total

    def take(self) -> tuple[Losses, Batch]:
        found, self.found = self.found, None
        return found


class TrainStep:
    """A model and all that trains it, on one device of one process.

    left_out: of the training photos. class_weights_N: of the classification loss.
    averages: of the epoch's losses, kept on the device until they are read.
    step: batches since the start of the run. skipped: batches of this epoch left out.
    spoiled: whether a batch of the group under way had a loss that is not finite.
    """

    def __init__(
        self,
        model: RAM,
        settings: TrainingConfig,
        world: World,
        *,
        batches_per_epoch: int,
        left_out: LeftOut,
        class_weights_N: Tensor | None = None,
    ) -> None:
        if settings.cuda_graph and world.size > 1:
            raise UserError("cuda_graph: belongs to one process; leave it off with torchrun")
        self.settings, self.world = settings, world
        self.device = next(model.parameters()).device
        model.activation_checkpointing = settings.activation_checkpointing
        self.model = model
        if world.size > 1 and self.device.type == "cuda":
            synchronise(model)
        if self.device.type == "cpu" and settings.precision == "bf16":
            use_fast_depthwise(model)
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)
        self.ema = None
        if settings.ema_decay is not None:
            from timm.utils import ModelEmaV3

            # Buffers are copied, not averaged; a backbone that two rooms share counts once.
            self.ema = ModelEmaV3(
                self.model, settings.ema_decay, use_warmup=True, exclude_buffers=True
            )
        self.graphs = StepGraphs(self.whole_step) if settings.cuda_graph else None
        if settings.compile and self.graphs is None:
            self.model.compile()
        elif settings.compile:  # a recording's shapes are fixed: so may be those of its kernels
            self.recorded_losses = torch.compile(self.recorded_losses, dynamic=False)
        self.model.train()
        self.one_pass = LossModule(self.model)
        self.parallel = world.wrap(self.one_pass)
        self.optimizer = make_optimizer(self.model, settings)
        self.parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        self.batches_per_epoch = batches_per_epoch
        self.schedule = Schedule(self.optimizer, settings, batches_per_epoch)
        self.make_capturable()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.class_weights_N = class_weights_N
        if class_weights_N is not None:
            self.class_weights_N = class_weights_N.to(self.device)
        self.averages = Averages()
        self.left_out = left_out
        self.watch = NotFiniteWatch(left_out.dataset.names)
        self.step = 0
        self.skipped = 0
        self.group_has_nonfinite = False
        self.rate = 0.0  # that the last step used, of all but the backbone

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / (self.settings.epochs * self.batches_per_epoch)

    def learn(self, batch: Batch, together: int = 1, steps: bool = True) -> None:
        """Differentiate the losses of a batch, and step if it is the last of its group.

        together: batches in this group, whose gradients are averaged.
        """
        self.rate = self.schedule.rate
        if not self.model.training:  # going through all modules takes its time
            self.model.train()
        self.model.anneal(self.progress)
        seed_everything(self.settings.seed, self.world.rank, self.step)
        if self.graphs is None:
            self.learn_step_by_step(batch, together, steps)
        else:
            self.learn_recorded(batch)
        self.step += 1
        self.schedule.after_batch()

    @property
    def location_source(self) -> str:
        """What decides where this step looks."""
        epoch, settings = self.step / self.batches_per_epoch, self.settings
        if epoch < settings.pretrain_epochs:
            return "combinations"
        return "random" if epoch < settings.pretrain_epochs + settings.random_glimpses else "policy"

    def learn_step_by_step(self, batch: Batch, together: int, steps: bool) -> None:
        settings, location_source = self.settings, self.location_source
        passes = self.passes(batch, location_source)
        for _ in range(self.passes_on_a_batch(location_source)):
            waits = not steps and self.world.size > 1
            with self.parallel.no_sync() if waits else contextlib.nullcontext():
                with autocast(self.device, settings.precision):
                    total = self.parallel(passes)
                self.scaler.scale(total / together).backward()
            losses, batch = self.one_pass.take()
            watched = values_of(losses, targets_of(batch))
            if steps:
                norm = self.clip()
                if not self.scaler.is_enabled():  # fp16's scaler expects overflows
                    watched["gradient_norm"] = norm
            values = Values.of(watched)
            if settings.not_finite == "skip" and (
                self.group_has_nonfinite or not self.all_finite(values)
            ):
                self.group_has_nonfinite = not steps
                if steps:
                    self.skip_group(together)
                break
            if settings.not_finite == "stop":
                self.watch.note(self.step, self.rate, batch.index_B, values)
            if steps:
                self.update()
            self.averages.add(values, len(batch))

    def learn_recorded(self, batch: Batch) -> None:
        """The same as one recording (`cuda_graph`), but for the average of the weights."""
        if isinstance(batch.pixels_BCHW, LazyPhotos):
            raise UserError(
                "cuda_graph: photos that are read piece by piece cannot be part of a recording;"
                " leave it off"
            )
        kind = self.location_source, self.progress >= NORM_FREEZE_PROGRESS
        inputs = batch.pixels_BCHW, batch.sizes_B2, targets_of(batch), *(batch.glance or ())
        values = self.graphs(kind, *inputs)
        self.watch.note(self.step, self.rate, batch.index_B, values)
        self.average_weights()
        self.averages.add(values, len(batch))

    def whole_step(
        self,
        kind: tuple[str, bool],
        pixels: Tensor,
        sizes: Tensor,
        targets: Tensor,
        *glance: Tensor,
    ) -> Values:
        """From a batch to other weights, with nothing that waits for the device."""
        location_source, _ = kind
        total, values = self.recorded_losses(location_source, pixels, sizes, targets, *glance)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = self.clip()
        self.optimizer.step()
        return Values.of({**values, "gradient_norm": norm})

    def recorded_losses(
        self, location_source: str, pixels: Tensor, sizes: Tensor, targets: Tensor, *glance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is differentiated, and what is watched: the part of a recording that `compile`
        compiles."""
        with autocast(self.device, self.settings.precision):
            losses = next(self.learned(location_source, pixels, sizes, targets, glance or None))
        return losses.total, values_of(losses, targets)

    def passes(self, batch: Batch, location_source: str) -> Iterator[tuple[Losses, Batch]]:
        """The learning passes on a batch, each with the batch that it was made on: where a photo
        turns out to be unreadable, the rest is begun again, within the same call of DDP's
        forward."""
        while True:
            parts = batch.pixels_BCHW, batch.sizes_B2, targets_of(batch), batch.glance
            try:
                for losses in self.learned(location_source, *parts):
                    yield losses, batch
                return
            except UnreadablePhoto as error:
                batch = self.left_out.leave_out(batch, error)
                if not len(batch):
                    raise RunFailed(f"no photo of a batch can be read; the last: {error}") from None

    def learned(
        self,
        location_source: str,
        pixels: Tensor | LazyPhotos,
        sizes: Tensor,
        targets: Tensor,
        glance: tuple[Tensor, ...] | None,
    ) -> Iterator[Losses]:
        """The learning passes on what a batch holds."""
        photos = self.model.photos(pixels, sizes, glance)
        return training_losses(
            self.model, photos, targets, self.settings,
            location_source=location_source, class_weights_N=self.class_weights_N,
        )  # fmt: skip

    def clip(self) -> Tensor:
        """Clip the gradient and return its norm before that."""
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip_norm or float("inf")
        return nn.utils.clip_grad_norm_(self.parameters, limit)

    def update(self) -> None:
        """Step, and average the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average_weights()

    def average_weights(self) -> None:
        if self.ema is not None:
            self.ema.update(self.model, step=self.step + 1)

    def skip_group(self, together: int) -> None:
        """Leave the weights as they are: gradients that were added up cannot be told apart."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()  # has unscaled: without this it would refuse the next
        self.skipped += together

    def make_capturable(self) -> None:
        on = self.graphs is not None and self.device.type == "cuda"
        make_capturable(self.optimizer, on, self.device)

    def all_finite(self, values: Values) -> bool:
        """Whether these values are, in every process. Waits for the device: only for `skip`."""
        bad = ~values.numbers_V.isfinite().all()
        return self.world.sum(bad.cpu().int()).item() == 0

    def passes_on_a_batch(self, location_source: str) -> int:
        """As many as `learning_passes` yields."""
        hard = self.model.config.attention == "hard" and location_source == "policy"
        return self.settings.ppo_epochs if hard and self.settings.estimator == "ppo" else 1

    def end_epoch(self) -> None:
        self.averages.clear()
        self.skipped = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averages": self.averages.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "rate": self.rate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.make_capturable()
        self.scaler.load_state_dict(state["scaler"])
        self.averages.load_state_dict(state["averages"], self.device)
        self.step, self.skipped, self.rate = state["step"], state["skipped"], state["rate"]


def targets_of(batch: Batch) -> Tensor:
    return batch.labels_B if batch.targets_BN is None else batch.targets_BN


def values_of(losses: Losses, targets: Tensor) -> dict[str, Tensor]:
    """What is watched of a pass, but for its gradient."""
    total = losses.total.detach()
    return {**losses.parts, "accuracy": accuracy(losses, targets), "total": total}


def accuracy(losses: Losses, targets: Tensor) -> Tensor:
    """Share of right last predictions, over all rollouts."""
    labels_B = targets if targets.ndim == 1 else targets.argmax(1)
    labels_R = labels_B.repeat_interleave(len(losses.logits_RN) // len(labels_B))
    return (losses.logits_RN.argmax(1) == labels_R).float().mean()

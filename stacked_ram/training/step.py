"""A training step: loss, backward, step of the optimiser.

What a step draws is a function of (seed, process, step). So nothing random has to be saved: a run
that is killed at any moment and resumed draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.data.batch import Batch
from stacked_ram.data.left_out import LeftOut
from stacked_ram.images.lazy import LazyPhotos, UnreadablePhoto
from stacked_ram.models.decisions import photo_f1
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.norms import synchronise
from stacked_ram.models.retina.what import STATISTICS_FREEZE_AT
from stacked_ram.ops.depthwise import use_fast_depthwise
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.devices import autocast, seed_everything
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training import estimators
from stacked_ram.training.cuda_graphs import StepGraphs
from stacked_ram.training.estimators import Estimator
from stacked_ram.training.losses import Losses
from stacked_ram.training.meters import Averages, Values
from stacked_ram.training.nonfinite import NonFiniteMonitor
from stacked_ram.training.optim import Schedule, make_capturable, make_optimizer


class LossModule(nn.Module):
    """The next losses of a batch as a module whose output is their total: what DDP wraps.

    DDP looks for the parameters that its output does not reach, so that must be the total alone;
    `losses` has the rest.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: Losses | None = None

    def forward(self, losses_of_batch: Iterator[Losses]) -> Tensor:
        self.losses = next(losses_of_batch)
        return self.losses.total


class TrainStep:
    """A model and all that trains it, on one device of one process. Called with each batch.

    left_out: photos of the training split that could not be read. class_weights_N: of the
    classification loss. estimator: one of your own; None: the one that `settings` names.

    averages: of the epoch's losses, kept on the device until they are read.
    step: batches since the start of the run. skipped: batches of this epoch that were skipped.
    lr: learning rate of the last step, of all but the backbone.
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
        estimator: Estimator | None = None,
    ) -> None:
        if settings.cuda_graph and world.size > 1:
            raise UserError("cuda_graph: needs a single process; leave it off with torchrun")
        if estimator is None:
            estimators.find_estimator(settings.estimator)  # raises for an unknown name
        self.settings, self.world, self.estimator = settings, world, estimator
        self.device = next(model.parameters()).device
        model.activation_checkpointing = settings.activation_checkpointing
        self.model = model
        if world.size > 1 and self.device.type == "cuda":
            synchronise(model)
        if self.device.type == "cpu" and settings.precision == "bf16":
            use_fast_depthwise(model)
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
        self.ema = None
        if settings.ema_decay is not None:
            from timm.utils import ModelEmaV3

            # Buffers are copied, not averaged; a backbone that two parts share counts once.
            self.ema = ModelEmaV3(
                self.model, settings.ema_decay, use_warmup=True, exclude_buffers=True
            )
        self.graphs = StepGraphs(self.captured_step) if settings.cuda_graph else None
        if settings.compile and self.graphs is None:
            self.model.compile()
        elif settings.compile:  # the shapes in a graph are fixed: so may be those of its kernels
            compiled = torch.compile(self.captured_losses, dynamic=False)
            self.captured_losses = compiled  # type: ignore[method-assign]  # in its place, on purpose
        self.model.train()
        self.loss_module = LossModule(self.model)
        self.parallel = world.wrap(self.loss_module)
        self.optimizer = make_optimizer(self.model, settings)
        self.parameters = [
            parameter for group in self.optimizer.param_groups for parameter in group["params"]
        ]
        self.batches_per_epoch = batches_per_epoch
        self.schedule = Schedule(self.optimizer, settings, batches_per_epoch)
        self.make_capturable()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.class_weights_N = class_weights_N
        if class_weights_N is not None:
            self.class_weights_N = class_weights_N.to(self.device)
        self.averages = Averages()
        self.left_out = left_out
        self.nonfinite = NonFiniteMonitor(left_out.dataset.names)
        self.step = 0
        self.skipped = 0
        self.group_has_nonfinite = False
        self.lr = 0.0

    @property
    def evaluated(self) -> RAM:
        """The model that is evaluated and saved: the average of the weights, if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, 0 to 1."""
        return self.step / (self.settings.epochs * self.batches_per_epoch)

    @property
    def location_source(self) -> str:
        """What decides where this step looks, as `estimators.losses` takes it."""
        epoch, settings = self.step / self.batches_per_epoch, self.settings
        if epoch < settings.pretrain_epochs:
            return "combinations"
        return "random" if epoch < settings.pretrain_epochs + settings.random_glimpses else "policy"

    # ------------------------------------------------------------------ the step

    def __call__(self, batch: Batch, accumulation_steps: int = 1, is_last: bool = True) -> None:
        """Train on a batch. Its gradient is averaged over a group of `accumulation_steps` batches;
        the last of a group steps the optimiser.

        A photo that cannot be read is left out, and the step is done with the others. A batch
        without any is skipped (with its group, if it is the last). Raises RunFailed if other
        processes wait for it, and UserError for a batch that is too small for batch norm.
        """
        self.left_out.note_unreadable(batch)
        if not len(batch):
            self.skip_empty(is_last)
            return
        self.lr = self.schedule.lr
        if not self.model.training:  # going through all modules takes its time
            self.model.train()
        self.model.anneal(self.progress)
        while True:
            seed_everything(self.settings.seed, self.world.rank, self.step)
            try:
                if self.graphs is None:
                    self.eager_step(batch, accumulation_steps, is_last)
                else:
                    self.replayed_step(batch)
                break
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                if batch.unreadable or (self.world.size == 1 and len(self.left_out)):
                    self.skip_empty(is_last)  # too few photos are left
                    return
                raise UserError(
                    f"batch_size: batch norm has one value a channel in a batch of {len(batch)};"
                    " give 2 or more"
                ) from None
            except UnreadablePhoto as error:
                batch = self.left_out.leave_out(batch, error)
                if not len(batch):
                    self.skip_empty(is_last)
                    return
                if isinstance(self.parallel, DistributedDataParallel):
                    # it has sent the buffers; the other processes do not take part again
                    self.parallel.require_forward_param_sync = False
        self.step += 1
        self.schedule.after_batch()

    def skip_empty(self, is_last: bool) -> None:
        """Go on without a step: no photo of the batch can be read."""
        if self.world.size > 1:
            raise RunFailed("no photo of a batch can be read, so its process cannot take part")
        if is_last:
            self.optimizer.zero_grad(set_to_none=True)
            self.group_has_nonfinite = False
        self.skipped += 1
        self.step += 1
        self.schedule.after_batch()

    def eager_step(self, batch: Batch, accumulation_steps: int, is_last: bool) -> None:
        """Loss, backward, step: once on a batch, or several times with PPO."""
        targets = targets_of(batch)
        losses_of_batch = self.losses(self.location_source, batch.photos(self.model), targets)
        more = True
        while more:
            with self.gradients_kept_apart(is_last):
                with autocast(self.device, self.settings.precision):
                    loss = self.parallel(losses_of_batch)
                self.scaler.scale(loss / accumulation_steps).backward()
            losses = self.loss_module.losses
            assert losses is not None  # of the pass above
            values = values_of(losses, targets, self.model.multi_label)
            if is_last:
                norm = self.clip()
                if not self.scaler.is_enabled():  # fp16's scaler expects overflows
                    values["gradient_norm"] = norm
            logged = Values.of(values)
            if self.is_skipped(logged, batch):
                self.group_has_nonfinite = not is_last
                if is_last:
                    self.skip_group(accumulation_steps)
                return
            if is_last:
                self.update()
            self.averages.add(logged, len(batch))
            more = losses.more

    def losses(self, location_source: str, photos: PhotoBatch, targets: Tensor) -> Iterator[Losses]:
        return estimators.losses(
            self.model, photos, targets, self.settings, estimator=self.estimator,
            location_source=location_source, class_weights_N=self.class_weights_N,
        )  # fmt: skip

    def gradients_kept_apart(self, is_last: bool) -> contextlib.AbstractContextManager:
        """The processes average their gradients at the end of a group of batches only."""
        if is_last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()

    def clip(self) -> Tensor:
        """Clip the gradient and return its norm before that."""
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip_norm or float("inf")
        return nn.utils.clip_grad_norm_(self.parameters, limit)

    def update(self) -> None:
        """Step the optimiser, and average the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average_weights()

    def average_weights(self) -> None:
        if self.ema is not None:
            self.ema.update(self.model, step=self.step + 1)

    # ------------------------------------------------------------------ losses that are not finite

    def is_skipped(self, values: Values, batch: Batch) -> bool:
        """Whether this group of batches is skipped for a value that is not finite. With
        `not_finite: stop` the values are noted instead, for the check that ends the run."""
        if self.settings.not_finite == "skip":
            return self.group_has_nonfinite or not self.all_finite(values)
        self.nonfinite.note(self.step, self.lr, batch.index_B, values)
        return False

    def all_finite(self, values: Values) -> bool:
        """Whether these values are finite in every process. Waits for the device."""
        bad = ~values.numbers_V.isfinite().all()
        return self.world.sum(bad.cpu().int()).item() == 0

    def skip_group(self, accumulation_steps: int) -> None:
        """Leave the weights as they are: a sum of gradients cannot be taken apart."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()  # it has unscaled: without this it would refuse the next
        self.skipped += accumulation_steps

    # ------------------------------------------------------------------ as a CUDA graph

    def replayed_step(self, batch: Batch) -> None:
        """The same as one CUDA graph, all but the average of the weights."""
        if isinstance(batch.pixels_BCHW, LazyPhotos):
            raise UserError(
                "cuda_graph: photos that are read lazily, by region, cannot be captured; leave it"
                " off"
            )
        kind = self.location_source, self.progress >= STATISTICS_FREEZE_AT
        inputs = batch.pixels_BCHW, batch.sizes_B2, targets_of(batch), *(batch.glance or ())
        assert self.graphs is not None
        values = self.graphs(kind, *inputs)
        self.nonfinite.note(self.step, self.lr, batch.index_B, values)
        self.average_weights()
        self.averages.add(values, len(batch))

    def captured_step(
        self,
        kind: tuple[str, bool],
        pixels: Tensor,
        sizes: Tensor,
        targets: Tensor,
        *glance: Tensor,
    ) -> Values:
        """Loss, backward, step, with nothing that waits for the device."""
        location_source, _ = kind
        loss, values = self.captured_losses(location_source, pixels, sizes, targets, *glance)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.clip()
        self.optimizer.step()
        return Values.of({**values, "gradient_norm": norm})

    def captured_losses(
        self, location_source: str, pixels: Tensor, sizes: Tensor, targets: Tensor, *glance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to differentiate and the values to log: what `compile` compiles."""
        photos = self.model.photos(pixels, sizes)
        photos.glance = (glance[0], glance[1]) if glance else None
        with autocast(self.device, self.settings.precision):
            losses = next(self.losses(location_source, photos, targets))
        return losses.total, values_of(losses, targets, self.model.multi_label)

    def make_capturable(self) -> None:
        on = self.graphs is not None and self.device.type == "cuda"
        make_capturable(self.optimizer, on, self.device)

    # ------------------------------------------------------------------ its state

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
            "rate": self.lr,  # under its first name, which states on disk have
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
        self.step, self.skipped, self.lr = state["step"], state["skipped"], state["rate"]


def targets_of(batch: Batch) -> Tensor:
    return batch.labels_B if batch.targets_BN is None else batch.targets_BN


def values_of(losses: Losses, targets: Tensor, multi_label: bool = False) -> dict[str, Tensor]:
    """What is logged of a pass over a batch, but for the gradient."""
    total = losses.total.detach()
    if multi_label:
        targets_RN = targets.repeat_interleave(len(losses.logits_RN) // len(targets), 0)
        f1_R = photo_f1(losses.logits_RN >= 0, targets_RN)
        return {**losses.parts, "F1": f1_R.mean(), "total": total}
    return {**losses.parts, "accuracy": accuracy(losses, targets), "total": total}


def accuracy(losses: Losses, targets: Tensor) -> Tensor:
    """Fraction of correct last predictions, over all rollouts."""
    labels_B = targets if targets.ndim == 1 else targets.argmax(1)
    labels_R = labels_B.repeat_interleave(len(losses.logits_RN) // len(labels_B))
    return (losses.logits_RN.argmax(1) == labels_R).float().mean()

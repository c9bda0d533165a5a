"""The training engine: one run from its first batch, or from a checkpoint, to its last epoch.

    for each epoch:  for each batch: learn -> validate -> metrics.csv, best and last -> state

- What a step draws is a function of (seed, process, step): nothing of it has to be saved, and a
  run that is killed at any moment and resumed gives bit for bit what it would have given.
- Averages stay on the device. Nothing waits for it but the progress bar, twice a second.
- Everything is written by the main process, whole or not at all (checkpoint.py, runs.py).
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stacked_ram import checkpoint
from stacked_ram.averages import Averages
from stacked_ram.build import build_model
from stacked_ram.config import Config
from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.devices import autocast, pick_device, seed_everything, set_switches
from stacked_ram.distributed import World
from stacked_ram.errors import RunFailed, UserError
from stacked_ram.learning import Losses, learning_passes
from stacked_ram.not_finite import NotFiniteWatch
from stacked_ram.optimisation import Schedule, make_optimizer
from stacked_ram.progress import Board, Progress
from stacked_ram.runs import RunFolder, write_rows
from stacked_ram.stopping import Stopped, StopSignals
from stacked_ram.validate import validate

Row = dict[str, float | int]


class Learner(nn.Module):
    """One learning pass as a module, so that DDP sees the loss and what it leaves out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: Losses | None = None

    def forward(self, passes: Iterator[Losses]) -> Tensor:
        self.losses = next(passes)
        return self.losses.total


class Trainer:
    """Everything of one run. `fit` trains it to the end.

    after_epoch: called in every process with the epoch and its row of metrics; what it raises
    ends the run (a study that prunes).
    Raises UserError for what cannot be trained as asked.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        world: World | None = None,
        *,
        after_epoch: Callable[[int, Row], None] | None = None,
        profile: bool = False,
    ) -> None:
        self.config, self.run = config, run
        self.settings = settings = config.training
        self.world = world = world or World()
        self.after_epoch, self.profile = after_epoch, profile
        set_switches(settings)
        self.device = pick_device(settings.device, world)

        self.dataset = open_dataset(config.data, "train")
        where = {"device": self.device, "rank": world.rank, "world": world.size}
        self.loader = make_loader(self.dataset, config, train=True, **where)
        self.valid_loader = None
        if config.data.train_on == "train":
            valid = open_dataset(config.data, "valid")
            self.valid_loader = make_loader(valid, config, train=False, **where)
        if len(self.loader) == 0:
            raise UserError(f"dataset: {len(self.dataset)} training photos are too few for a batch")

        seed_everything(settings.seed)
        self.facts = {
            "channels": self.dataset.channels,
            "mean": self.dataset.mean,
            "std": self.dataset.std,
        }
        model = build_model(config.model, num_classes=len(self.dataset.classes), **self.facts)
        model.checkpoint_steps = settings.checkpoint_steps
        if world.size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(self.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.ema = None
        if settings.ema_decay is not None:
            from timm.utils import ModelEmaV3

            # Buffers are copied, not averaged; a backbone that two rooms share counts once.
            self.ema = ModelEmaV3(
                self.model, settings.ema_decay, use_warmup=True, exclude_buffers=True
            )
        if settings.compile:
            self.model.compile()
        self.learner = Learner(self.model)
        self.parallel = world.wrap(self.learner)
        self.optimizer = make_optimizer(self.model, settings)
        self.schedule = Schedule(self.optimizer, settings, len(self.loader))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.class_weights_N = class_weights(self.dataset) if settings.class_weights else None
        if self.class_weights_N is not None:
            self.class_weights_N = self.class_weights_N.to(self.device)

        self.epoch = 0  # the epoch under way
        self.step = 0  # batches since the start of the run
        self.history: list[Row] = []  # the rows of metrics.csv
        self.best: float | None = None
        self.stale = 0  # epochs without a better metric
        self.skipped = 0  # batches of this epoch left out
        self.averages = Averages()
        self.watch = NotFiniteWatch(self.dataset.names)
        self.after_batch = nothing

    # ------------------------------------------------------------------ the run

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * len(self.loader)

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        return self.epoch >= self.settings.epochs or (
            patience is not None and self.stale >= patience
        )

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    def fit(self) -> Row:
        """Train to the end and return the metrics of the best epoch.

        Raises Stopped after Ctrl-C or SIGTERM, with everything saved, and RunFailed when a loss
        is not finite or the disk is full.
        """
        main = self.world.is_main
        self.board = Board(self.run.path / "tensorboard", self.epoch) if main else Board(None, 0)
        with StopSignals() as self.signals, Progress(self, shown=main) as self.progress:
            self.saved_at = time.monotonic()
            while not self.finished:
                self.loader.set_epoch(self.epoch)
                started = time.monotonic()
                with self.profiler():
                    self.train_epoch()
                self.after_batch = nothing
                self.end_epoch(time.monotonic() - started)
            self.close()
        if main and self.history:
            write_rows(self.run.path / "metrics.csv", self.history)
            self.log(self.last_words())
        return self.best_row()

    def best_row(self) -> Row:
        """Metrics of the epoch whose weights are kept as best."""
        name = f"valid_{self.settings.metric}"
        if not self.history or name not in self.history[-1]:
            return self.history[-1] if self.history else {}
        sign = 1 if self.settings.metric == "accuracy" else -1
        return max(self.history, key=lambda row: sign * row[name])

    def train_epoch(self) -> None:
        group = self.settings.accumulate
        for batch in self.loader:
            done = self.loader.position
            is_last = done == len(self.loader)
            together = min(group, len(self.loader) - (done - 1) // group * group)
            steps = done % group == 0 or is_last
            self.learn(batch, together, steps)
            self.step += 1
            self.schedule.after_batch()
            self.progress.after_batch(len(batch) * self.world.size)
            self.after_batch()
            if steps and not is_last:
                self.save_or_stop()
        self.watch.check()

    def learn(self, batch: Batch, together: int = 1, steps: bool = True) -> None:
        """Differentiate the losses of a batch, and step if it is the last of its group.

        together: batches in this group, whose gradients are averaged.
        """
        settings = self.settings
        self.model.train()
        self.rate_used = self.optimizer.param_groups[0]["lr"]  # of all but the backbone
        self.model.anneal(self.step / self.total_steps)
        seed_everything(settings.seed, self.world.rank, self.step)
        warming = self.step < settings.random_glimpses * len(self.loader)
        look = "random" if warming else "policy"
        photos = self.model.photos(batch.pixels_BCHW, batch.sizes_B2)
        targets = batch.labels_B if batch.targets_BN is None else batch.targets_BN
        passes = learning_passes(
            self.model, photos, targets, settings, look=look, class_weights_N=self.class_weights_N
        )
        for _ in range(self.passes_on_a_batch(look)):
            waits = not steps and self.world.size > 1
            with self.parallel.no_sync() if waits else contextlib.nullcontext():
                with autocast(self.device, settings.precision):
                    total = self.parallel(passes)
                losses, self.learner.losses = self.learner.losses, None
                self.scaler.scale(total / together).backward()
            right = accuracy(losses, targets)
            values = {**losses.parts, "accuracy": right, "total": total.detach()}
            if steps:
                norm = self.clip()
                if not self.scaler.is_enabled():  # fp16's scaler expects overflows
                    values["gradient_norm"] = norm
            if settings.not_finite == "skip" and not self.all_finite(values):
                self.optimizer.zero_grad(set_to_none=True)
                self.skipped += 1
                continue
            if settings.not_finite == "stop":
                self.watch.note(self.step, self.rate_used, batch.index_B, values)
            if steps:
                self.update()
            self.averages.add(values, len(batch))

    def clip(self) -> Tensor:
        """Clip the gradient and return its norm before that."""
        self.scaler.unscale_(self.optimizer)
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm or float("inf"))

    def update(self) -> None:
        """Step, and average the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=self.step + 1)

    def all_finite(self, values: dict[str, Tensor]) -> bool:
        """Whether these values are, in every process. Waits for the device: only for `skip`."""
        bad = ~torch.stack([value.float() for value in values.values()]).isfinite().all()
        return self.world.sum(bad.cpu().int()).item() == 0

    def passes_on_a_batch(self, look: str) -> int:
        ppo = self.settings.estimator == "ppo" and look == "policy"
        return self.settings.ppo_epochs if ppo else 1

    # ------------------------------------------------------------------ between epochs

    def end_epoch(self, seconds: float) -> None:
        row: Row = {"epoch": self.epoch + 1, "learning_rate": self.rate_used}
        trained = self.averages.read(self.world)
        row |= {f"train_{name}": short(value) for name, value in trained.items()}
        row["skipped"] = self.skipped
        if self.skipped >= len(self.loader):
            raise RunFailed(
                f"epoch {self.epoch + 1}: no batch had a finite loss; lower --learning-rate"
                f" (now {row['learning_rate']:g}) or use --precision float32"
            )
        if self.valid_loader is not None:
            model = self.evaluated
            self.progress.say("validating")
            found = validate(model, self.valid_loader, self.device, self.settings, self.world)
            row |= {f"valid_{name}": short(value) for name, value in found.items()}
        self.epoch += 1
        metric = row.get(f"valid_{self.settings.metric}")
        self.schedule.after_epoch(metric)
        # Without a validation split there is nothing to choose by: the last epoch is the best.
        better = metric is None or self.is_better(metric)
        self.best = metric if better else self.best
        self.stale = 0 if better else self.stale + 1
        self.averages.clear()
        self.history.append(row)
        self.skipped = 0
        if self.world.is_main:
            self.board.write(row, self.epoch)
            if better:
                self.save_weights("best.safetensors", row)
            self.save_weights("last.safetensors", row)
            write_rows(self.run.path / "metrics.csv", self.history)
            self.log(epoch_line(row, self.settings.epochs, seconds, self.photos_per_epoch))
        self.save()
        if self.after_epoch is not None:
            self.after_epoch(self.epoch, row)
        if self.anywhere(self.signals.caught > 0)[0] and not self.finished:
            self.stop()

    @property
    def photos_per_epoch(self) -> int:
        return self.world.size * sum(len(rows.index_B) for rows in self.loader.batches)

    def is_better(self, metric: float) -> bool:
        if self.best is None:
            return True
        return metric > self.best if self.settings.metric == "accuracy" else metric < self.best

    def save_weights(self, name: str, row: Row) -> None:
        card = checkpoint.Card(
            config=self.config,
            classes=self.dataset.classes,
            epoch=self.epoch,
            progress=self.step / self.total_steps,
            metrics={key: float(value) for key, value in row.items()},
            **self.facts,
        )
        checkpoint.save_weights(self.run.path / name, self.evaluated.state_dict(), card)

    def last_words(self) -> str:
        best = "" if self.best is None else f"; best {self.settings.metric} {self.best:.4f}"
        early = f" (stopped early: {self.stale} epochs without a better one)"
        return (
            f"{self.epoch} epochs trained{early if self.epoch < self.settings.epochs else ''}"
            f"{best}: {self.run.path / 'best.safetensors'}"
        )

    # ------------------------------------------------------------------ saving and going on

    def save_or_stop(self) -> None:
        """Between two steps: save now and then; after Ctrl-C or SIGTERM save and stop."""
        due = time.monotonic() - self.saved_at >= 60 * self.settings.save_every
        due, told = self.anywhere(due and self.world.is_main, self.signals.caught > 0)
        if due or told:
            self.watch.check()
            self.save()
        if told:
            self.stop()

    def anywhere(self, *flags: bool) -> list[bool]:
        """Whether each flag is up in any process."""
        if self.world.size == 1:
            return list(flags)
        return [count > 0 for count in self.world.sum(torch.tensor(flags).int()).tolist()]

    def stop(self) -> None:
        self.close()
        self.log(
            f"stopped in epoch {self.epoch + 1}, everything saved; go on with"
            f" `main.py train --resume {self.run.path}`"
        )
        raise Stopped(self.signals.caught or signal.SIGTERM)

    def close(self) -> None:
        self.loader.close()
        if self.valid_loader is not None:
            self.valid_loader.close()
        self.board.close()

    def save(self) -> None:
        if self.world.is_main:
            checkpoint.save_state(self.run.path, self.state_dict(), self.step)
        self.saved_at = time.monotonic()
        self.world.wait()

    def state_dict(self) -> dict[str, Any]:
        return {
            "world": self.world.size,
            "batches": len(self.loader),
            "epoch": self.epoch,
            "step": self.step,
            "loader": {"epoch": self.epoch, "position": self.step - self.epoch * len(self.loader)},
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averages": self.averages.state_dict(),
            "history": self.history,
            "best": self.best,
            "stale": self.stale,
            "skipped": self.skipped,
        }

    def resume(self) -> bool:
        """Go back to the newest whole training state of the run; False where there is none yet."""
        state = checkpoint.read_state(self.run.path)
        if state is None:
            return False
        for name, have in (("world", self.world.size), ("batches", len(self.loader))):
            if state[name] != have:
                what = {"world": "processes", "batches": "batches an epoch"}[name]
                raise UserError(
                    f"{self.run.path}: was trained with {state[name]} {what}, now there are {have};"
                    " start it as it was started (data set, batch_size, torchrun)"
                )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.averages.load_state_dict(state["averages"], self.device)
        self.loader.load_state_dict(state["loader"])
        for name in ("epoch", "step", "history", "best", "stale", "skipped"):
            setattr(self, name, state[name])
        return True

    def log(self, text: str) -> None:
        if self.world.is_main:
            self.run.log(text)

    def profiler(self) -> contextlib.AbstractContextManager:
        """Of the first epoch after the start, if one was asked for."""
        if not (self.profile and self.world.is_main):
            return contextlib.nullcontext()
        from stacked_ram.profiling import make_profiler

        self.profile = False
        profiler = make_profiler(self)
        self.after_batch = profiler.step
        return profiler


def nothing() -> None:
    """After each batch, where no profiler is on."""


def accuracy(losses: Losses, targets: Tensor) -> Tensor:
    """Share of right last predictions, over all rollouts."""
    labels_B = targets if targets.ndim == 1 else targets.argmax(1)
    labels_R = labels_B.repeat_interleave(losses.trace.rollouts)
    return (losses.trace.logits_BTN[:, -1].argmax(1) == labels_R).float().mean()


def class_weights(dataset: Any) -> Tensor:
    """Inverse of the classes' shares, with a mean of 1 over the photos."""
    counts_N = torch.bincount(torch.from_numpy(dataset.labels), minlength=len(dataset.classes))
    return len(dataset) / (len(counts_N) * counts_N.float())


def short(value: float) -> float:
    """Six significant digits: what a table can be read with."""
    return float(f"{value:.6g}")


def epoch_line(row: Row, epochs: int, seconds: float, photos: int) -> str:
    """One line for the log."""
    shown = ["train_total", "train_accuracy", "valid_loss", "valid_accuracy"]
    values = [f"{name.replace('_', ' ')} {row[name]:.4f}" for name in shown if name in row]
    skipped = [f"{row['skipped']} batches skipped"] if row["skipped"] else []
    rate = f"{photos / max(seconds, 1e-9):.0f} photos/s"
    return f"epoch {row['epoch']}/{epochs}: " + ", ".join([*values, *skipped, rate])

"""The training engine: one run from its first batch, or from a checkpoint, to its last epoch.

    for each epoch:  for each batch: learn -> validate -> best and last, metrics.csv -> state

Everything is written by the main process, whole or not at all (checkpoint.py, runs.py). A state is
written last: what was written after it is written again, the same, by a run that goes on.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stacked_ram.config.resolve import resolve_auto
from stacked_ram.config.schema import Config
from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.glance_cache import keep_glances
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import make_loader
from stacked_ram.models.build import build_model
from stacked_ram.runs import checkpoint
from stacked_ram.runs.folder import RunFolder, write_rows
from stacked_ram.runtime.devices import pick_device, seed_everything, set_switches
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.runtime.program import program
from stacked_ram.runtime.signals import Stopped, StopSignals
from stacked_ram.training.callbacks import Board, Callback, Progress
from stacked_ram.training.meters import Row
from stacked_ram.training.step import TrainStep
from stacked_ram.training.validation import validate

MOST_LEFT_OUT = 0.1  # of a split's photos, because they cannot be read


class Trainer:
    """Everything of one run. `fit` trains it to the end.

    callbacks: each is called in every process at the moments that `Callback` names; an exception
    that one raises ends the run.
    Raises UserError for what cannot be trained as asked.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        world: World | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        profile: bool = False,
    ) -> None:
        self.run = run
        self.world = world = world or World()
        self.callbacks, self.profile = list(callbacks), profile
        self.device = pick_device(config.training.device)
        self.config = config = resolve_auto(config, self.device, quiet=not world.is_main)
        self.settings = settings = config.training
        set_switches(settings, self.device)

        self.dataset = open_dataset(config.data, "train")
        where = {"device": self.device, "rank": world.rank, "world": world.size}
        self.loader = make_loader(self.dataset, config, train=True, **where)
        if len(self.loader) == 0:
            raise UserError(f"dataset: {len(self.dataset)} training photos are too few for a batch")
        self.valid_loader = None
        if config.data.train_on == "train":
            valid = open_dataset(config.data, "valid")
            self.valid_loader = make_loader(valid, config, train=False, **where)
            self.valid_left_out = LeftOut(valid, MOST_LEFT_OUT)

        seed_everything(settings.seed)  # every process starts from the same weights
        self.facts = {
            "channels": self.dataset.channels,
            "mean": self.dataset.mean,
            "std": self.dataset.std,
        }
        model = build_model(config.model, num_classes=len(self.dataset.classes), **self.facts)
        self.learner = TrainStep(
            model.to(self.device),
            settings,
            world,
            batches_per_epoch=len(self.loader),
            left_out=LeftOut(self.dataset, MOST_LEFT_OUT),
            class_weights_N=class_weights(self.dataset) if settings.class_weights else None,
        )
        self.epoch = 0  # the epoch under way
        self.history: list[Row] = []  # the rows of metrics.csv
        self.best: float | None = None
        self.epochs_since_best = 0  # epochs without a better metric
        self.after_batch = nothing

    # ------------------------------------------------------------------ the run

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        return self.epoch >= self.settings.epochs or (
            patience is not None and self.epochs_since_best >= patience
        )

    def fit(self) -> Row:
        """Train to the end and return the metrics of the best epoch.

        Raises Stopped after Ctrl-C or SIGTERM, with everything saved, and RunFailed when a loss
        is not finite or the disk is full.
        """
        main = self.world.is_main
        self.board = Board(self.run.path / "tensorboard" if main else None, self.epoch)
        with (
            contextlib.closing(self),
            StopSignals() as self.signals,
            Progress(self, shown=main) as self.progress,
        ):
            self.saved_at = time.monotonic()
            self.keep_glances()
            while not self.finished:
                self.loader.set_epoch(self.epoch)
                started = time.monotonic()
                with self.profiler():
                    photos = self.train_epoch()
                self.after_batch = nothing
                self.end_epoch(photos / max(time.monotonic() - started, 1e-9))
        if main:
            write_rows(self.run.path / "metrics.csv", self.history)
            self.log(self.last_words())
        return self.best_row()

    def train_epoch(self) -> int:
        """Train on what is left of the epoch; how many photos that was, in all processes."""
        group, photos = self.settings.accumulation_steps, 0
        for batch in self.loader:
            done = self.loader.position
            is_last = done == len(self.loader)
            together = min(group, len(self.loader) - (done - 1) // group * group)
            steps = done % group == 0 or is_last
            self.learner.learn(batch, together, steps)
            trained = len(batch) * self.world.size
            photos += trained
            self.progress.after_batch(trained)
            self.after_batch()
            if steps and not is_last:
                self.save_or_stop()
        self.learner.watch.check()
        return photos

    def end_epoch(self, photos_per_s: float) -> None:
        learner, world = self.learner, self.world
        trained = learner.averages.read(world)
        if learner.skipped >= len(self.loader):
            raise RunFailed(
                f"epoch {self.epoch + 1}: no batch had a finite loss; lower --learning-rate"
                f" (now {learner.rate:g}) or use --precision float32"
            )
        row: Row = {"epoch": self.epoch + 1, "learning_rate": learner.rate}
        row |= {f"train_{name}": short(value) for name, value in trained.items()}
        row["skipped"] = learner.skipped
        row["left_out"] = len(world.union(learner.left_out.names))
        if self.valid_loader is not None:
            self.progress.say("validating")
            model = learner.evaluated
            found = validate(
                model, self.valid_loader, self.device, self.settings, world, self.valid_left_out
            )
            row |= {f"valid_{name}": short(value) for name, value in found.items()}
        self.epoch += 1
        self.history.append(row)
        learner.end_epoch()
        metric = row.get(f"valid_{self.settings.metric}")
        learner.schedule.after_epoch(metric)
        better = self.is_better(metric)
        if better:
            self.best, self.epochs_since_best = metric, 0
        else:
            self.epochs_since_best += 1
        if world.is_main:
            if better:
                self.save_weights("best.safetensors", row)
            self.save_weights("last.safetensors", row)
            write_rows(self.run.path / "metrics.csv", self.history)
            self.board.write(row, self.epoch)
            self.draw_scan_paths()
            self.log(epoch_line(row, self.settings.epochs, photos_per_s))
        self.save()
        for callback in self.callbacks:
            callback.on_epoch_end(self, row)
        if self.anywhere(self.signals.caught > 0)[0] and not self.finished:
            self.stop()

    def keep_glances(self) -> None:
        """Of a frozen backbone, where that is possible: with the weights of a resumed run."""
        for loader in (self.loader, self.valid_loader):
            if loader is not None:
                keep_glances(loader, self.learner.model, self.config)

    # ------------------------------------------------------------------ what is told

    @property
    def photos_per_epoch(self) -> int:
        return self.world.size * sum(len(rows.index_B) for rows in self.loader.batches)

    def is_better(self, metric: float | None) -> bool:
        """Without a validation split there is nothing to choose by: the last epoch is the best."""
        return metric is None or self.best is None or self.score(metric) > self.score(self.best)

    def score(self, metric: float) -> float:
        """The higher the better; what is not a number is the worst."""
        if math.isnan(metric):
            return -math.inf
        return metric if self.settings.metric == "accuracy" else -metric

    def best_row(self) -> Row:
        """Metrics of the epoch whose weights are kept as best."""
        name = f"valid_{self.settings.metric}"
        if name not in self.history[-1]:
            return self.history[-1]
        return max(self.history, key=lambda row: self.score(row[name]))

    def last_words(self) -> str:
        text = f"{self.epoch} epochs trained"
        if self.epoch < self.settings.epochs:
            text += f" (stopped early: {self.epochs_since_best} epochs without a better one)"
        if self.best is not None:
            text += f"; best {self.settings.metric} {self.best:.4f}"
        return f"{text}: {self.run.path / 'best.safetensors'}"

    def log(self, text: str) -> None:
        if self.world.is_main:
            self.run.log(text)

    def draw_scan_paths(self) -> None:
        """On a few validation photos, always the same, for TensorBoard."""
        every = self.settings.pictures_every
        if every and self.valid_loader is not None and self.epoch % every == 0:
            self.board.draw_scan_paths(
                self.learner.evaluated, self.config, self.epoch, self.valid_left_out
            )

    def profiler(self) -> contextlib.AbstractContextManager:
        """Of the first epoch after the start, if one was asked for."""
        if not (self.profile and self.world.is_main):
            return contextlib.nullcontext()
        from stacked_ram.training.profiling import make_profiler

        self.profile = False
        profiler = make_profiler(self)
        self.after_batch = profiler.step
        return profiler

    # ------------------------------------------------------------------ saving and going on

    def save_or_stop(self) -> None:
        """Between two steps: save now and then; after Ctrl-C or SIGTERM save and stop."""
        due = time.monotonic() - self.saved_at >= 60 * self.settings.save_every
        due, told = self.anywhere(due and self.world.is_main, self.signals.caught > 0)
        if due or told:
            self.learner.watch.check()
            self.save()
        if told:
            self.stop()

    def anywhere(self, *flags: bool) -> list[bool]:
        """Whether each flag is up in any process."""
        if self.world.size == 1:
            return list(flags)
        return [count > 0 for count in self.world.sum(torch.tensor(flags).int()).tolist()]

    def stop(self) -> None:
        self.log(
            f"stopped in epoch {self.epoch + 1}, everything saved; go on with"
            f" `{program()} train --resume {self.run.path}`"
        )
        raise Stopped(self.signals.caught or signal.SIGTERM)

    def close(self) -> None:
        self.loader.close()
        if self.valid_loader is not None:
            self.valid_loader.close()
        self.board.close()

    def save_weights(self, name: str, row: Row) -> None:
        card = checkpoint.Card(
            config=self.config,
            classes=self.dataset.classes,
            epoch=self.epoch,
            progress=self.learner.progress,
            metrics={key: float(value) for key, value in row.items()},
            **self.facts,
        )
        weights = self.learner.evaluated.state_dict()
        checkpoint.save_weights(self.run.path / name, weights, card)

    def save(self) -> None:
        left_out = sorted(self.world.union(self.learner.left_out.names))
        if self.world.is_main:
            state = self.state_dict() | {"left_out": left_out}
            checkpoint.save_state(self.run.path, state, self.learner.step)
        self.saved_at = time.monotonic()
        self.world.wait()

    def state_dict(self) -> dict[str, Any]:
        batches, step = len(self.loader), self.learner.step
        return {
            "world": self.world.size,
            "batches": batches,
            "contents": self.contents,
            "loader": {"epoch": self.epoch, "position": step - self.epoch * batches},
            "learner": self.learner.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
        }

    @functools.cached_property
    def contents(self) -> list[str]:
        """The digests of the splits that this run reads."""
        loaders = [self.loader, *([self.valid_loader] if self.valid_loader is not None else [])]
        return [loader.dataset.digest() for loader in loaders]

    def resume(self) -> bool:
        """Go back to the newest whole training state of the run; False where there is none yet."""
        state = checkpoint.read_state(self.run.path)
        if state is None:
            return False
        for name, what, now in (
            ("world", "processes", self.world.size),
            ("batches", "batches an epoch", len(self.loader)),
        ):
            if state[name] != now:
                raise UserError(
                    f"{self.run.path}: was trained with {state[name]} {what}, now there are {now};"
                    " start it as it was started (data set, torchrun)"
                )
        if state.get("contents", self.contents) != self.contents:  # earlier states have none
            raise UserError(
                f"{self.run.path}: was trained on other photos, labels or splits than those of"
                f" {self.dataset.folder}"
            )
        self.learner.load_state_dict(state["learner"])
        self.learner.left_out.before = set(state.get("left_out", ()))  # earlier states have none
        self.loader.load_state_dict(state["loader"])
        for name in ("epoch", "history", "best"):
            setattr(self, name, state[name])
        self.epochs_since_best = state.get("epochs_since_best", state.get("stale"))  # its old name
        return True


def nothing() -> None:
    """After each batch, where no profiler is on."""


def class_weights(dataset: Dataset) -> Tensor:
    """Inverse of the classes' shares, with a mean of 1 over the photos."""
    counts_N = torch.bincount(torch.from_numpy(dataset.labels), minlength=len(dataset.classes))
    return len(dataset) / (len(counts_N) * counts_N.float())


def short(value: float) -> float:
    """Six significant digits: what a table can be read with."""
    return float(f"{value:.6g}")


def epoch_line(row: Row, epochs: int, photos_per_s: float) -> str:
    """One line for the log."""
    shown = ["train_total", "train_accuracy", "valid_loss", "valid_accuracy"]
    values = [f"{name.replace('_', ' ')} {row[name]:.4f}" for name in shown if name in row]
    skipped = [f"{row['skipped']} batches skipped"] if row["skipped"] else []
    left_out = [f"{row['left_out']} photos left out so far"] if row["left_out"] else []
    words = [*values, *skipped, *left_out, f"{photos_per_s:.0f} photos/s"]
    return f"epoch {row['epoch']}/{epochs}: " + ", ".join(words)

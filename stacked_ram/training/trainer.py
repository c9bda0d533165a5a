"""The training of a run, from its first batch or its last checkpoint to its last epoch.

    for each epoch:  for each batch: train step -> validate -> best and last, metrics.csv -> state

The main process writes everything, each file whole or not at all. A training state is written last:
a resumed run writes what came after it again, the same.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stacked_ram.config.resolve import resolve_auto
from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.dataset import Dataset, is_uneven, open_dataset
from stacked_ram.data.glance_cache import use_glance_cache
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import make_loader
from stacked_ram.data.photo_loader import WorkerLost, watched_workers
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.norms import batch_norms
from stacked_ram.runs import checkpoint
from stacked_ram.runs.folder import BEST_BY, RunFolder, default_folder, metric_column, write_rows
from stacked_ram.runtime.devices import pick_device, seed_everything, set_switches
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import NotWritten, RunFailed, UserError
from stacked_ram.runtime.program import program
from stacked_ram.runtime.signals import Stopped, StopSignals
from stacked_ram.training.callbacks import Callback
from stacked_ram.training.checks import check_labels, check_sizes
from stacked_ram.training.estimators import Estimator
from stacked_ram.training.init_from import init_from
from stacked_ram.training.meters import Row
from stacked_ram.training.step import TrainStep
from stacked_ram.training.validation import validate

MOST_LEFT_OUT = 0.1  # of a split's photos, because they cannot be read
RESULTS = ("metrics.csv", "best.safetensors", "last.safetensors")
CHECK_EVERY = 0.5  # seconds between two checks for losses that are not finite


class Trainer:
    """Everything of one run: `Trainer(config, callbacks=[...]).fit()` trains it to the end.

    Args:
        run: the run's folder. None: results/ and the data set's name.
        world: the processes that train together; None: this one alone.
        callbacks: called in every process at the moments that `Callback` names.
        estimator: one of your own (`estimators.Estimator`); None: the one that the config names.
        from_state: `resume` will load a training state: the run of `init_from` is not needed.

    Raises UserError if the config cannot be trained. Nothing is written before `fit`.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder | Path | None = None,
        world: World | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        estimator: Estimator | None = None,
        from_state: bool = False,
    ) -> None:
        if not isinstance(run, RunFolder):
            run = RunFolder(run or default_folder(None, config))
        self.run, self.callbacks = run, list(callbacks)
        self.world = world = world or World()
        self.device = pick_device(config.training.device)
        self.given_config = config  # is saved, so that `auto` is chosen anew on another machine
        self.config = config = resolve_auto(config, self.device, quiet=not world.is_main)
        self.settings = settings = config.training
        set_switches(settings, self.device)

        self.dataset = open_dataset(config.data, "train", stream=True)
        check_labels(config, self.dataset)
        check_sizes(config, self.dataset)
        load = functools.partial(
            make_loader, config=config, device=self.device, rank=world.rank, world=world.size
        )
        self.loader: Loader = load(self.dataset, train=True)
        if len(self.loader) == 0:
            raise UserError(f"dataset: {len(self.dataset)} training photos are too few for a batch")
        self.valid_loader: Loader | None = None
        if config.data.train_on == "train":
            valid = open_dataset(config.data, "valid")
            self.valid_loader = load(valid, train=False)
            self.valid_left_out = LeftOut(valid, MOST_LEFT_OUT)

        seed_everything(settings.seed)  # every process starts from the same weights
        model = build_model(
            config.model,
            num_classes=len(self.dataset.classes),
            channels=self.dataset.channels,
            mean=self.dataset.mean,
            std=self.dataset.std,
            multi_label=self.dataset.multi_label,
        )
        self.started_from = ""
        if settings.init_from is not None and not from_state:
            self.started_from = init_from(model, settings.init_from, self.dataset.classes)
        self.train_step = TrainStep(
            model.to(self.device),
            settings,
            world,
            batches_per_epoch=len(self.loader),
            left_out=LeftOut(self.dataset, MOST_LEFT_OUT),
            class_weights_N=class_weights(self.dataset) if settings.class_weights else None,
            estimator=estimator,
        )
        self.epoch = 0  # epochs that are done
        self.history: list[Row] = []  # the rows of metrics.csv
        self.best: float | None = None
        self.epochs_since_best = 0  # epochs without a better metric
        self.resumed = False
        self.keeps_glances: bool | None = None  # None: not known yet

    # ------------------------------------------------------------------ the run

    def fit(self, overwrite: bool = False) -> Row:
        """Train to the end and return the metrics of the best epoch.

        overwrite: replace a run that is in the folder.

        Raises UserError if the folder holds another run, Stopped after Ctrl-C or SIGTERM, with
        everything saved, and RunFailed when a loss is not finite or the disk is full.
        """
        try:
            self.begin(overwrite)
            with contextlib.closing(self), StopSignals() as self.signals, watched_workers():
                try:
                    for callback in self.callbacks:
                        callback.on_train_start(self)
                    self.train_epochs()
                finally:
                    for callback in self.callbacks:
                        callback.on_train_end(self)
            if self.world.is_main:
                write_rows(self.run.path / "metrics.csv", self.history)
                self.log(self.summary())
            return self.best_row()
        except WorkerLost as error:
            if self.signals.caught:  # it went to workers too, which did not ignore it yet
                self.log(f"stopped; resume from the last checkpoint: --resume {self.run.path}")
                raise Stopped(self.signals.caught) from None
            raise RunFailed(f"{error}, then go on with --resume {self.run.path}") from None
        except NotWritten as error:
            if not self.run.path.is_dir():
                raise RunFailed(
                    f"{self.run.path}: was moved or removed while the training ran; put it back,"
                    f" then resume with --resume {self.run.path}"
                ) from None
            raise RunFailed(
                f"{error}; make room, then resume from the last checkpoint with --resume"
                f" {self.run.path}"
            ) from error
        finally:
            self.run.close()

    def begin(self, overwrite: bool) -> None:
        """Begin to write to the run's folder, and say what is trained."""
        if self.world.is_main and self.resumed:
            self.run.go_on()
            self.run.save_config(self.given_config)
        elif self.world.is_main:
            self.run.start(self.given_config, overwrite)
        self.log(self.header())
        if note := self.unevenness():
            self.log(note)
        if (
            self.world.size > 1
            and self.device.type == "cpu"
            and any(norm.training for norm in batch_norms(self.train_step.model))
        ):
            self.log(
                "batch norm: processes on a CPU do not share its statistics; each normalises with"
                " those of its own photos"
            )
        if self.started_from:
            self.log(self.started_from)
        if self.train_step.step and not self.finished:
            self.log(f"resuming at epoch {self.epoch + 1}, step {self.train_step.step}")
        if not self.train_step.step:  # results without a state would be those of another training
            self.save()

    def train_epochs(self) -> None:
        self.saved_at = self.checked_at = time.monotonic()
        # Here, because a resumed run has its weights by now.
        model = self.train_step.model
        use_glance_cache(self.loader, model, self.config)
        if self.valid_loader is not None:
            use_glance_cache(self.valid_loader, model, self.config)
        kept = self.loader.add_glance is not None
        if self.keeps_glances not in (None, kept):
            self.log(
                "the glances of the photos were kept before, and now they are not, or the other way"
                " round (`cache`): the result is no longer the same to the last bits"
            )
        self.keeps_glances = kept
        while not self.finished:
            self.loader.set_epoch(self.epoch)
            started = time.monotonic()
            photos = self.train_epoch()
            self.end_epoch(photos / max(time.monotonic() - started, 1e-9))

    def train_epoch(self) -> int:
        """Train on what is left of the epoch; returns the number of photos, in all processes."""
        group, photos = self.settings.accumulation_steps, 0
        for batch in self.loader:
            done = self.loader.position
            ends_epoch = done == len(self.loader)
            ends_group = done % group == 0 or ends_epoch
            accumulation_steps = min(group, len(self.loader) - (done - 1) // group * group)
            self.train_step(batch, accumulation_steps, ends_group)
            trained = len(batch) * self.world.size
            photos += trained
            self.check_finite_sometimes()
            for callback in self.callbacks:
                callback.on_step_end(self, trained)
            if ends_group and not ends_epoch:
                self.save_or_stop()
        self.train_step.nonfinite.check()
        return photos

    def end_epoch(self, photos_per_s: float) -> None:
        """Validate, choose the best epoch, save."""
        train_step, world = self.train_step, self.world
        if train_step.skipped >= len(self.loader):
            raise RunFailed(
                f"epoch {self.epoch + 1}: no batch had a finite loss; lower --learning-rate"
                f" (now {train_step.lr:g}) or use --precision float32"
            )
        row: Row = {"epoch": self.epoch + 1, "learning_rate": train_step.lr}
        averages = train_step.averages.read(world)
        row |= {f"train_{name}": six_digits(value) for name, value in averages.items()}
        row["skipped"] = train_step.skipped
        row["left_out"] = len(world.union(train_step.left_out.names))
        if self.valid_loader is not None:
            metrics = validate(
                self.model, self.valid_loader, self.device, self.settings, world,
                self.valid_left_out,
            )  # fmt: skip
            row |= {f"valid_{name}": six_digits(value) for name, value in metrics.items()}
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise RunFailed(
                f"epoch {self.epoch + 1}: the weights, or statistics of batch norm, are not finite;"
                " lower --learning-rate or set --clip-norm, and start anew"
            )
        self.epoch += 1
        self.history.append(row)
        train_step.end_epoch()
        metric = row.get(self.metric)
        train_step.schedule.after_epoch(metric)
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
            self.log(epoch_line(row, self.settings.epochs, photos_per_s))
        self.save()
        for callback in self.callbacks:
            callback.on_epoch_end(self, row)
        if self.anywhere(self.signals.caught > 0)[0] and not self.finished:
            self.stop()

    def check_finite_sometimes(self) -> None:
        """Reading the losses waits for the device, so not after every batch."""
        if time.monotonic() - self.checked_at >= CHECK_EVERY:
            self.checked_at = time.monotonic()
            self.train_step.nonfinite.check()

    # ------------------------------------------------------------------ what callbacks read

    @property
    def model(self) -> RAM:
        """The model that is evaluated and saved."""
        return self.train_step.evaluated

    @property
    def step(self) -> int:
        """Batches since the start of the run."""
        return self.train_step.step

    def running_averages(self) -> dict[str, float]:
        """The losses of the epoch so far, in this process. Waits for the device."""
        return self.train_step.averages.read()

    @property
    def photos_per_epoch(self) -> int:
        return self.world.size * self.loader.photos

    # ------------------------------------------------------------------ the best epoch

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        return self.epoch >= self.settings.epochs or (
            patience is not None and self.epochs_since_best >= patience
        )

    @property
    def metric(self) -> str:
        """The column of metrics.csv by which the best epoch is chosen."""
        columns = ("valid_mAP",) if self.dataset.multi_label else ()
        return metric_column(self.settings.metric, columns)

    def is_better(self, metric: float | None) -> bool:
        """Without a validation split there is nothing to choose by: the last epoch is the best."""
        return metric is None or self.best is None or self.score(metric) > self.score(self.best)

    def score(self, metric: float) -> float:
        """A metric turned so that higher is better; NaN is the worst."""
        if math.isnan(metric):
            return -math.inf
        return -metric if self.settings.metric == "loss" else metric

    def best_row(self) -> Row:
        """Metrics of the epoch whose weights are kept as best."""
        name = self.metric
        if name not in self.history[-1]:
            return self.history[-1]
        return max(self.history, key=lambda row: self.score(row[name]))

    # ------------------------------------------------------------------ the log

    def header(self) -> str:
        """Where, on what and into which folder it trains."""
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
        if self.world.size > 1:
            device = f"{self.world.size} processes, {device}"
        photos = f"{len(self.dataset)} photos of {len(self.dataset.classes)} classes"
        if self.valid_loader is not None:
            photos += f" ({len(self.valid_loader.dataset)} for validation)"
        return (
            f"training on {device}, {self.settings.precision}: {photos} from"
            f" {self.dataset.folder}; results go to {self.run.path}"
        )

    def unevenness(self) -> str:
        """What to do about classes of very different sizes; empty where nothing is to be done."""
        helped = self.config.data.balanced_sampler or self.settings.class_weights
        photos = self.dataset.class_counts()
        if helped or not is_uneven(photos, 5):
            return ""
        counts = dict(zip(self.dataset.classes, photos, strict=True))
        large, small = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        sampler = "--balanced-sampler draws every class equally often, "
        sampler = "" if self.dataset.multi_label else sampler
        return (
            f"warning: classes are uneven: {counts[large]} photos of {large!r}, {counts[small]} of"
            f" {small!r}; {sampler}--class-weights weights the loss"
        )

    def summary(self) -> str:
        text = f"{self.epoch} epoch{'' if self.epoch == 1 else 's'} trained"
        if self.epoch < self.settings.epochs:
            text += f" (stopped early: {self.epochs_since_best} epochs without a better one)"
        if self.best is not None:
            text += f"; best {self.metric.removeprefix('valid_')} {self.best:.4f}"
        return f"{text}: {self.run.path / 'best.safetensors'}"

    def log(self, text: str) -> None:
        if self.world.is_main:
            self.run.log(text)

    # ------------------------------------------------------------------ saving and resuming

    def save_or_stop(self) -> None:
        """Between two steps: save now and then; after Ctrl-C, SIGTERM or SIGHUP save and stop."""
        due = time.monotonic() - self.saved_at >= 60 * self.settings.save_every
        due, stopping = self.anywhere(due and self.world.is_main, self.signals.caught > 0)
        if due or stopping:
            self.train_step.nonfinite.check()
            self.save()
        if stopping:
            self.stop()

    def anywhere(self, *flags: bool) -> list[bool]:
        """Whether each flag is up in any process."""
        if self.world.size == 1:
            return list(flags)
        return [count > 0 for count in self.world.sum(torch.tensor(flags).int()).tolist()]

    def stop(self) -> None:
        self.log(
            f"stopped in epoch {self.epoch + 1}, everything saved; resume it with"
            f" `{program()} train --resume {self.run.path}`"
        )
        raise Stopped(self.signals.caught or signal.SIGTERM)

    def close(self) -> None:
        self.loader.close()
        if self.valid_loader is not None:
            self.valid_loader.close()

    def save_weights(self, name: str, row: Row) -> None:
        metadata = checkpoint.Metadata(
            config=self.config,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            mean=self.dataset.mean,
            std=self.dataset.std,
            epoch=self.epoch,
            progress=self.train_step.progress,
            metrics={key: float(value) for key, value in row.items()},
            multi_label=self.dataset.multi_label,
            thresholds=tuple(self.model.thresholds),
        )
        weights = self.model.state_dict()
        checkpoint.save_weights(self.run.path / name, weights, metadata)

    def save(self) -> None:
        left_out = sorted(self.world.union(self.train_step.left_out.names))
        if self.world.is_main:
            state = self.state_dict() | {"left_out": left_out}
            checkpoint.save_state(self.run.path, state, self.train_step.step)
        self.saved_at = time.monotonic()
        self.world.wait()

    def state_dict(self) -> dict[str, Any]:
        batches, step = len(self.loader), self.train_step.step
        return {
            "world": self.world.size,
            "batches": batches,
            "contents": self.contents,
            "loader": {"epoch": self.epoch, "position": step - self.epoch * batches},
            "learner": self.train_step.state_dict(),  # its first name, which states on disk have
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
            "keeps_glances": self.keeps_glances,
            "epochs_since_best": self.epochs_since_best,
        }

    @functools.cached_property
    def contents(self) -> list[str]:
        """The digests of the splits that this run reads."""
        loaders = [self.loader, *([self.valid_loader] if self.valid_loader is not None else [])]
        return [loader.dataset.digest() for loader in loaders]

    def resume(self) -> None:
        """Go back to the newest whole training state of the run, or to its start if nothing has
        come of it yet. Called before `fit`.

        Raises UserError if the run has results and no state, or was trained on other photos or with
        another number of processes.
        """
        self.resumed = True
        if checkpoint.restore(self.run.path, self.load_state_dict):
            return
        results = [name for name in RESULTS if (self.run.path / name).exists()]
        if results:
            raise UserError(
                f"{self.run.path}: holds {results[0]} and no training state (state-*.pt), so it"
                " cannot be resumed; put its states back, start it anew with --overwrite, or choose"
                " another --out"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a training state. Raises UserError if it belongs to another training, and other
        errors if it is not complete."""
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
        self.train_step.load_state_dict(state["learner"])
        self.train_step.left_out.before = set(state.get("left_out", ()))  # earlier states have none
        self.loader.load_state_dict(state["loader"])
        self.epoch, self.history = int(state["epoch"]), list(state["history"])
        self.best, self.keeps_glances = state["best"], state.get("keeps_glances")
        stale = "stale" if "stale" in state else "epochs_since_best"  # its old name
        self.epochs_since_best = int(state[stale])


def class_weights(dataset: Dataset) -> Tensor:
    """Inverse of the classes' frequencies, with a mean of 1 over the photos. With several labels:
    for each photo that has a class, how many others there are."""
    counts_N = torch.tensor(dataset.class_counts())
    if dataset.multi_label:
        return (len(dataset) - counts_N) / counts_N.clamp(min=1).float()
    return len(dataset) / (len(counts_N) * counts_N.float())


def six_digits(value: float) -> float:
    """Rounded, so that the table can be read."""
    return float(f"{value:.6g}")


def epoch_line(row: Row, epochs: int, photos_per_s: float) -> str:
    """One line for the log."""
    shown = ["train_total", "train_accuracy", "train_F1", "valid_loss", *BEST_BY]
    values = [f"{name.replace('_', ' ')} {row[name]:.4f}" for name in shown if name in row]
    skipped = [f"{row['skipped']} batches skipped"] if row["skipped"] else []
    left_out = [f"{row['left_out']} photos left out so far"] if row["left_out"] else []
    words = [*values, *skipped, *left_out, f"{photos_per_s:.0f} photos/s"]
    return f"epoch {row['epoch']}/{epochs}: " + ", ".join(words)

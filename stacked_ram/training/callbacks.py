"""Callbacks: what is done beside the training, at four moments of it.

    class Bell(Callback):
        def on_train_end(self, trainer: Training) -> None:
            print("\a")

    Trainer(config, callbacks=[Bell()]).fit()

A callback changes nothing of the training: its random numbers are fixed anew before each step.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol

import torch

from stacked_ram.config.schema import Config
from stacked_ram.data.base_loader import Loader
from stacked_ram.data.left_out import LeftOut
from stacked_ram.models.ram import RAM
from stacked_ram.runs.folder import RunFolder
from stacked_ram.runtime.distributed import World
from stacked_ram.training.meters import Row

REFRESH = 0.5  # seconds between two updates of the progress bar


class Training(Protocol):
    """What a callback may read of the Trainer."""

    config: Config
    run: RunFolder
    """Its `path` is the run's folder."""
    world: World
    """`world.is_main`: whether this process writes files and prints."""
    device: torch.device
    loader: Loader
    valid_loader: Loader | None
    valid_left_out: LeftOut
    epoch: int
    """Epochs that are done."""
    history: list[Row]
    """The metrics of each of them."""

    @property
    def model(self) -> RAM:
        """The model as it is evaluated (the average of the weights, if there is one)."""
        ...

    @property
    def step(self) -> int:
        """Batches since the start of the run."""
        ...

    @property
    def photos_per_epoch(self) -> int: ...

    def running_averages(self) -> dict[str, float]:
        """The losses of the epoch so far, in this process. Waits for the device."""
        ...

    def log(self, text: str) -> None:
        """Print a line and keep it in log.txt."""
        ...


class Callback:
    """Four moments of a training; a subclass overrides those it needs.

    Each is called in every process (ask `trainer.world.is_main` before writing). An exception ends
    the training. The same callback may serve several runs in turn.
    """

    def on_train_start(self, trainer: Training) -> None:
        """Before the first batch, of a new run or of a resumed one."""

    def on_step_end(self, trainer: Training, photos: int) -> None:
        """After each batch. photos: how many it had, in all processes."""

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        """After an epoch was trained, validated and saved. row: its metrics."""

    def on_train_end(self, trainer: Training) -> None:
        """At the end, however it came: also after an error or Ctrl-C."""


class ProgressBar(Callback):
    """A bar over all photos of the run, with photos/s and the time left; on a terminal only."""

    def on_train_start(self, trainer: Training) -> None:
        from tqdm import tqdm

        per_epoch = trainer.photos_per_epoch
        self.bar = tqdm(
            total=trainer.config.training.epochs * per_epoch,
            initial=trainer.step * per_epoch // len(trainer.loader),
            unit=" photos",
            unit_scale=True,
            mininterval=REFRESH,
            dynamic_ncols=True,
            disable=None if trainer.world.is_main else True,  # None: only on a terminal
            file=sys.stderr,
        )
        self.updated_at = time.monotonic()
        trainer.run.echo_through(self.print_above)

    def on_step_end(self, trainer: Training, photos: int) -> None:
        self.bar.update(photos)
        if self.bar.disable:
            return
        now = time.monotonic()
        if trainer.loader.position == len(trainer.loader):
            self.bar.set_postfix_str("validating", refresh=False)
        elif now - self.updated_at >= REFRESH:
            self.updated_at = now
            values = trainer.running_averages()
            good = "F1" if "F1" in values else "accuracy"
            self.bar.set_postfix_str(
                f"epoch {trainer.epoch + 1}, loss {values.get('total', float('nan')):.3f},"
                f" {good} {values.get(good, float('nan')):.3f}",
                refresh=False,
            )

    def on_train_end(self, trainer: Training) -> None:
        self.bar.close()
        trainer.run.echo_through(print)

    def print_above(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

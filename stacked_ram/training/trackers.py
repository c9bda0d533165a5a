"""Where metrics and pictures of a run are sent: TensorBoard, Weights & Biases or MLflow.

    Trainer(config, callbacks=[make_tracker("wandb")]).fit()

Each is a callback that sends the row of every epoch; pictures are given to `write_picture`. The
package of a tracker is imported when the tracker is made, and only in the main process it is used.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import numpy as np

from stacked_ram.config.yaml import to_dict
from stacked_ram.runtime.errors import NotWritten, UserError
from stacked_ram.training.callbacks import Callback, Training
from stacked_ram.training.meters import Row

PROJECT = "stacked_ram"


class Tracker(Callback):
    """A callback that also takes pictures."""

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        """Send a picture, uint8 RGB. Called in the main process, during the training."""


class TensorBoard(Tracker):
    """Curves and pictures in RUN/tensorboard. Raises NotWritten where they cannot be written."""

    writer: Any = None

    def on_train_start(self, trainer: Training) -> None:
        if trainer.world.is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # What an interrupted process wrote after its last checkpoint is not shown.
            self.folder, epoch = trainer.run.path / "tensorboard", trainer.epoch + 1
            with self.writing():
                self.writer = SummaryWriter(str(self.folder), purge_step=epoch)
            self.excepthook, threading.excepthook = threading.excepthook, self.heard

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        if self.writer is not None:
            with self.writing():
                for name, value in tracked(row).items():
                    self.writer.add_scalar(name, value, trainer.epoch)

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        with self.writing():
            self.writer.add_image(name, pixels_HWC, epoch, dataformats="HWC")

    def on_train_end(self, trainer: Training) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            try:
                with self.writing():
                    writer.close()
            finally:
                threading.excepthook = self.excepthook

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise NotWritten where the writer, or its thread before, could not write."""
        try:
            yield
        except OSError as error:
            raise NotWritten(f"{self.folder}: cannot be written ({error.strerror})") from None

    def heard(self, failed: threading.ExceptHookArgs) -> None:
        """Print no traceback of the writer's thread: what it could not write is raised in the next
        call of the writer."""
        writes_events = type(failed.thread).__module__.startswith("tensorboard.")
        if not (writes_events and isinstance(failed.exc_value, OSError)):
            self.excepthook(failed)


class WeightsAndBiases(Tracker):
    """A run of the project `stacked_ram` at Weights & Biases, named after the run's folder.

    A resumed run is another run there, in the same group. (`WANDB_MODE=offline` sends nothing.)
    """

    def __init__(self) -> None:
        self.wandb = import_tracker("wandb")
        self.run: Any = None

    def on_train_start(self, trainer: Training) -> None:
        if trainer.world.is_main:
            name = trainer.run.path.name
            self.run = self.wandb.init(
                project=PROJECT, name=name, group=name, dir=str(trainer.run.path),
                config=to_dict(trainer.config),
            )  # fmt: skip

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        if self.run is not None:
            self.run.log(tracked(row), step=trainer.epoch)

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        self.run.log({name: self.wandb.Image(pixels_HWC)}, step=epoch)

    def on_train_end(self, trainer: Training) -> None:
        if self.run is not None:
            self.run.finish()
            self.run = None


class MLflow(Tracker):
    """A run of the experiment `stacked_ram` in MLflow, named after the run's folder.

    Where it goes is MLflow's own setting (`MLFLOW_TRACKING_URI`).
    """

    def __init__(self) -> None:
        self.mlflow = import_tracker("mlflow")
        self.active = False

    def on_train_start(self, trainer: Training) -> None:
        if trainer.world.is_main:
            self.mlflow.set_experiment(PROJECT)
            self.mlflow.start_run(run_name=trainer.run.path.name)
            for section in to_dict(trainer.config).values():
                self.mlflow.log_params(section)
            self.active = True

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        if self.active:
            self.mlflow.log_metrics(tracked(row), step=trainer.epoch)

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        self.mlflow.log_image(pixels_HWC, artifact_file=f"{name}/epoch-{epoch:04d}.png")

    def on_train_end(self, trainer: Training) -> None:
        if self.active:
            self.mlflow.end_run()
            self.active = False


def make_tracker(name: Literal["tensorboard", "wandb", "mlflow"]) -> Tracker:
    """The tracker of this name. Raises UserError if its package is not installed."""
    return {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}[name]()


def import_tracker(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"--log {package}: is not installed; pip install {package}") from None


def tracked(row: Row) -> dict[str, float]:
    """The metrics of an epoch under the names that group them: train/total, valid/accuracy."""
    return {name.replace("_", "/", 1): value for name, value in row.items() if name != "epoch"}

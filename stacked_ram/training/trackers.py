"""Where metrics and pictures of a run are sent: TensorBoard, Weights & Biases or MLflow.

    Trainer(config, callbacks=[make_tracker("wandb")]).fit()

Each is a callback that sends the row of every epoch; pictures are given to `write_picture`. The
package of a tracker is imported when the tracker is made, and only in the main process it is used.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal

import numpy as np

from stacked_ram.config.yaml import to_dict
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.callbacks import Callback, Training
from stacked_ram.training.meters import Row

PROJECT = "stacked_ram"


class Tracker(Callback):
    """A callback that also takes pictures."""

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        """Send a picture, uint8 RGB. Called in the main process, during the training."""


class TensorBoard(Tracker):
    """Curves and pictures in RUN/tensorboard."""

    writer: Any = None

    def on_train_start(self, trainer: Training) -> None:
        if trainer.world.is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # What an interrupted process wrote after its last checkpoint is not shown.
            folder, epoch = trainer.run.path / "tensorboard", trainer.epoch + 1
            self.writer = SummaryWriter(str(folder), purge_step=epoch)

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        if self.writer is not None:
            for name, value in tracked(row).items():
                self.writer.add_scalar(name, value, trainer.epoch)

    def write_picture(self, name: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        self.writer.add_image(name, pixels_HWC, epoch, dataformats="HWC")

    def on_train_end(self, trainer: Training) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


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

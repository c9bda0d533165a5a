"""A trace of the first batches, for TensorBoard's and Chrome's trace viewers."""

from __future__ import annotations

import torch

from stacked_ram.training.callbacks import Callback, Training
from stacked_ram.training.meters import Row

WAIT, WARMUP, ACTIVE = 2, 2, 6  # batches left out, warmed up with, and traced


class Profiler(Callback):
    """Writes RUN/tensorboard/*.pt.trace.json in the first epoch."""

    profiler: torch.profiler.profile | None = None

    def on_train_start(self, trainer: Training) -> None:
        if not trainer.world.is_main:
            return
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if trainer.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(
            activities=kinds,
            schedule=torch.profiler.schedule(wait=WAIT, warmup=WARMUP, active=ACTIVE, repeat=1),
            on_trace_ready=torch.profiler.tensorboard_trace_handler(
                str(trainer.run.path / "tensorboard")
            ),
            record_shapes=True,
            profile_memory=True,
        )
        self.profiler.start()

    def on_step_end(self, trainer: Training, photos: int) -> None:
        if self.profiler is not None:
            self.profiler.step()

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        self.on_train_end(trainer)

    def on_train_end(self, trainer: Training) -> None:
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

"""A trace of the first batches, for TensorBoard's and Chrome's trace viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from stacked_ram.training.trainer import Trainer

WAIT, WARMUP, ACTIVE = 2, 2, 6  # batches left out, warmed up with, and traced


def make_profiler(trainer: Trainer) -> torch.profiler.profile:
    """A profiler that writes RUN/tensorboard/*.pt.trace.json; call its `step` after each batch."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(
        activities=kinds,
        schedule=torch.profiler.schedule(wait=WAIT, warmup=WARMUP, active=ACTIVE, repeat=1),
        on_trace_ready=torch.profiler.tensorboard_trace_handler(
            str(trainer.run.path / "tensorboard")
        ),
        record_shapes=True,
        profile_memory=True,
    )

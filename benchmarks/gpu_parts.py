"""What the parts of gpu.py share: how much is done, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import repository  # noqa: F401
import torch
from torch import Tensor

Row = dict[str, Any]


class Sizes:
    """How much is done: all of it, or a touch of everything."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.batch = 16 if quick else 128
        self.large_batch = 8 * self.batch
        self.digits = 256 if quick else 60_000
        self.reference_steps = 1 if quick else 8
        self.eager_steps = 2 if quick else 40
        self.run_seconds = 0.0 if quick else 25.0  # of a long run at 28x28
        self.backbone = "test_efficientnet" if quick else "tf_efficientnet_lite0"
        self.photos = 2 if quick else 128


def repeat(work: Callable, times: int, *given: Tensor) -> None:
    for _ in range(times):
        work(*given)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds, the device's work included."""
    everywhere = [torch.device("cuda")] if torch.cuda.is_available() else []
    for device in everywhere:
        settled(device)
    begun = time.perf_counter()
    work()
    for device in everywhere:
        settled(device)
    return time.perf_counter() - begun


def settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

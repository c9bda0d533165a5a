"""Which device, with which precision and switches."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.runtime.distributed import local_rank
from stacked_ram.runtime.errors import UserError

MALLOC_TRIM_THRESHOLD, MALLOC_TOP_PAD, MALLOC_MMAP_MAX = -1, -2, -4  # malloc.h's M_*

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`: a GPU where there is one (each process of a machine its own). Raises UserError for
    a device that is not there."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if cuda else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: `{name}` is not cpu, cuda, cuda:N, mps or auto") from None
    if device.type == "cuda":
        if not cuda:
            raise UserError(f"device: {name}, but torch sees no CUDA GPU; use --device cpu or auto")
        if device.index is None:
            device = torch.device("cuda", local_rank())
        if device.index >= torch.cuda.device_count():
            raise UserError(f"device: {device}, but there are {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device: mps, but torch sees none; use --device cpu or auto")
    elif device.type not in ("cpu", "mps"):
        raise UserError(f"device: `{name}` is not cpu, cuda, cuda:N, mps or auto")
    return device


def set_switches(config: TrainingConfig, device: torch.device) -> None:
    """TF32, determinism, the choice of kernels and what the CPU does with freed memory, for the
    whole process."""
    if device.type == "cpu":
        keep_memory()
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = config.cuda_graph  # which steps of few shapes are worth
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(config.deterministic)


def keep_memory() -> None:
    """Have glibc keep what is freed and use it again. Left alone it hands large tensors back to
    the system at once, which then clears every page of the next ones: a third of a training step
    of a backbone. Elsewhere than on glibc this does nothing."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or not Linux
        return
    set_option(MALLOC_MMAP_MAX, 0)  # also the largest from the heap
    set_option(MALLOC_TRIM_THRESHOLD, -1)  # whose end stays
    set_option(MALLOC_TOP_PAD, 2**26)  # and grows by 64 MB at least


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision of matrix products inside the `with`."""
    dtype = DTYPES.get(precision, torch.float32)
    return torch.autocast(device.type, dtype, enabled=precision in DTYPES)


def seed_everything(*numbers: int) -> None:
    """Fix python's, numpy's and torch's chances as a function of these whole numbers.

    Called before every step with (seed, rank, step), so that what a step draws depends on nothing
    that came before it: a run that is killed and resumed draws what it would have drawn.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    for seed_device in device_seeds():
        seed_device(seed % 2**63)


@cache
def device_seeds() -> list[Callable[[int], Any]]:
    """What seeds the processor and each kind of device that is here. `torch.manual_seed` also
    notes a seed for kinds that are not, with its callers' names: 0.26 ms a step."""
    seeds = [torch.default_generator.manual_seed]
    if torch.cuda.is_available():
        seeds.append(torch.cuda.manual_seed_all)
    if torch.backends.mps.is_available():
        seeds.append(torch.mps.manual_seed)
    return seeds

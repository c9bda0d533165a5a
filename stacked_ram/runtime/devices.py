"""Devices: which to use, its precision, its switches, and seeding."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from stacked_ram.runtime.distributed import local_rank
from stacked_ram.runtime.errors import UserError

MALLOC_TRIM_THRESHOLD, MALLOC_TOP_PAD, MALLOC_MMAP_MAX = -1, -2, -4  # malloc.h's M_*

FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # instruction sets of a CPU
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one, each process having its own.

    Raises UserError for a device that this machine does not have.
    """
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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bf16 matrices faster than float32 ones.

    For a CPU it reads the kernel's list of instruction sets, which names AVX512_BF16 and AMX on x86
    and bf16 on ARM; torch's functions for this are private, and know x86 alone. Without Linux, a
    CPU is taken to have none.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not cpu_features().isdisjoint(FAST_BF16)


@cache
def cpu_features() -> frozenset[str]:
    """The instruction sets of this machine's CPU, as the Linux kernel names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "feat")))
    return frozenset(next(named, "").split())


class Switches(Protocol):
    """What `set_switches` reads: fields of the configuration's section `training`."""

    @property
    def tf32(self) -> bool: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def cuda_graph(self) -> bool: ...


def set_switches(config: Switches, device: torch.device) -> None:
    """Set TF32, determinism, the choice of kernels and the handling of freed memory, for the whole
    process."""
    if device.type == "cpu":
        keep_memory()
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = config.cuda_graph  # worth its time where shapes are fixed
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(config.deterministic)


def keep_memory() -> None:
    """Have glibc keep freed memory and use it again. By default it returns large tensors to the
    system at once, which then clears every page of the next ones: a third of a training step of a
    backbone. Without glibc this does nothing."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or not Linux
        return
    set_option(MALLOC_MMAP_MAX, 0)  # take even the largest blocks from the heap
    set_option(MALLOC_TRIM_THRESHOLD, -1)  # never shrink the heap
    set_option(MALLOC_TOP_PAD, 2**26)  # grow it by at least 64 MB


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision of matrix products inside the `with`: float32, bf16 or fp16."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")


def seed_everything(*numbers: int) -> None:
    """Seed the random numbers of python, numpy and torch from these whole numbers.

    Called before every step with (seed, rank, step), so that its random numbers do not depend on
    the steps before it: a run that is killed and resumed draws the same ones.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    for seed_device in device_seeds():
        seed_device(seed % 2**63)


@cache
def device_seeds() -> list[Callable[[int], Any]]:
    """The functions that seed the CPU and each kind of device of this machine. `torch.manual_seed`
    also stores a seed for absent kinds, with a stack trace: 0.26 ms a step."""
    seeds: list[Callable[[int], Any]] = [torch.default_generator.manual_seed]
    if torch.cuda.is_available():
        seeds.append(torch.cuda.manual_seed_all)
    if torch.backends.mps.is_available():
        seeds.append(torch.mps.manual_seed)
    return seeds

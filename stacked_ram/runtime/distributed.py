"""Training in several processes: torch.distributed, started by torchrun.

Without torchrun the world has one process, and nothing here costs any time.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_restart(self) -> bool:
        """Whether torchrun started these processes again after one of them died."""
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def union(self, names: Iterable[str]) -> set[str]:
        """All names that occur in any process."""
        found = [list(names)] * self.size
        if self.size > 1:
            dist.all_gather_object(found, found[0])
        return set().union(*found)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average the gradients of this module's parameters over the processes."""
        if self.size == 1:
            return module
        # Some phases leave parameters out (the policy, while glimpses are random).
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def join_world() -> World:
    """Join the other processes of torchrun (which sets WORLD_SIZE), if there are any."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        # Flags and counts travel between CPUs (gloo), gradients between GPUs (NCCL).
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps one store over its restarts on a machine; without a prefix of its own
            # a restarted process may find the address of one that has died.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"attempt {attempt}", store)
        limit = timedelta(minutes=30)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return World(dist.get_rank(), size)


def local_rank() -> int:
    """The number of this process among those that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def leave_world() -> None:
    """Leave the other processes, after the training's objects are gone."""
    if dist.is_initialized():
        # A reducer that outlives the group ends the process with `terminate called` now and then.
        gc.collect()
        # A thread of gloo that still lets go of its last tensor waits for the interpreter, which
        # is kept while the group waits for that thread (seen with torch 2.7: both for ever).
        time.sleep(0.1)
        dist.destroy_process_group()

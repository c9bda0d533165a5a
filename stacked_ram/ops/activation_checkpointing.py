"""Activation checkpointing that batch norm does not notice (`activation_checkpointing`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stacked_ram.models.retina.norms import batch_norms

Found = TypeVar("Found")


def checkpointed(work: Callable[[Tensor], Found], value: Tensor, module: nn.Module) -> Found:
    """work(value), which is done by `module`, without keeping what its backward pass needs: that
    is computed again."""
    contexts = contextlib.nullcontext(), same_statistics(module)
    return checkpoint(work, value, use_reentrant=False, context_fn=lambda: contexts)


@contextlib.contextmanager
def same_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norm gets its running statistics back afterwards: what is computed again for the
    backward pass was counted already."""
    norms = batch_norms(module)
    kept = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, values in zip(norms, kept, strict=True):
                for buffer, value in zip(norm.buffers(), values, strict=True):
                    buffer.copy_(value)

"""Activation checkpointing that counts a batch only once in batch norm's running statistics.

Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost": activations are computed again
in the backward pass instead of kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def checkpointed(
    function: Callable[[Tensor], Result], argument: Tensor, module: nn.Module
) -> Result:
    """Call function(argument), which uses `module`, with activation checkpointing."""
    contexts = contextlib.nullcontext(), same_statistics(module)
    return checkpoint(function, argument, use_reentrant=False, context_fn=lambda: contexts)


@contextlib.contextmanager
def same_statistics(module: nn.Module) -> Iterator[None]:
    """Restore batch norm's running statistics at the end: they have counted this batch before."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    saved = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, values in zip(norms, saved, strict=True):
                for buffer, value in zip(norm.buffers(), values, strict=True):
                    buffer.copy_(value)

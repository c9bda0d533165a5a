"""A digest of tensors: whether two sets of weights are the same."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

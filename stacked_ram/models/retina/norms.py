"""Batch norm anywhere in a network: frozen or synchronised statistics."""

from __future__ import annotations

from typing import Self

from torch import nn


class FreezableStatistics(nn.Module):
    """A network whose batch norm can use its running statistics in training too.

    frozen_statistics: set it, then call `train()`; it holds until it is set again.
    """

    frozen_statistics = False

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen_statistics:
            for norm in batch_norms(self):
                norm.eval()
        return self


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def synchronise(network: nn.Module) -> None:
    """Synchronise batch norm over all processes, in place. By timm: in its networks the activation
    is part of the norm, and torch's own conversion would lose it."""
    from timm.layers import convert_sync_batchnorm

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in batch_norms(child):
                setattr(module, name, convert_sync_batchnorm(child))

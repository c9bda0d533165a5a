"""Batch norm, wherever in a network it is."""

from __future__ import annotations

from torch import nn


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def keep_statistics(network: nn.Module) -> None:
    """Have batch norm use the statistics that it has, also in training."""
    for norm in batch_norms(network):
        norm.eval()

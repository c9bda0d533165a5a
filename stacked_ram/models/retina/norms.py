"""Batch norm, wherever in a network it is."""

from __future__ import annotations

from torch import nn


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def keep_statistics(network: nn.Module) -> None:
    """Have batch norm use the statistics that it has, also in training."""
    for norm in batch_norms(network):
        norm.eval()


def synchronise(network: nn.Module) -> None:
    """Have batch norm, in place, take its statistics from the batches of all processes. By timm,
    since in its networks the activation is a part of the norm, which torch's own would lose."""
    from timm.layers import convert_sync_batchnorm

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in batch_norms(child):
                setattr(module, name, convert_sync_batchnorm(child))

"""A linear layer that is as fast in float32 as the processor: nn.Linear but for the library.

torch multiplies float32 matrices on the CPU by MKL, which keeps to AVX2 on processors that are not
Intel's: half of what those with AVX-512 can do (50 instead of 105 GMAC/s on one core of an AMD
EPYC 9005). oneDNN, which is in torch too, asks the processor and not its maker. Where that makes a
difference, large products go there; everywhere else this is nn.Linear.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS, WORK = 32, 2**21  # below so many rows, or multiplications, the call costs what is gained


class Linear(nn.Linear):
    """y = x W^T + b, with the parameters and the state dict of nn.Linear."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not faster(input, self.weight):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)


def faster(input: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the better one for this product."""
    return (
        mkl_holds_back()
        and input.ndim == 2
        and len(input) >= ROWS
        and len(input) * weight.numel() >= WORK
        and input.dtype == weight.dtype == torch.float32
        and input.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def mkl_holds_back() -> bool:
    """Whether torch's products use MKL on a processor with AVX-512 that is not Intel's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def product(left_MK: Tensor, right_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """left right^T + bias, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, bias_N, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        return product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        wanted_input, wanted_weight, wanted_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if wanted_input else None,
            product(gradient.t(), input.t()) if wanted_weight else None,
            gradient.sum(0) if wanted_bias else None,
        )

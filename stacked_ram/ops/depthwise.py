"""Depthwise convolutions with a backward pass that is fast in bf16 on a CPU.

Mobile backbones spend little arithmetic in depthwise convolutions. In bf16 on a CPU, however,
torch computes two of their gradients with a slow reference kernel that takes most of a training
step: the gradient of the input if the stride is above 1, and the gradient of a kernel larger
than 3 x 3. Here the first is computed in float32, and the second is assembled from the gradients
of 3 x 3 kernels; both are fast. benchmarks/README.md has the figures.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

NHWC = torch.channels_last
Pair = tuple[int, int]


class Depthwise(torch.autograd.Function):
    """Depthwise convolution: x (B C H W) and weight (C 1 k k) -> B C h w.

    Strides and paddings are (vertical, horizontal).
    """

    @staticmethod
    def forward(
        context, x_BCHW: Tensor, weight_C1kk: Tensor, stride: Pair, padding: Pair
    ) -> Tensor:
        y = functional.conv2d(
            x_BCHW, weight_C1kk, stride=stride, padding=padding, groups=len(weight_C1kk)
        )
        # autocast may have made y of another precision: the backward pass works in y's
        context.save_for_backward(x_BCHW.to(y.dtype), weight_C1kk.to(y.dtype))
        context.stride, context.padding = stride, padding
        context.dtypes = x_BCHW.dtype, weight_C1kk.dtype
        return y

    @staticmethod
    def backward(context, grad_BChw: Tensor):
        x, weight = context.saved_tensors
        stride, padding = context.stride, context.padding
        grad = grad_BChw.contiguous(memory_format=NHWC)
        grad_x = grad_weight = None
        if context.needs_input_grad[0]:
            grad_x = input_gradient(grad, x, weight, stride, padding).to(context.dtypes[0])
        if context.needs_input_grad[1]:
            grad_weight = kernel_gradient(grad, x, weight, stride, padding).to(context.dtypes[1])
        return grad_x, grad_weight, None, None


def gradients(
    grad_BChw: Tensor, x_BCHW: Tensor, weight_C1kk: Tensor, stride: Pair, padding: Pair,
    mask: tuple[bool, bool],
) -> list[Tensor]:  # fmt: skip
    """Compute gradients by torch's own kernels. mask: whether that of x, that of the weight."""
    return torch.ops.aten.convolution_backward(
        grad_BChw, x_BCHW, weight_C1kk, None, stride, padding, (1, 1), False, (0, 0),
        len(weight_C1kk), (*mask, False),
    )  # fmt: skip


def input_gradient(
    grad_BChw: Tensor, x_BCHW: Tensor, weight_C1kk: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Compute the gradient of the input, B C H W: in float32 if the stride is above 1."""
    if max(stride) > 1:
        grad_BChw, weight_C1kk = grad_BChw.float(), weight_C1kk.float()
        x_BCHW = torch.empty_like(x_BCHW, dtype=torch.float32)  # only its shape is read
    return gradients(grad_BChw, x_BCHW, weight_C1kk, stride, padding, (True, False))[0]


def kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Compute the gradient of the kernel, C 1 k k: each 3 x 3 part of it is the kernel of a
    convolution over the input shifted by the part's offset."""
    height, width = weight.shape[2:]
    if max(height, width) <= 3 or grad.dtype == torch.float32:
        return gradients(grad, x, weight, stride, padding, (False, True))[1]
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows = (grad.shape[2] - 1) * stride[0] + min(height, 3)  # the rows of x that a part covers
    columns = (grad.shape[3] - 1) * stride[1] + min(width, 3)
    grad_weight = torch.empty_like(weight)
    for top in offsets(height):
        for left in offsets(width):
            window = x[:, :, top : top + rows, left : left + columns]
            window = window.contiguous(memory_format=NHWC)
            part = grad_weight[:, :, top : top + 3, left : left + 3]
            part.copy_(gradients(grad, window, part, stride, (0, 0), (False, True))[1])
    return grad_weight


def offsets(side: int) -> list[int]:
    """Return the starts of the parts of length 3 that cover a side: 5 -> 0, 2; 7 -> 0, 3, 4."""
    last = max(side - 3, 0)
    return [*range(0, last, 3), last]


class DepthwiseConv2d(nn.Module):
    """Replacement of a depthwise `nn.Conv2d` (or timm's Conv2dSame) that keeps its parameters."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.kernel_size = convolution.stride, convolution.kernel_size
        self.padding = convolution.padding
        self.same = type(convolution).__name__ == "Conv2dSame"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.same:
            from timm.layers import pad_same

            x_BCHW = pad_same(x_BCHW, list(self.kernel_size), list(self.stride))
        if torch.is_grad_enabled() and x_BCHW.device.type == "cpu":
            y = Depthwise.apply(x_BCHW, self.weight, self.stride, self.padding)
            return y if self.bias is None else y + self.bias[:, None, None]
        return functional.conv2d(
            x_BCHW, self.weight, self.bias, self.stride, self.padding, groups=len(self.weight)
        )


def use_fast_depthwise(network: nn.Module) -> None:
    """Replace all depthwise convolutions of a network in place; weights and their names stay.

    Worth it only for training in bf16 on a CPU; elsewhere torch's own kernels are as fast.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if is_depthwise(child):
                setattr(module, name, DepthwiseConv2d(child))


def is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether DepthwiseConv2d can replace this module."""
    return (
        type(module).__name__ in ("Conv2d", "Conv2dSame")
        and isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.kernel_size) > 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )

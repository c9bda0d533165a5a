"""Depthwise convolutions that a CPU trains in bf16 without falling into slow kernels.

Mobile backbones spend little arithmetic in depthwise convolutions, but in bf16 torch's backward
pass of two kinds of them falls into a reference kernel that takes most of a training step: the
gradient of the input where the stride is above 1, and the gradient of a kernel larger than 3 x 3.
The first is fast in float32; the second is put together from gradients of 3 x 3 kernels, which
are fast. benchmarks/README.md has the figures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NHWC = torch.channels_last


class Depthwise(torch.autograd.Function):
    """x (B C H W), weight (C 1 k k) -> B C h w. Strides and paddings are (vertical, horizontal)."""

    @staticmethod
    def forward(
        context,
        x_BCHW: Tensor,
        weight_C1kk: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
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
        of_x = of_weight = None
        if context.needs_input_grad[0]:
            of_x = input_gradient(grad, x, weight, stride, padding).to(context.dtypes[0])
        if context.needs_input_grad[1]:
            of_weight = kernel_gradient(grad, x, weight, stride, padding).to(context.dtypes[1])
        return of_x, of_weight, None, None


def gradients(grad, x, weight, stride, padding, wanted: tuple[bool, bool]) -> list[Tensor | None]:
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), (*wanted, False)
    )


def input_gradient(grad, x, weight, stride, padding) -> Tensor:
    if max(stride) > 1:
        grad, weight = grad.float(), weight.float()
        x = torch.empty_like(x, dtype=torch.float32)  # only its shape is read
    return gradients(grad, x, weight, stride, padding, (True, False))[0]


def kernel_gradient(grad, x, weight, stride, padding) -> Tensor:
    """Any 3 x 3 part of a kernel is a 3 x 3 kernel that sees the photo from its own offset."""
    height, width = weight.shape[2:]
    if max(height, width) <= 3 or grad.dtype == torch.float32:
        return gradients(grad, x, weight, stride, padding, (False, True))[1]
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows = (grad.shape[2] - 1) * stride[0] + min(height, 3)  # of x that a part sees
    columns = (grad.shape[3] - 1) * stride[1] + min(width, 3)
    of_weight = torch.empty_like(weight)
    for top in offsets(height):
        for left in offsets(width):
            seen = x[:, :, top : top + rows, left : left + columns].contiguous(memory_format=NHWC)
            part = of_weight[:, :, top : top + 3, left : left + 3]
            part.copy_(gradients(grad, seen, part, stride, (0, 0), (False, True))[1])
    return of_weight


def offsets(side: int) -> list[int]:
    """Where parts of 3 begin that together cover a side: 5 -> 0, 2; 7 -> 0, 3, 4."""
    last = max(side - 3, 0)
    return [*range(0, last, 3), last]


class DepthwiseConv2d(nn.Module):
    """Stands in for a depthwise `nn.Conv2d` (or timm's Conv2dSame), with its own parameters."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.kernel_size = convolution.stride, convolution.kernel_size
        self.padding = convolution.padding
        self.same = type(convolution).__name__ == "Conv2dSame"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.same:
            from timm.layers import pad_same

            x_BCHW = pad_same(x_BCHW, self.kernel_size, self.stride)
        if torch.is_grad_enabled() and x_BCHW.device.type == "cpu":
            y = Depthwise.apply(x_BCHW, self.weight, self.stride, self.padding)
            return y if self.bias is None else y + self.bias[:, None, None]
        return functional.conv2d(
            x_BCHW, self.weight, self.bias, self.stride, self.padding, groups=len(self.weight)
        )


def fast_depthwise(network: nn.Module) -> None:
    """Replace a network's depthwise convolutions, in place; weights and their names stay."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if is_depthwise(child):
                setattr(module, name, DepthwiseConv2d(child))


def is_depthwise(module: nn.Module) -> bool:
    return (
        type(module).__name__ in ("Conv2d", "Conv2dSame")
        and isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.kernel_size) > 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )

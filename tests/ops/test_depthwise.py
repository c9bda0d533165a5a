"""Depthwise convolutions with their own backward pass, against float64 and autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stacked_ram.ops.depthwise import DepthwiseConv2d, offsets, use_fast_depthwise

timm_layers = pytest.importorskip("timm.layers")


def gradients_of(module: nn.Module, x: torch.Tensor, bf16: bool) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    weights = torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype).view(y.shape[1:])
    grads = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
    return [y.detach(), *grads]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel, stride, same", [
    (3, 1, False), (3, 2, True), (5, 1, False), (5, 2, True), (5, 2, False), (7, 1, False),
    ((3, 5), (2, 1), False),
])  # fmt: skip
def test_output_and_gradients_match_float64(kernel, stride, same, bias, bf16):
    torch.manual_seed(0)
    kind = timm_layers.Conv2dSame if same else nn.Conv2d
    first = kernel if isinstance(kernel, int) else kernel[0]
    plain = kind(6, 6, kernel, stride=stride, padding=first // 2, groups=6, bias=bias)
    x = torch.rand(3, 6, 13, 10)
    found = gradients_of(DepthwiseConv2d(plain), x, bf16)
    with torch.no_grad():
        plain = plain.double()
    wanted = gradients_of(plain, x.double(), False)
    for ours, reference in zip(found, wanted, strict=True):
        tolerance = (2e-2 if bf16 else 1e-5) * float(reference.abs().max())
        torch.testing.assert_close(ours.double(), reference, atol=tolerance, rtol=0)


def test_every_part_of_a_kernel_is_covered():
    for side in range(3, 12):
        assert {top + i for top in offsets(side) for i in range(3)} == set(range(side))


def test_only_depthwise_convolutions_are_replaced_and_weights_keep_their_names():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 1))
    names = list(network.state_dict())
    use_fast_depthwise(network)
    assert [type(layer) for layer in network] == [nn.Conv2d, DepthwiseConv2d, nn.Conv2d]
    assert list(network.state_dict()) == names


def test_backbone_gives_the_same_features_as_timm():
    timm = pytest.importorskip("timm")

    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    ours = copy.deepcopy(plain)
    use_fast_depthwise(ours)
    assert any(isinstance(layer, DepthwiseConv2d) for layer in ours.modules())
    x = torch.rand(1, 3, 40, 56)
    torch.testing.assert_close(ours(x), plain(x))

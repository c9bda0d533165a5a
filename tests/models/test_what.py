"""The "what" networks."""

from __future__ import annotations

import pytest
import torch

from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.models.retina.what import BackboneWhat, ConvWhat, DenseWhat
from stacked_ram.ops.geometry import GlimpseGeometry


def test_dense_is_one_layer_over_all_patches():
    what = DenseWhat(channels=2, num_patches=3, patch_size=4, out_features=5)
    patches = torch.randn(6, 3, 2, 4, 4)
    weight, bias = what.layer.weight.double(), what.layer.bias.double()
    for row in range(6):
        values = [
            patches[row, k, c, y, x].double()
            for k in range(3) for c in range(2) for y in range(4) for x in range(4)
        ]  # fmt: skip
        wanted = (weight @ torch.stack(values) + bias).clamp(min=0)
        torch.testing.assert_close(what(patches)[row].double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("patch_size", [1, 2, 3, 5, 8, 12, 13, 20, 40])
@pytest.mark.parametrize(("patches", "channels"), [(1, 1), (3, 3)])
def test_conv_takes_any_patch_size(patch_size, patches, channels):
    what = ConvWhat(
        channels=channels, num_patches=patches, patch_size=patch_size, out_features=7
    ).eval()
    given = torch.randn(2, patches, channels, patch_size, patch_size, requires_grad=True)
    found = what(given)
    assert found.shape == (2, 7)
    found.sum().backward()
    assert (given.grad.abs().sum((3, 4)) > 0).all(), "every patch and channel matters"
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in what.modules()) >= 1


@pytest.mark.parametrize(("widths", "halvings"), [((4,), 0), ((4, 8), 1), ((4, 8, 8, 6), 3)])
def test_conv_has_a_layer_for_each_width(widths, halvings):
    what = ConvWhat(channels=1, num_patches=1, patch_size=40, out_features=7, widths=widths).eval()
    assert [layer.out_channels for layer in what.convolutions[::3]] == list(widths)
    side = 40 // 2**halvings
    assert what.convolutions(torch.randn(2, 1, 40, 40)).shape == (2, widths[-1], side, side)
    assert what(torch.randn(2, 1, 1, 40, 40)).shape == (2, 7)


@pytest.mark.parametrize("combine", ["concat", "mean"])
def test_backbone_sees_each_patch_with_the_same_weights(combine):
    backbone = Backbone("test_efficientnet").eval()
    what = BackboneWhat(backbone, num_patches=3, combine=combine)
    patches = torch.randn(2, 3, 3, 32, 32)
    found = what(patches)
    each = [[backbone(patches[row, k][None])[0] for k in range(3)] for row in range(2)]
    joined = [torch.cat(row) if combine == "concat" else torch.stack(row).mean(0) for row in each]
    torch.testing.assert_close(found, torch.stack(joined), atol=1e-5, rtol=1e-4)
    assert found.shape[1] == what.out_features


def test_with_frozen_statistics_a_conv_network_normalises_in_training_as_in_evaluation():
    torch.manual_seed(0)
    net = ConvWhat(channels=1, num_patches=2, patch_size=8, out_features=16)
    retina = PatchRetina(GlimpseGeometry(8, 2), [net], where_size=4, feature_size=8)
    patches = torch.randn(6, 2, 1, 8, 8)
    net(patches)  # running statistics other than the initial ones
    evaluated = net.eval()(patches)
    assert not torch.allclose(net.train()(patches), evaluated, atol=1e-3)
    evaluated = net.eval()(patches)
    retina.anneal(0.5)
    before = {name: value.clone() for name, value in net.named_buffers()}
    net.eval()  # evaluation in between changes nothing
    torch.testing.assert_close(net.train()(patches), evaluated)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    retina.anneal(0.4)
    assert not torch.allclose(net(patches), evaluated, atol=1e-3)


@pytest.mark.parametrize("statistics", ["of the batch", "running"])
def test_conv_layers_are_convolution_norm_and_relu_with_all_gradients(statistics):
    torch.manual_seed(0)
    net = ConvWhat(channels=2, num_patches=1, patch_size=10, out_features=4).double()
    layers = net.convolutions
    for layer in layers:
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                torch.nn.init.uniform_(values, 0.3, 2)
    net.train(statistics == "of the batch")
    patches = torch.randn(5, 1, 2, 10, 10, dtype=torch.float64, requires_grad=True)
    inputs = [patches, *layers.parameters()]
    found, maps = net(patches), layers(patches.flatten(0, 1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, 4).permute(0, 2, 3, 1).flatten(1)
    wanted = net.layer(torch.cat([pooled, maps.amax((2, 3))], 1))
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-9)
    slopes = torch.randn_like(found)
    for first, other in zip(
        torch.autograd.grad((found * slopes).sum(), inputs),
        torch.autograd.grad((wanted * slopes).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(first, other, atol=1e-9, rtol=1e-8)

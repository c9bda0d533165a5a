"""The float32 products that go to oneDNN are those of nn.Linear, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stacked_ram.ops import linear
from stacked_ram.ops.linear import Linear, faster, product


def pair(bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    own, plain = Linear(96, 256, bias), nn.Linear(96, 256, bias)
    plain.load_state_dict(own.state_dict())
    return own, plain


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_values_and_gradients_are_those_of_nn_linear(monkeypatch, bias, wanted):
    monkeypatch.setattr(linear, "mkl_holds_back", lambda: True)
    went = []
    monkeypatch.setattr(linear, "product", lambda *given: went.append(1) or product(*given))
    own, plain = pair(bias)
    results = []
    for layer in (own, plain):
        rows = torch.linspace(-1, 1, 128 * 96).view(128, 96).requires_grad_(wanted)
        out = layer(rows)
        (out.square().mean() + out.sum()).backward()
        results.append([out, rows.grad, *(one.grad for one in layer.parameters())])
    assert len(went) == (3 if wanted else 2)
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_small_products_other_precisions_and_processors_stay_with_torch(monkeypatch):
    monkeypatch.setattr(linear, "mkl_holds_back", lambda: True)
    weight = torch.zeros(256, 96)
    assert faster(torch.zeros(128, 96), weight)
    assert not faster(torch.zeros(8, 96), weight)  # few rows
    assert not faster(torch.zeros(64, 96), torch.zeros(16, 96))  # little work
    assert not faster(torch.zeros(4, 32, 96), weight)
    assert not faster(torch.zeros(128, 96).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not faster(torch.zeros(128, 96), weight)
    monkeypatch.setattr(linear, "mkl_holds_back", lambda: False)
    assert not faster(torch.zeros(128, 96), weight)


def test_an_intel_processor_or_one_without_avx512_keeps_mkl(monkeypatch, tmp_path):
    linear.mkl_holds_back.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not linear.mkl_holds_back()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\n")
    monkeypatch.setattr(linear, "Path", lambda _: tmp_path / "cpuinfo")
    linear.mkl_holds_back.cache_clear()
    assert not linear.mkl_holds_back()
    linear.mkl_holds_back.cache_clear()

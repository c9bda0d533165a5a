"""Models that look by programs (`fast`): the same answers, the same cost, and what is refused."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_config
from variants import forward, make, pixels

import stacked_ram as ram
from stacked_ram.evaluation.cost import photo_cost
from stacked_ram.evaluation.early_exit import look_until
from stacked_ram.models.programs import SignalStack, use_programs
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs requirements-fast.txt"
)


@needs_openvino
@pytest.mark.parametrize(
    "name", ["dense", "conv", "stack_rnn_categorical", "stack_conv", "backbone_glance", "soft"]
)
def test_a_model_looks_as_before(name):
    model = make(name).eval()
    before = forward(model, pixels())
    cost = photo_cost(model, 30, 40)
    use_programs(model, "float32")
    for _ in range(2):  # the program is made in the first
        after = forward(model, pixels())
        torch.testing.assert_close(after.logits_BTN, before.logits_BTN, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after.locations_BTS2, before.locations_BTS2, atol=1e-4, rtol=0)
    assert photo_cost(model, 30, 40) == cost


@needs_openvino
@pytest.mark.parametrize("name", ["conv", "backbone_glance"])
def test_threads_may_look_at_the_same_time(name):
    model = make(name).eval()
    images = [pixels(9).roll(shift, 0) for shift in range(8)]
    before = [forward(model, each) for each in images]
    use_programs(model, "float32")
    with ThreadPoolExecutor(4) as threads:
        after = list(threads.map(lambda each: forward(model, each), images))
    for found, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(found.logits_BTN, wanted.logits_BTN, atol=1e-4, rtol=1e-4)


@needs_openvino
def test_it_stops_as_early_as_before():
    model = make("conv", glance=(16, 24), num_glimpses=3).eval()
    photos = model.photos(pixels(9))
    sure = look_until(model, photos).beliefs_BN.amax(1).median().item()
    before = look_until(model, photos, sure)
    use_programs(model, "float32")
    after = look_until(model, photos, sure)
    assert before.glimpses_B.float().mean() < 3
    assert torch.equal(after.glimpses_B, before.glimpses_B)
    torch.testing.assert_close(after.beliefs_BN, before.beliefs_BN, atol=1e-4, rtol=1e-4)


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_signals_are_handled_where_they_were():
    """On a processor with AMX, OpenVINO leaves the thread a stack for signals that it frees."""
    before = signal_stack()
    model = make("conv").eval()
    use_programs(model, "bf16")
    forward(model, pixels())
    assert signal_stack() == before


def signal_stack() -> tuple[int, int]:
    """Address and flags of this thread's alternate stack for signals."""
    found = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.sp, found.flags


@needs_openvino
def test_a_run_is_loaded_fast(photos, tmp_path):
    train_run(tiny_config(photos, epochs=1, retina="conv", precision="float32"), tmp_path / "run")
    names = sorted(map(str, (photos / "test").rglob("*.png")))
    slow = ram.load(tmp_path / "run", "cpu").look(names)
    fast = ram.load(tmp_path / "run", "cpu", fast=True).look(names)
    assert [result.label for result in fast] == [result.label for result in slow]
    assert [result.probability for result in fast] == pytest.approx(
        [result.probability for result in slow], abs=1e-4
    )


def test_without_openvino_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"fast: needs the package openvino; pip install"):
        use_programs(make("dense"), "float32")


@needs_openvino
def test_it_is_for_a_cpu():
    with pytest.raises(UserError, match="fast: is for a CPU, and the model is on meta"):
        use_programs(make("dense").to("meta"), "float32")

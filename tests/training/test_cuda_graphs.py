"""CUDA graph capture: the same training, and no step that synchronises with the device.

No GPU is needed. The losses are computed on torch's `meta` device, which has shapes but no values:
whatever needs a value on the host fails there, and whatever comes from the host is recorded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy
import pandas
import pytest
import torch
from tiny import tiny_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from variants import HARD, SMALL, VARIANTS

from stacked_ram.config.schema import Config, ModelConfig, TrainingConfig
from stacked_ram.models.build import build_model
from stacked_ram.runs.checkpoint import read_weights
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import UserError
from stacked_ram.training import estimators
from stacked_ram.training.cuda_graphs import MOST_SHAPES, StepGraphs
from stacked_ram.training.optim import Schedule, make_capturable, make_optimizer
from stacked_ram.training.run import train_run
from stacked_ram.training.step import TrainStep

MODELS = sorted(VARIANTS.keys() - {"stack_backbone"})
ROLLOUTS = dict(estimator="leave_one_out", rollouts=2, reward="drop", normalise_advantages=True)
ESTIMATORS = ({"estimator": "reinforce"}, {"estimator": "self_critical"}, {"estimator": "pathwise"})


class Numbers(TorchFunctionMode):
    """Record every tensor made from Python numbers, which are copied from the host. On the meta
    device, the mode below does not see them."""

    MAKERS = ("tensor", "new_tensor", "as_tensor", "from_numpy", "asarray")

    def __init__(self, recorded: list[str]) -> None:
        super().__init__()
        self.recorded = recorded

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        listed = name in ("__getitem__", "__setitem__") and any(
            isinstance(part, list)
            for part in (args[1] if isinstance(args[1], tuple) else args[1:2])
        )
        if name in self.MAKERS or listed:
            self.recorded.append(name)
        return function(*args, **(kwargs or {}))


class Everything(TorchDispatchMode):
    """Record every operation on a tensor of the host."""

    def __init__(self, recorded: list[str]) -> None:
        super().__init__()
        self.recorded = recorded

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [
            tensor
            for tensor in tree_leaves((args, kwargs, result))
            if isinstance(tensor, torch.Tensor)
        ]
        if any(tensor.device.type != "meta" for tensor in tensors):
            self.recorded.append(str(function))
        return result


def from_the_host(model, targets, settings: TrainingConfig, location_source: str) -> list[str]:
    """Return what comes from the host in a forward and backward pass on the meta device."""
    model, targets = model.to("meta").train(), targets.to("meta")
    pixels = torch.zeros(4, 3, 40, 60, dtype=torch.uint8, device="meta")
    sizes = torch.full((4, 2), 40, device="meta")
    recorded: list[str] = []
    with Everything(recorded), Numbers(recorded):
        photos = model.photos(pixels, sizes)
        losses = next(
            estimators.losses(model, photos, targets, settings, location_source=location_source)
        )
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    return recorded


@pytest.fixture
def no_autocast(monkeypatch):
    """Disable torch.autocast, which does not support the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())


def model_of(name: str, **changes):
    config = ModelConfig(**{**SMALL, **VARIANTS[name], **changes})
    return build_model(config, num_classes=10, channels=3, mean=[0.1] * 3, std=[0.3] * 3)


@pytest.mark.parametrize("location_source", ["policy", "random"])
@pytest.mark.parametrize("name", MODELS)
def test_no_model_synchronises_in_a_step(name, location_source, no_autocast):
    settings = TrainingConfig(**ROLLOUTS if name in HARD else {})
    assert from_the_host(model_of(name), torch.zeros(4).long(), settings, location_source) == []


@pytest.mark.parametrize("values", ESTIMATORS, ids=lambda values: values["estimator"])
def test_no_estimator_synchronises(values, no_autocast):
    settings = TrainingConfig(**values, label_smoothing=0.1)
    assert from_the_host(model_of("categorical"), torch.zeros(4, 10), settings, "policy") == []


def test_glance_dropout_does_not_synchronise(no_autocast):
    model = model_of("glance_core", glance_dropout=0.5)
    settings = TrainingConfig(**ROLLOUTS)
    assert from_the_host(model, torch.zeros(4).long(), settings, "policy") == []


def test_pretraining_does_not_synchronise(no_autocast):
    settings = TrainingConfig(pretrain_epochs=1)
    waiting = from_the_host(
        model_of("backbone_glance"), torch.zeros(4).long(), settings, "combinations"
    )
    assert waiting == []


def test_the_check_detects_synchronisation(no_autocast):
    with pytest.raises(NotImplementedError, match="unique"):
        from_the_host(model_of("stack_backbone"), torch.zeros(4).long(), TrainingConfig(), "policy")
    recorded: list[str] = []
    with Everything(recorded), Numbers(recorded):
        values = torch.ones(2, device="meta")
        values.new_tensor([1.0])
        torch.tensor([1.0], device="meta")
        values[[0, 1]]
        torch.ones(2).to("meta")
    assert {"new_tensor", "tensor", "__getitem__", "aten._to_copy.default"} <= set(recorded)
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(2, device="meta").sum().item()


def test_the_training_is_the_same(digits: Path, tmp_path: Path):
    values = dict(
        epochs=4, random_glimpses=1.0, std_end=0.05, ema_decay=0.9, clip_norm=0.5, retina="conv",
        patch_size=6, dropout=0.2, schedule="plateau", metric="loss", batch_size=20,
    )  # fmt: skip
    weights = []
    for captured in (False, True):
        folder = tmp_path / str(captured)
        train_run(tiny_config(digits, **values, cuda_graph=captured), folder)
        weights.append(read_weights(folder / "last.safetensors")[0])
        weights.append((folder / "metrics.csv").read_text())
    assert weights[1] == weights[3]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[2][name], value, rtol=0, atol=0, msg=name)


def test_a_captured_step_may_be_compiled(digits: Path, tmp_path: Path, monkeypatch):
    """The step and its losses, traced by Dynamo: the same training up to rounding."""
    compiled = []

    def traced(function, **options):
        compiled.append(function.__name__)
        return compile_(function, backend="eager", **options)

    compile_ = torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", traced)
    losses = []
    for compiles in (False, True):
        folder = tmp_path / str(compiles)
        settings = dict(epochs=2, batch_size=24, random_glimpses=1.0, cuda_graph=True)
        train_run(tiny_config(digits, **settings, compile=compiles), folder)
        losses.append(pandas.read_csv(folder / "metrics.csv").train_total)
    torch._dynamo.reset()
    assert compiled == ["captured_losses"]
    numpy.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_capturable_optimiser_reads_its_learning_rate_from_the_device():
    layer = torch.nn.Linear(2, 2)
    layer.backbone_parameters = list
    settings = TrainingConfig(learning_rate=0.5, schedule="step", epochs=3)
    optimizer = make_optimizer(layer, settings)
    schedule = Schedule(optimizer, settings, batches_per_epoch=1)
    cpu = torch.device("cpu")
    make_capturable(optimizer, True, cpu)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule.put(0.25)
    assert schedule.lr == 0.125
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate and rate == 0.125 and group["capturable"]
    make_capturable(optimizer, False, cpu)  # a run that is resumed on another device
    assert all(group["lr"] == 0.125 and not group["capturable"] for group in optimizer.param_groups)
    lion = make_optimizer(layer, TrainingConfig(optimizer="lion"))
    with pytest.raises(UserError, match=r"cuda_graph: optimizer lion .* adamw"):
        make_capturable(lion, True, cpu)


def test_each_kind_and_shape_has_its_own_graph_up_to_a_limit():
    graphs = StepGraphs(lambda kind, values: values.sum() + len(kind))
    for kind in ("ab", "abc"):
        for count in range(1, MOST_SHAPES + 1):
            assert graphs(kind, torch.ones(count)) == count + len(kind)
        assert graphs(kind, torch.ones(3)) == 3 + len(kind)
    with pytest.raises(UserError, match=r"cuda_graph: batches of 16 shapes .*--photo-size"):
        graphs("abc", torch.ones(MOST_SHAPES + 1))


@pytest.mark.parametrize(
    "values",
    [
        {"estimator": "ppo"},
        {"accumulation_steps": 2},
        {"precision": "fp16"},
        {"not_finite": "skip"},
        {"activation_checkpointing": True},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_cannot_be_captured_is_refused(values):
    with pytest.raises(UserError, match=f"cuda_graph: does not work with .*{next(iter(values))}"):
        TrainingConfig(cuda_graph=True, **values)


def test_a_stack_of_backbone_maps_and_several_processes_are_refused_too():
    captured = TrainingConfig(cuda_graph=True)
    with pytest.raises(UserError, match="cuda_graph: stack backbone"):
        Config(model=ModelConfig(**{**SMALL, **VARIANTS["stack_backbone"]}), training=captured)
    world, left_out = World(rank=0, size=2), SimpleNamespace(dataset=SimpleNamespace(names=[]))
    with pytest.raises(UserError, match=r"cuda_graph: .* torchrun"):
        TrainStep(model_of("dense"), captured, world, batches_per_epoch=1, left_out=left_out)

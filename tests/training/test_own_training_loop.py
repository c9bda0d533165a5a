"""Custom training loops and estimators: the scripts in examples/ give the trainer's result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.models.build import build_model
from stacked_ram.runs.checkpoint import read_weights
from stacked_ram.runtime.devices import seed_everything
from stacked_ram.runtime.errors import UserError
from stacked_ram.training import estimators
from stacked_ram.training.optim import make_optimizer
from stacked_ram.training.run import train_run

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = dict(clip_norm=None, schedule="constant", warmup_epochs=0.0)


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("own_training_loop", "own_estimator"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("estimator", ["leave_one_out", "ppo"])
def test_a_custom_loop_gives_the_trainers_weights_bit_for_bit(
    examples, digits, tmp_path, estimator
):
    from own_training_loop import train

    config = tiny_config(digits, **PLAIN, estimator=estimator, rollouts=2, reward="drop")
    train_run(config, tmp_path / "run")
    expected, _ = read_weights(tmp_path / "run" / "last.safetensors")

    dataset = open_dataset(config.data, "train")
    loader = make_loader(dataset, config, train=True)
    seed_everything(config.training.seed)
    model = build_model(config.model, num_classes=3, channels=1, mean=dataset.mean, std=dataset.std)

    def batches():
        step = 0
        for epoch in range(config.training.epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                seed_everything(config.training.seed, 0, step)
                yield batch.pixels_BCHW, batch.labels_B
                step += 1

    optimizer = make_optimizer(model, config.training)
    train(model, batches(), optimizer, estimator=estimator, rollouts=2, reward="drop")
    for name, value in expected.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_custom_estimator_as_an_object_or_by_its_import_path(examples, digits, tmp_path):
    from own_estimator import batch_mean

    config = tiny_config(digits, epochs=1)
    train_run(config, tmp_path / "object", estimator=batch_mean)
    named = tiny_config(digits, epochs=1, estimator="own_estimator:batch_mean")
    train_run(named, tmp_path / "path")
    train_run(config, tmp_path / "reinforce")
    tables = {
        name: (tmp_path / name / "metrics.csv").read_text()
        for name in ("object", "path", "reinforce")
    }
    assert tables["object"] == tables["path"] != tables["reinforce"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module:estimator", "cannot import no_such_module"),
        ("own_estimator:nothing", "has no nothing"),
        ("reinforced", "estimator"),
    ],
)
def test_a_missing_estimator_is_reported_in_one_line(examples, digits, tmp_path, path, says):
    with pytest.raises(UserError, match=says) as raised:
        train_run(tiny_config(digits, estimator=path), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_settings_are_keywords_or_a_config(digits):
    config = tiny_config(digits)
    model = build_model(config.model, num_classes=3, channels=1, mean=[0.2], std=[0.25])
    images = torch.randint(0, 256, (4, 1, 12, 12), dtype=torch.uint8)
    classes = torch.tensor([0, 1, 2, 0])
    totals = []
    for how in ({"config": config.training, "rollouts": 2}, {"rollouts": 2}):
        torch.manual_seed(0)
        (losses,) = estimators.losses(model, images, classes, **how)
        totals.append(losses.total.item())
        assert losses.trace.logits_BTN.shape == (8, 2, 3)
    assert totals[0] == totals[1]

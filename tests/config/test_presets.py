"""Every preset in configs/ loads, builds without weights and makes one training pass."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from stacked_ram.config.yaml import from_dict, load_config, to_dict
from stacked_ram.models.build import build_model
from stacked_ram.training.estimators import training_losses

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def photo_shape(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("costs").photo_shape


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_preset_trains(path, photo_shape):
    config = load_config(path)
    assert from_dict(to_dict(config), "again") == config
    channels, height, width = photo_shape(config)
    torch.manual_seed(0)
    model = build_model(
        config.model, num_classes=5, channels=channels, mean=(0.5,) * channels,
        std=(0.5,) * channels, load_weights=False,
    )  # fmt: skip
    pixels = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    looks = ["policy"] + ["combinations"] * (config.training.pretrain_epochs > 0)
    for look in looks:
        step = next(
            iter(
                training_losses(
                    model,
                    model.photos(pixels),
                    torch.tensor([0, 3]),
                    config.training,
                    location_source=look,
                )
            )
        )
        assert step.total.isfinite()
        step.total.backward()
    wanted = [one for one in model.parameters() if one.requires_grad]
    assert sum(one.grad is not None for one in wanted) > 0.9 * len(wanted)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_header_says_how_to_run_it_and_what_to_expect(path):
    text = path.read_text()
    header = text.split("data:\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    if path.stem == "demo":  # prepares its own data
        assert "python main.py demo" in header
    else:
        assert f"configs/{path.name}" in header
        assert "python prepare_data.py" in header or "python -m stacked_ram.preparation." in header
    assert "Expected" in header
    assert max(map(len, text.splitlines())) <= 100

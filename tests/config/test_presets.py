"""Every preset in configs/ loads, builds without pretrained weights and trains one step."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from stacked_ram.cli import main as cli
from stacked_ram.config.presets import find_preset, list_presets
from stacked_ram.config.yaml import from_dict, load_config, to_dict
from stacked_ram.models.build import build_model
from stacked_ram.runtime.errors import UserError
from stacked_ram.training import estimators

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
    location_sources = ["policy"] + ["combinations"] * (config.training.pretrain_epochs > 0)
    for location_source in location_sources:
        step = next(
            iter(
                estimators.losses(
                    model,
                    model.photos(pixels),
                    torch.tensor([0, 3]),
                    config.training,
                    location_source=location_source,
                )
            )
        )
        assert step.total.isfinite()
        step.total.backward()
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.grad is not None for parameter in wanted) > 0.9 * len(wanted)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_header_has_the_command_and_the_expected_figures(path):
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


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "configs/demo.yaml"])
def test_a_preset_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_presets() == [path.stem for path in PRESETS]
    assert find_preset(name).samefile(ROOT / "configs" / "demo.yaml")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(
        "training:\n  epochs: 77\n"
    )  # a file in the current folder comes first
    assert load_config(name).training.epochs == 77


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("flowers17_lite", "did you mean `flowers17_lite0`"),
        ("elsewhere/demo.yaml", "no such file or preset"),
        ("qqqq", "the presets are bach, demo"),
        (".", "is a folder"),
    ],
)
def test_an_unknown_name_lists_the_presets(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        find_preset(name)


@pytest.mark.parametrize(
    "arguments",
    [["demo"], ["--epochs", "3", "demo"], ["--find-learning-rate", "demo"], ["configs/demo.yaml"]],
)
def test_flags_start_from_a_preset(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = cli.parse("train", arguments)
    assert options.config.stem == "demo"
    assert options.fields.model.glance == (9, 12)
    assert options.fields.training.epochs == (3 if "3" in arguments else 9)

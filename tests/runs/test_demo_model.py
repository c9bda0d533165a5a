"""The trained model that comes with the package."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import stacked_ram as ram
from stacked_ram.config.yaml import load_config, to_dict
from stacked_ram.preparation.demo import demo_photos

FOLDER = Path(ram.__file__).parent / "runs" / "demo"


def test_it_reads_digits_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ram.load("demo", device="cpu")
    photos = list(itertools.islice(demo_photos("test"), 80))
    results = model.look([photo.pixels_HWC for photo in photos])
    right = sum(
        result.label == str(photo.digit) for result, photo in zip(results, photos, strict=True)
    )
    assert right >= 0.85 * len(photos)


def test_the_committed_configuration_made_it():
    model, preset = ram.load("demo", device="cpu"), load_config("demo")
    assert model.config.model == preset.model
    made, asked = (to_dict(config)["training"] for config in (model.config, preset))
    automatic = {name for name, value in asked.items() if value == "auto"}
    assert all(made[name] == asked[name] for name in asked.keys() - automatic)


def test_its_card_says_what_was_measured():
    card = (FOLDER / "README.md").read_text()
    figures = json.loads((FOLDER / "test.json").read_text())
    assert f"| {figures['accuracy']:.1%} |" in card
    for control in figures["controls"].values():
        assert f"| {control['accuracy']:.1%} |" in card
    assert "python main.py demo" in card
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size < 3_000_000

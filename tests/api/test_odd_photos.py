"""Photos of a single colour, of one pixel, 1x500 and 3000x2 pixels, and batches of one photo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import tiny_config, tiny_digits

import stacked_ram as ram
from stacked_ram.cli.main import main
from stacked_ram.cli.prepare import main as prepare
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run
from stacked_ram.viz.draw import draw_run

SIZES = [(1, 1), (500, 1), (3000, 2), (2, 8), (8, 8), (30, 20)]  # width, height
COLOURS = {"black": 0, "white": 255, "grey": 90, "noise": None}
MODELS = {
    "dense": {},
    "conv": dict(retina="conv", patch_size=8, estimator="leave_one_out", rollouts=2),
    "stack": dict(retina="conv", patch_size=8, stack="conv", num_levels=2),
    "cells": dict(policy="categorical", regions=(2, 3), estimator="ppo", rollouts=2),
    "backbone": dict(retina="backbone", backbone="test_efficientnet", patch_size=32,
                     glance=(64, 64), policy="categorical", regions=(2, 2)),
    "soft": dict(retina="backbone", backbone="test_efficientnet", patch_size=32, glance=(64, 64),
                 regions=(2, 2), attention="soft"),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(request, tmp_path_factory):
    """A prepared data set: every size in every colour, in each split, lying and standing."""
    folder = tmp_path_factory.mktemp("odd")
    rng, rows = np.random.default_rng(0), ["path,class,split,width,height"]
    for split in ("train", "valid", "test"):
        for colour, value in COLOURS.items():
            for sides in SIZES:
                width, height = sides if request.param == "wide" else sides[::-1]
                pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
                if value is not None:
                    pixels[:] = value
                path = f"{split}/{colour}/{width}x{height}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / path)
                rows.append(f"{path},{colour},{split},{width},{height}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    info = {"format": 1, "kind": "photos", "name": "odd", "classes": list(COLOURS),
            "channels": 3, "mean": [0.4] * 3, "std": [0.4] * 3}  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder


CASES = [("wide", name) for name in MODELS] + [("tall", "dense"), ("tall", "stack")]


@pytest.mark.parametrize(("odd", "name"), CASES, indirect=["odd"])
def test_every_command_takes_them(odd, tmp_path, name, capsys):
    config = tiny_config(odd, epochs=1, batch_size=23, **MODELS[name])  # 24 photos: 23, then one
    train_run(config, tmp_path / "run")
    model = ram.load(tmp_path / "run")
    found = model.evaluate(controls=True)
    assert found.figures["photos"] == 24 and np.isfinite(found.figures["loss"])
    photos = [str(path) for path in sorted((odd / "test").rglob("*.png"))]
    table = tmp_path / "table.jsonl"
    assert main(["predict", str(tmp_path / "run"), *photos, "--out", str(table)]) == 0
    answers = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(answers) == 24 and not any(answer.get("error") for answer in answers)
    assert all(0 < answer["probability"] <= 1 for answer in answers)
    drawn = draw_run(
        load_run(tmp_path / "run", "cpu"),
        photos=[p for p in photos if "noise/1x1." in p or "3000" in p],
        out=tmp_path / "out",
    )
    assert len(drawn) == 5


def test_they_are_prepared_or_refused_by_name(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        for width, height in [*SIZES, (40, 40), (41, 40), (42, 40)]:
            pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            if value is not None:
                pixels[:] = value
            path = tmp_path / "raw" / colour / f"{width}x{height}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    words = ["--valid-ratio", "0.2", "--test-ratio", "0.2"]
    assert prepare([str(tmp_path / "raw"), str(tmp_path / "data"), *words]) == 0
    rows = (tmp_path / "data" / "report.csv").read_text().splitlines()[1:]
    assert len(rows) == 4 * 9 and sum("1x1" in row for row in rows) == 4


def test_photos_that_are_all_too_small_for_the_levels_are_refused_before_training(tmp_path):
    config = tiny_config(tiny_digits(tmp_path / "data"), stack="conv", num_levels=5, retina="conv")
    with pytest.raises(UserError, match="num_levels: photos of 12x12 pixels are too small for 5"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

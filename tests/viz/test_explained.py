"""Pictures and the Python way of explanations."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import noise_photo, recorded, tiny_run
from tiny import CLASSES

import stacked_ram as ram
from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.cli.viz import main
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.explained import (
    SQUARES,
    explain_record,
    explained_figure,
    in_squares,
)
from stacked_ram.viz.mistakes import whether_it_mattered
from stacked_ram.viz.style import figure_bytes

ROOT = Path(__file__).parents[2]
GLANCE = {"glance": (16, 24)}
KINDS = {
    "continuous": {},
    "cells": {"policy": "categorical", "regions": (3, 4)},
    "soft": {**GLANCE, "attention": "soft"},
    "stack_rnn": {"stack": "rnn", "num_levels": 2},
    "map_only": {"stack": "conv", "num_levels": 2, "levels": (1,), "retina": "conv"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_explained_and_drawn(kind):
    run = tiny_run(**KINDS[kind])
    record = recorded(run.model, noise_photo())
    found = explain_record(run, record, places=12)
    assert found.maps_TYX.shape[0] == 3 and found.maps_TYX.size <= 3 * 12
    np.testing.assert_allclose(found.beliefs_KN[1:], record.beliefs_TN, atol=1e-5)
    if kind == "cells":  # where it looked is one of the places: there the map has its own belief
        cell = run.model.levels[0].attention.cell_of
        for step in range(3):
            place = int(cell(torch.from_numpy(record.locations_TS2[step, -1:]))[0])
            assert found.forced_TGN[step, place, 1] == pytest.approx(found.own, abs=1e-5)
    assert (found.cause is None) == (record.correct is True)
    assert figure_bytes(explained_figure(record, found), dpi=20).startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(400, 8), (8, 8)])
def test_odd_shapes_are_drawn(size):
    run = tiny_run(num_glimpses=1)
    record = recorded(run.model, noise_photo(*size))
    found = explain_record(run, record)
    assert figure_bytes(explained_figure(record, found), dpi=20).startswith(b"\x89PNG")


def test_squares_of_evidence_keep_its_sum():
    values = np.random.default_rng(0).normal(size=(2, 1, 50, 50))
    squares = in_squares(values)
    assert squares.shape[-1] <= SQUARES
    np.testing.assert_allclose(squares.sum((2, 3)), values.sum((2, 3)))
    small = np.ones((1, 1, 4, 4))
    np.testing.assert_array_equal(in_squares(small), small)


def test_python_explains_a_result(run_folder):
    model = ram.load(run_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    result = model.look(pixels)
    explanation = result.explain(places=12)
    assert explanation.about == result.label
    assert explanation.belief == pytest.approx(result.probability, abs=1e-5)
    glimpse, place, best = explanation.best
    assert explanation.maps.max() == pytest.approx(best) and 1 <= glimpse <= 3
    assert all(-1 < each < 1 for each in place)
    assert len(explanation.without) == len(explanation.at_random) == 3
    assert explanation.cause is None, "the true class is not known"
    other = result.explain("ring", places=12)
    assert other.about == "ring" and "ring" in repr(other)
    with pytest.raises(UserError, match=r"no class 'rings'.*ring"):
        result.explain("rings")
    with pytest.raises(UserError, match="places: 0 is below 1"):
        result.explain(places=0)


@pytest.fixture(scope="module")
def explained_run(run_folder, tmp_path_factory):
    """A run that was tested with --explain, in `results/mine` of a folder."""
    folder = tmp_path_factory.mktemp("clone") / "results/mine"
    folder.mkdir(parents=True)
    for file in run_folder.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    run_test(Options(runs=(folder,), explain=True))
    return folder


def test_the_command_draws_the_split_and_its_mistakes_by_cause(explained_run, tmp_path, capsys):
    assert (explained_run / "test_explain.png").is_file()
    assert main([str(explained_run), "--explain", "--out", str(tmp_path), "--limit", "1"]) == 0
    names = {file.name for file in tmp_path.iterdir()}
    assert {"explained.png", "gallery_causes.png"} <= names
    with open(explained_run / "test_explain.csv", newline="") as file:
        wrong = [row["path"] for row in csv.DictReader(file) if row["cause"]]
    drawn = [name for name in names if name.endswith("_explained.png")]
    assert len(drawn) == 1 and len(wrong) > 0
    stems = {Path(path).with_suffix("").as_posix().replace("/", "_") for path in wrong}
    assert all(name.removesuffix("_explained.png") in stems for name in drawn)
    assert Image.open(tmp_path / "explained.png").width == 1440


def test_the_report_says_whether_it_mattered(explained_run, run_folder):
    figures = json.loads((explained_run / "test.json").read_text())["explain"]
    found = whether_it_mattered(explained_run / "test.json")
    assert found["meaning"] == figures["meaning"]
    orders = {name: areas for name, *areas in found["orders"]}
    assert list(orders) == list(figures["insertion"])
    for place, kind in enumerate(("insertion", "deletion")):
        mean = figures[kind]["own path"]["area"]["mean"]
        assert orders["own path"][place].startswith(f"{mean:.3f} (")
    lost = dict(found["figures"])["belief lost without each glimpse"]
    assert lost.startswith(f"{100 * figures['hidden']['drop'][0]:.1f}, ")
    assert whether_it_mattered(run_folder / "test.json") is None


def test_what_was_not_tested_is_asked_for(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--explain", "--out", str(tmp_path)]) == 2
    assert "--explain` writes it" in capsys.readouterr().err
    assert main([str(run_folder), "--explain", "--report"]) == 2
    assert "ask for one at a time" in capsys.readouterr().err


def test_beliefs_are_divided_by_the_temperature_of_the_test(explained_run, monkeypatch, tmp_path):
    """The Python of the page runs as written, and says that beliefs are calibrated."""
    photo = Image.fromarray(np.full((24, 32, 3), 90, np.uint8))
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(explained_run.parents[1])
    (Path("photo.jpg")).write_bytes((tmp_path / "photo.jpg").read_bytes())
    page = (ROOT / "docs/explaining.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    found = names["explanation"]._found
    report = json.loads((explained_run / "test.json").read_text())
    assert found.calibrated and found.temperature == report["explain"]["temperature"]
    assert found.classes == tuple(CLASSES)

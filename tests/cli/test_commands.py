"""The smaller commands: several seeds, the learning-rate finder, export, info, the demo."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from tiny import tiny_config, tiny_digits, tiny_photos

from stacked_ram.cli import demo as demo_room
from stacked_ram.cli.demo import demo
from stacked_ram.cli.export import Export, export
from stacked_ram.cli.info import Info, info
from stacked_ram.cli.main import Demo, Train
from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.cli.train import train
from stacked_ram.config.yaml import replace_fields
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runs.export import DeterministicPass, check_equal
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.lr_finder import STEPS, find_learning_rate
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(digits, epochs=1), folder)
    return folder


def test_several_seeds_give_a_mean_and_a_standard_deviation(digits, tmp_path, capsys):
    config = tiny_config(digits, epochs=2)
    save_config(config, tmp_path / "a.yaml")
    options = Train(
        config=tmp_path / "a.yaml", out=tmp_path / "runs" / "a", seeds=(0, 3), fields=config
    )
    train(options)
    table = pandas.read_csv(tmp_path / "runs" / "a-seeds.csv", index_col="run")
    assert table.index.tolist() == ["seed 0", "seed 3", "mean", "std"]
    values = table["valid_loss"]
    assert values["mean"] == pytest.approx(values[:2].mean())
    assert values["std"] == pytest.approx(values[:2].std())
    assert values["seed 0"] != values["seed 3"]
    state = (tmp_path / "runs" / "a-seed0" / "metrics.csv").stat().st_mtime_ns
    train(options)  # finished runs are not trained again
    assert "2 epochs trained" in capsys.readouterr().out
    assert (tmp_path / "runs" / "a-seed0" / "metrics.csv").stat().st_mtime_ns >= state
    assert pandas.read_csv(tmp_path / "runs" / "a-seeds.csv", index_col="run").equals(table)


def test_all_folds_in_one_command(photos, tmp_path, capsys):
    data = shutil.copytree(photos, tmp_path / "folds")
    config = tiny_config(data, epochs=1)
    options = Train(config=None, out=tmp_path / "runs" / "a", folds=True, fields=config)
    with pytest.raises(UserError, match="was prepared without --folds"):
        train(replace(options, config=Path("demo")))
    manifest = pandas.read_csv(data / "manifest.csv")
    inside = manifest["split"] != "test"
    manifest.loc[inside, "fold"] = manifest[inside].groupby("class").cumcount() % 3
    manifest.to_csv(data / "manifest.csv", index=False)
    train(replace(options, config=Path("demo")))
    table = pandas.read_csv(tmp_path / "runs" / "a-folds.csv", index_col="run")
    assert table.index.tolist() == ["fold 0", "fold 1", "fold 2", "mean", "std"]
    answers = pandas.read_csv(tmp_path / "runs" / "a-out-of-fold.csv")
    expected = manifest[inside].set_index("path")
    assert set(answers["path"]) == set(expected.index) and answers["path"].is_unique
    assert (answers["fold"] == expected.loc[answers["path"], "fold"].to_numpy()).all()
    probabilities = answers.filter(like="probability ")
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    likeliest = probabilities.idxmax(axis=1).str.removeprefix("probability ")
    assert (likeliest == answers["predicted"]).all()
    right = answers["class"] == answers["predicted"]
    by_fold = right.groupby(answers["fold"]).mean()
    assert by_fold.tolist() == pytest.approx(table["valid_accuracy"][:3].tolist(), abs=1e-6)
    assert "a-fold0" in capsys.readouterr().out


def test_the_finder_raises_the_rate_until_the_loss_diverges(digits, tmp_path):
    best = find_learning_rate(tiny_config(digits, first_location="centre"), tmp_path / "run")
    curve = pandas.read_csv(tmp_path / "run-learning-rate" / "curve.csv")
    assert curve["learning_rate"].is_monotonic_increasing
    assert 10 < len(curve) <= STEPS
    assert 1e-4 < best < 0.5
    assert curve["learning_rate"].min() < best < curve["learning_rate"].max()
    assert (tmp_path / "run-learning-rate" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "run").exists()


def test_the_finder_follows_the_loss_of_a_pretraining(tmp_path):
    photos = tiny_photos(tmp_path / "photos")
    model = dict(retina="backbone", backbone="test_resnet", glance=(64, 64))
    config = tiny_config(photos, **model, patch_size=32, pretrain_epochs=1, batch_size=6)
    find_learning_rate(config, tmp_path / "run")
    assert len(pandas.read_csv(tmp_path / "run-learning-rate" / "curve.csv")) > 10


@pytest.mark.parametrize(
    "model",
    [{}, {"stack": "conv", "num_levels": 2},
     {"stack": "backbone", "backbone": "test_efficientnet", "num_levels": 2}],
    ids=["dense", "stack conv", "stack backbone"],
)  # fmt: skip
def test_the_exported_program_is_the_model(digits, tmp_path, model):
    run = tmp_path / "run"
    train_run(tiny_config(digits, epochs=1, **model), run)
    export(Export(run=run, out=tmp_path / "out", onnx=False))
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["input"]["shape"] == ["batch", 1, "height", "width"]
    assert description["classes"] == ["bar", "dot", "ring"]
    program = torch.export.load(str(tmp_path / "out" / "model.pt2")).module()
    pixels = torch.randint(0, 256, (3, 1, 16, 21), dtype=torch.uint8)
    model = load_run(run, "cpu").model
    with torch.no_grad():
        trace = model(model.photos(pixels))
    beliefs_BTN, locations_BTS2 = program(pixels)
    torch.testing.assert_close(beliefs_BTN, trace.logits_BTN.softmax(2))
    torch.testing.assert_close(locations_BTS2, trace.locations_BTS2)


def test_an_export_removes_the_program_of_an_earlier_export(run, tmp_path):
    for name in ("model.onnx", "model.onnx.data", "notes.txt"):
        (tmp_path / name).write_text("older")
    export(Export(run=run, out=tmp_path, size=(12, 12), batch_size=1, onnx=False))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["model.json", "model.pt2", "notes.txt"]


def test_what_torch_cannot_export_is_reported_in_one_line(run, monkeypatch):
    def looks_at_its_pixels(self, pixels_BCHW):
        return (pixels_BCHW, pixels_BCHW) if pixels_BCHW.any() else None

    monkeypatch.setattr(DeterministicPass, "forward", looks_at_its_pixels)
    with pytest.raises(RunFailed, match="torch cannot export this model") as raised:
        export(Export(run=run))
    assert "\n" not in str(raised.value)
    assert not (run / "export").exists()


def test_a_program_that_differs_is_not_written(run):
    model = load_run(run, "cpu").model
    other = load_run(run, "cpu").model
    with torch.no_grad():
        other.classifier.bias[0] += 1
    pixels = torch.zeros(1, 1, 12, 12, dtype=torch.uint8)
    check_equal(DeterministicPass(model), DeterministicPass(model), [pixels])
    with pytest.raises(RunFailed, match="differs from the model"):
        check_equal(DeterministicPass(other), DeterministicPass(model), [pixels])


def test_an_export_says_when_it_cannot_know_the_size(tmp_path, capsys):
    data = tiny_digits(tmp_path / "data")
    train_run(tiny_config(data, epochs=1, stack="conv", num_levels=2), tmp_path / "run")
    data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="give --size"):
        export(Export(run=tmp_path / "run"))
    assert not (tmp_path / "run" / "export").exists()
    info(Info(what=tmp_path / "run"))
    assert "photos assumed to be (224, 224)" in capsys.readouterr().out
    export(Export(run=tmp_path / "run", size=(12, 12), batch_size=1, onnx=False))
    file = tmp_path / "run" / "config.yaml"
    for command in (
        lambda: run_test(Options(runs=(tmp_path / "run",), out=file / "x")),
        lambda: export(Export(run=tmp_path / "run", size=(12, 12), out=file / "x")),
    ):
        with pytest.raises(UserError, match=r"config\.yaml: is a file"):
            command()


def test_info_counts_what_is_there(run, tmp_path, capsys):
    model = load_run(run, "cpu").model
    info(Info(what=run))
    shown = capsys.readouterr().out
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"parameters  {count:,}" in shown
    assert "classes: bar, dot, ring" in shown
    save_config(tiny_config(tmp_path / "nowhere"), tmp_path / "a.yaml")
    info(Info(what=tmp_path / "a.yaml", size=(32, 48)))
    shown = capsys.readouterr().out
    assert "no data set at" in shown
    assert "a photo of 32x48" in shown


def test_the_demo_shows_the_model_beside_its_controls(photos, tmp_path, monkeypatch, capsys):
    config = replace_fields(tiny_config(photos), {"pictures_every": 0})
    monkeypatch.setattr(demo_room, "demo_config", lambda home: config)
    monkeypatch.setattr(demo_room, "QUICK", {"epochs": 1})
    drawn = []
    monkeypatch.setattr(demo_room, "draw", lambda folder: drawn.append(folder) or folder)
    for _ in range(2):  # a finished demo is trained again
        demo(Demo(out=tmp_path / "demo", quick=True))
    shown = capsys.readouterr().out
    assert "at random places" in shown
    assert "stays near chance" in shown.splitlines()[0]  # before it starts
    assert "look at the centre" in shown
    assert drawn == [tmp_path / "demo"] * 2
    assert (tmp_path / "demo" / "test_confusion.png").exists()

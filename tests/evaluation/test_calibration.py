"""Calibrated probabilities, the answer "unknown", and photos of other classes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import tiny_config, tiny_photos

import stacked_ram as ram
from stacked_ram.cli.predict import Predict, predict
from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.evaluation.calibration import fit_temperature, log_of, loss, tempered
from stacked_ram.evaluation.unknown import mahalanobis
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    photos = tiny_photos(folder / "photos", counts=(18, 30, 12))
    train_run(tiny_config(photos, epochs=2, num_glimpses=2), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_beliefs_is_found(temperature):
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (20_000, 5))
    true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = (true.cumsum(1) > rng.random((len(true), 1))).argmax(1)
    said = tempered(true, 1 / temperature)
    found = fit_temperature(log_of(said), labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert loss(tempered(said, found), labels) <= loss(said, labels)
    assert np.allclose(tempered(said, temperature), true, atol=1e-3)


def test_calibration_is_stored_and_changes_no_answer(run, capsys):
    photos = load_run(run).config.data.dataset
    raw = [result.probability for result in ram.load(run).predict(f"{photos}/test")]
    run_test(Options(runs=(run,)))
    plain = json.loads((run / "test.json").read_text())
    run_test(Options(runs=(run,), calibrate=True))
    report = json.loads((run / "test.json").read_text())
    fitted = report["calibration"]
    assert fitted["photos"] == 30 and fitted["loss"][1] <= fitted["loss"][0]
    assert report["accuracy"] == plain["accuracy"]
    assert report["loss"] != plain["loss"]
    assert (run / "test_reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "temperature" in capsys.readouterr().out
    assert load_run(run).metadata.temperature == pytest.approx(fitted["temperature"])
    now = [result.probability for result in ram.load(run).predict(f"{photos}/test")]
    assert np.mean(now) != pytest.approx(np.mean(raw), rel=1e-3)
    assert (np.mean(now) < np.mean(raw)) == (fitted["temperature"] > 1)
    # calibrating a calibrated model finds nothing more to do
    run_test(Options(runs=(run,), calibrate=True))
    assert load_run(run).metadata.temperature == pytest.approx(fitted["temperature"], rel=0.01)


def test_explanations_are_calibrated_once(run):
    """They keep a temperature of their own, which holds whether the model is calibrated or not."""
    photo = next(Path(load_run(run).config.data.dataset).glob("test/*/*.png"))
    run_test(Options(runs=(run,), explain=True))
    probability = ram.load(run).look(photo).probability
    before = ram.load(run).look(photo).explain()
    run_test(Options(runs=(run,), calibrate=True, out=run.parent / "elsewhere"))
    assert ram.load(run).look(photo).probability != pytest.approx(probability, rel=1e-3)
    after = ram.load(run).look(photo).explain()
    assert after.belief == pytest.approx(before.belief, rel=1e-3)
    assert after.maps == pytest.approx(before.maps, rel=1e-3)


def test_coverage_marks_the_least_sure_photos(run, capsys):
    photos = load_run(run).config.data.dataset
    with pytest.raises(UserError, match="--coverage needs a calibrated model"):
        predict(Predict(run=run, photos=(photos,), coverage=0.5))
    run_test(Options(runs=(run,), calibrate=True))
    capsys.readouterr()
    predict(Predict(run=run, photos=(f"{photos}/valid",), coverage=0.5))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    unknown = [row["unknown"] == "True" for row in rows]
    assert 12 <= sum(unknown) <= 18  # of the 30 photos on which the threshold was chosen
    sure = [float(row["probability"]) for row in rows]
    assert max(p for p, no in zip(sure, unknown, strict=True) if no) <= min(
        p for p, no in zip(sure, unknown, strict=True) if not no
    )
    answered = ram.load(run).predict(f"{photos}/valid", coverage=1)
    assert {result.unknown for result in answered} == {False}
    assert next(iter(ram.load(run).predict(f"{photos}/valid"))).unknown is None
    with pytest.raises(UserError, match="coverage: 2 is not in 0 to 1"):
        ram.load(run).predict(photos, coverage=2)


def of_other_classes(photos, folder, change=lambda pixels: pixels):
    """A copy of a data set whose classes have other names and whose photos are changed."""
    shutil.copytree(photos, folder)
    classes = yaml.safe_load((folder / "dataset.yaml").read_text())["classes"]
    for name in ("dataset.yaml", "manifest.csv"):
        text = (folder / name).read_text()
        for known in classes:
            text = text.replace(known, f"{known}-other")
        (folder / name).write_text(text)
    for inner in [path for path in folder.glob("*/*") if path.is_dir()]:
        inner.rename(inner.with_name(f"{inner.name}-other"))
    for path in folder.rglob("*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    return folder


SCORES = ("confidence", "energy", "mahalanobis")


def test_photos_of_other_classes_are_told_apart(run, tmp_path, capsys):
    photos = load_run(run).config.data.dataset
    with pytest.raises(UserError, match=r"--unknown: .*which it knows"):
        run_test(Options(runs=(run,), unknown=tiny_photos(tmp_path / "same", seed=1)))
    run_test(Options(runs=(run,), unknown=of_other_classes(photos, tmp_path / "equal")))
    equal = json.loads((run / "test.json").read_text())["unknown"]
    assert equal["photos"] == [12, 12]
    assert [equal[score]["auroc"] for score in SCORES] == pytest.approx([0.5] * 3, abs=0.02)
    negative = of_other_classes(photos, tmp_path / "negative", lambda pixels: 255 - pixels)
    capsys.readouterr()
    run_test(Options(runs=(run,), unknown=negative))
    assert "by Mahalanobis distance" in capsys.readouterr().out
    found = json.loads((run / "test.json").read_text())["unknown"]
    assert found["mahalanobis"] == {"auroc": 1.0, "false_95": 0.0}
    assert "plain_backbone" not in found  # this model has none


def test_the_plain_backbone_stands_beside(tmp_path, monkeypatch):
    """Its scores are those of the linear probe, of the largest size that costs no more."""
    from stacked_ram.evaluation import linear_probe

    monkeypatch.setattr(linear_probe, "SIZES", (24, 48, 512))
    photos = tiny_photos(tmp_path / "photos", counts=(18, 6, 12))
    config = tiny_config(
        photos, epochs=1, retina="backbone", backbone="test_efficientnet", patch_size=48,
        num_patches=1, num_glimpses=2,
    )  # fmt: skip
    train_run(config, tmp_path / "run")
    negative = of_other_classes(photos, tmp_path / "negative", lambda pixels: 255 - pixels)
    run_test(Options(runs=(tmp_path / "run",), controls=True, unknown=negative))
    report = json.loads((tmp_path / "run/test.json").read_text())
    plain = report["unknown"]["plain_backbone"]
    rows = {row["size"]: row for row in report["linear_probe"]["sizes"]}
    assert plain["size"] == 48 and plain["gmacs"] == rows[48]["gmacs"] < report["gmacs"]["total"]
    assert plain["accuracy"] == rows[48]["accuracy"]
    assert plain["mahalanobis"]["auroc"] > 0.9
    assert all(0 <= plain[score]["auroc"] <= 1 for score in SCORES)


def test_mahalanobis_distances_of_correlated_features():
    """They are those before the features were mixed, whatever the mixture."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20_000)
    means = np.array([[0, 0, 0, 0], [6, 0, 0, 0], [0, 6, 0, 0]])
    training = means[labels] + rng.normal(size=(20_000, 4))
    asked = rng.normal(0, 5, (50, 4))
    expected = ((asked[:, None] - means) ** 2).sum(2).min(1)
    mixture = rng.normal(size=(4, 4)) * [1, 10, 0.1, 3]
    found = mahalanobis(training @ mixture, labels, asked @ mixture)
    assert found == pytest.approx(expected, rel=0.1, abs=0.2)
    several = np.zeros((20_000, 2), np.uint8)
    centre = mahalanobis(training, several, training.mean(0, keepdims=True))
    assert centre == pytest.approx([0], abs=1e-9)


def test_a_run_that_learned_the_validation_split_is_not_calibrated(tmp_path, photos):
    folder = tmp_path / "run"
    train_run(tiny_config(photos, epochs=1, train_on="train+valid"), folder)
    with pytest.raises(UserError, match=r"--calibrate: .*which this run has learned"):
        run_test(Options(runs=(folder,), calibrate=True))

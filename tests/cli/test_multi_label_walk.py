"""Photos with several labels, from a CSV to a report (docs/howto/multi_label.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from shapes import COLOURS, draw_shapes, shapes_config
from sklearn.metrics import average_precision_score
from tiny import tiny_config

import stacked_ram as ram
from stacked_ram.cli.prepare import main as prepare
from stacked_ram.cli.viz import main as viz
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.evaluation import linear_probe
from stacked_ram.evaluation.evaluate import evaluate, opened_split
from stacked_ram.evaluation.model_card import model_card
from stacked_ram.evaluation.multi_label import average_precisions, choose_thresholds, resampled_map
from stacked_ram.evaluation.predict import predict_stream
from stacked_ram.evaluation.prediction_table import write_table
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runs.export import DeterministicPass, Shape, describe, export
from stacked_ram.runtime.errors import UserError
from stacked_ram.trained import Run
from stacked_ram.training.run import train_folds, train_run
from stacked_ram.viz import app_view

CLASSES = tuple(COLOURS)


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """A folder with raw photos, the data set that is prepared from them, and a trained run."""
    root = tmp_path_factory.mktemp("walk")
    draw_shapes(root / "raw")
    words = ["--multi-label", "--workers", "1", "--folds", "2"]
    assert prepare([str(root / "raw"), str(root / "data"), *words]) == 0
    train_run(shapes_config(root / "data"), root / "run")
    return root


def test_training_chooses_by_map_and_keeps_thresholds(walk):
    run = Run(walk / "run")
    assert list(run.metrics["valid_mAP"]) == list(run.metrics["valid_mAP_after_2"])
    assert "valid_accuracy" not in run.metrics and "train_F1" in run.metrics
    assert run.best.name == run.metrics["valid_mAP"].idxmax()
    loaded = load_run(walk / "run")
    assert loaded.metadata.multi_label and len(loaded.metadata.thresholds) == 3
    best = pandas.read_csv(walk / "run/metrics.csv").sort_values("valid_mAP").iloc[-1]
    assert loaded.metadata.epoch == best["epoch"]


def test_figures_are_those_of_scikit_learn_and_the_controls_stand_beside(walk):
    model = ram.load(walk / "run")
    report = model.evaluate(controls=True, mc_samples=2, crops=5, exit_glimpses=1)
    found = report.predictions
    each = [
        average_precision_score(found.labels_N[:, label], found.beliefs_NTC[:, -1, label])
        for label in range(3)
    ]
    assert report.mAP == pytest.approx(np.mean(each))
    low, high = report.interval_95
    assert low <= report.mAP <= high
    assert set(report.controls) >= {"centre", "random", "first glimpse only"}
    assert all(0 <= control["mAP"] <= 1 for control in report.controls.values())
    assert all(" of mAP" in line for line in report.meaning[:2])
    assert 0 <= report.early_exit["photo_f1"] <= 1 and report.mc_samples["mAP"] > 0
    folder = report.save(walk / "run").parent
    by_class = pandas.read_csv(folder / "test_per_class.csv", index_col="class")
    assert by_class["average_precision"][:3].tolist() == pytest.approx(each, abs=1e-4)
    assert by_class["threshold"][:3].tolist() == pytest.approx(model.net.thresholds, abs=1e-4)
    photos = pandas.read_csv(folder / "test_photos.csv", keep_default_na=False)
    assert photos["f1"].is_monotonic_increasing
    assert (photos["right"] == (photos["labels"] == photos["predicted"])).all()
    assert not (folder / "test_confusion.csv").exists()
    assert json.loads((folder / "test.json").read_text())["exact_match"] == report.exact_match


def test_answers_are_the_classes_above_their_thresholds(walk, tmp_path):
    loaded = load_run(walk / "run")
    names = sorted(str(path) for path in (walk / "raw").glob("00*.png"))
    rows = list(predict_stream(loaded, names))
    write_table(rows, tmp_path / "a.csv", 3, multi_label=True)
    write_table(rows, tmp_path / "a.jsonl", 3, multi_label=True)
    table = pandas.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype=str)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    thresholds = dict(zip(CLASSES, loaded.metadata.thresholds, strict=True))
    model = ram.load(walk / "run")
    for (_, row), line in zip(table.iterrows(), lines, strict=True):
        said = [name for name, probability in line["top"] if probability >= thresholds[name]]
        assert [name for name, _ in line["labels"]] == said
        assert row["labels"] == "|".join(said)
        assert len(row["probabilities"].split()) == len(said)
        assert model.look(line["path"]).labels == said
    early = list(predict_stream(loaded, names, stop_at=0.0))
    assert {row.glimpses for row in early} == {0}
    loaded.model.thresholds = (0.999,) * 3
    assert next(predict_stream(loaded, names[:1])).labels == ()


def test_the_report_names_all_labels(walk):
    assert viz([str(walk / "run"), "--report", "--limit", "12"]) == 0
    page = (walk / "run/report.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["metric"] == "mAP" and data["classes"] == list(CLASSES)
    manifest = pandas.read_csv(walk / "data/manifest.csv", keep_default_na=False)
    labels = dict(zip(manifest["path"], manifest["labels"], strict=True))
    for photo in data["photos"]:
        named = labels[photo["name"]].replace("|", ", ") or "no class"
        assert data["answers"][photo["label"]] == named
        assert photo["correct"] == (photo["label"] == photo["predicted"])
    assert viz([str(walk / "run"), "--limit", "1", "--out", str(walk / "pictures")]) == 0
    assert (walk / "pictures/overview.png").is_file()


def test_the_plain_backbone_is_a_control_here_too(walk, photos, tmp_path, monkeypatch):
    """A logistic regression for each class; also for photos of none of the classes."""
    monkeypatch.setattr(linear_probe, "SIZES", (24,))
    config = shapes_config(
        walk / "data", epochs=1, retina="backbone", backbone="test_efficientnet", patch_size=24,
        num_patches=1, glance=None, policy_reads="state",
    )  # fmt: skip
    train_run(config, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    report = evaluate(loaded, controls=True, unknown=photos)
    (row,) = report.linear_probe["sizes"]
    dataset = open_dataset(config.data, "test")
    with opened_split(loaded, config, dataset) as loader:
        _, (scores_NC,) = linear_probe.linear_probe(loaded, loader, LeftOut(dataset))
    each = average_precision_score(dataset.labels, scores_NC, average=None)
    assert row["mAP"] == pytest.approx(np.mean(each)) and len(each) == 3
    assert any("the linear probe at 24 pixels" in line for line in report.meaning)
    plain = report.unknown["plain_backbone"]
    assert plain["mAP"] == row["mAP"]
    for found in (report.unknown, plain):
        for score in ("confidence", "energy", "mahalanobis"):
            assert 0 <= found[score]["auroc"] <= 1


def test_the_app_shows_all_labels_of_a_photo(walk, monkeypatch):
    monkeypatch.setattr(app_view, "PAUSE", 0)
    loaded = load_run(walk / "run")
    for path in (walk / "raw/000.png", walk / "raw/003.png"):
        moments = list(app_view.watch(loaded, str(path), 2, 1.0, None))
        assert [strip is None for *_, strip in moments] == [True, True, False]  # glance, glimpses
        says, _, belief, _ = moments[-1]
        thresholds = zip(CLASSES, loaded.metadata.thresholds, strict=True)
        has = {name for name, threshold in thresholds if belief[name] >= threshold}
        assert {name for name in CLASSES if name in says} == has
        assert ("no class" in says) == (not has)
    early = list(app_view.watch(loaded, str(path), 2, 0.0, None))
    assert len(early) == 1 and "the glance was enough" in early[0][0]


def test_calibration_changes_no_answer_and_unknown_photos_are_told(walk, digits, tmp_path):
    loaded = load_run(walk / "run")
    loaded.path = tmp_path / "best.safetensors"
    loaded.path.write_bytes((walk / "run/best.safetensors").read_bytes())
    model = ram.load(loaded.path)
    before = model.evaluate()
    after = model.evaluate(calibrate=True)
    same = before.predictions.predicted_N == after.predictions.predicted_N
    assert same.all() and after.calibration["loss"][1] <= after.calibration["loss"][0]
    rows = [row.unknown for row in model.predict(str(walk / "raw"), coverage=0.5)]
    assert any(rows) and not all(rows)


def test_every_fold_and_its_predictions(walk, tmp_path):
    config = shapes_config(walk / "data", epochs=1)
    train_folds(config, tmp_path / "run")
    table = pandas.read_csv(next(tmp_path.glob("run-out-of-fold.csv")), keep_default_na=False)
    assert {"labels", "predicted", "probability red"} <= set(table.columns)
    assert "valid_mAP" in pandas.read_csv(tmp_path / "run-folds.csv")


def test_what_is_exported_and_the_card_say_multi_label(walk):
    loaded = load_run(walk / "run")
    about = describe(loaded, Shape(3, (22, 28), False, None), 0.5)
    assert about["multi_label"] and about["thresholds"] == pytest.approx(loaded.metadata.thresholds)
    beliefs, _, glimpses = DeterministicPass(loaded.model, 0.0)(
        torch.zeros(2, 3, 22, 28, dtype=torch.uint8)
    )
    assert (beliefs.sum(2) - 1).abs().min() > 1e-3 and glimpses.tolist() == [0, 0]
    card = model_card(loaded, None, name="shapes", load="hf://me/shapes")
    assert "A multi-label image classifier" in card and "multi-label" in card.partition("# ")[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"balanced_sampler": True}, "balanced_sampler: cannot draw classes that share photos"),
        ({"loss": "asymmetric", "class_weights": True}, "class_weights: loss asymmetric"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(walk, tmp_path, fields, message):
    config = replace_fields(shapes_config(walk / "data"), fields)
    with pytest.raises(UserError, match=message) as refusal:
        train_run(config, tmp_path / "run")
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


def test_what_is_for_one_label_says_so(walk, photos, digits, tmp_path, capsys):
    model = ram.load(walk / "run")
    with pytest.raises(UserError, match="loss asymmetric: is for photos with several labels"):
        train_run(shapes_config(photos, loss="asymmetric"), tmp_path / "run")
    with pytest.raises(UserError, match="--explain: is for models that give a photo one class"):
        model.evaluate(explain=True)
    with pytest.raises(UserError, match="gives a photo several classes"):
        model.look(walk / "raw/000.png").explain()
    assert viz([str(walk / "run"), "--explain"]) == 2
    with pytest.raises(UserError, match="--int8"):
        export(load_run(walk / "run"), tmp_path / "out", (30, 40), int8=("dynamic",), onnx=True)
    with pytest.raises(UserError, match="each, and"):
        loaded = load_run(walk / "run")
        loaded.metadata = replace(loaded.metadata, classes=("bar", "dot", "ring"))
        loaded.check_fits(open_dataset(tiny_config(photos).data, "test"))
    with pytest.raises(ValueError, match="several labels"):
        ram.GlimpseClassifier("mnist").fit(np.zeros((4, 8, 8)), np.zeros((4, 3)))


def test_the_bootstrap_is_scikit_learns_average_precision_of_drawn_photos():
    rng = np.random.default_rng(0)
    labels, beliefs = rng.random((60, 3)) < 0.3, rng.random((60, 3)).round(1)
    labels[:, 2] = False  # a class that no photo has is left out
    weights = np.random.default_rng(5).multinomial(60, [1 / 60] * 60, 200)
    found = resampled_map(labels, beliefs, seed=5)
    for row in (0, 7):
        drawn = np.repeat(np.arange(60), weights[row])
        expected = [average_precision_score(labels[drawn, c], beliefs[drawn, c]) for c in (0, 1)]
        assert found[row] == pytest.approx(np.mean(expected))
    assert np.isnan(average_precisions(labels, beliefs)[2])


def test_thresholds_give_the_highest_f1():
    labels = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]], bool)
    beliefs = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.3], [0.3, 0.4], [0.1, 0.5]])
    # saying 0.3 and more: 3 of 4 right, all 3 found, F1 6/7; halfway to the next lower one
    assert choose_thresholds(labels, beliefs) == pytest.approx((0.2, 0.5))

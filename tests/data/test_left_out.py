"""Damaged large photos are reported once and left out; the run continues."""

from __future__ import annotations

import csv
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from pyramids import claim_size, lose_tiles, smooth_pixels, vips, write_pyramid
from test_large_photos import large_data_set
from tiny import tiny_config

from stacked_ram.config.yaml import replace_fields
from stacked_ram.data import left_out as room
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import make_loader
from stacked_ram.evaluation.evaluate import evaluate
from stacked_ram.evaluation.predictions import predict_split
from stacked_ram.evaluation.summary import summary
from stacked_ram.models.build import build_model
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.run import resume_run, train_run
from stacked_ram.training.step import TrainStep

HOW = dict(epochs=2, batch_size=3, glance=(8, 8), first_location="learned", pictures_every=1)


@pytest.fixture(autouse=True)
def needs_pyvips():
    vips()


@pytest.fixture
def folder(tmp_path):
    return large_data_set(tmp_path / "data")


def photo(folder, split, number):
    return folder / split / "abc"[number % 3] / f"{number}.tif"


def break_one_of_each_kind(folder):
    """Damage training photos: cut off, with a huge size in the header, changed, deleted."""
    lose_tiles(photo(folder, "train", 0))
    claim_size(photo(folder, "train", 1), 200_000)
    write_pyramid(photo(folder, "train", 2), smooth_pixels(60, 80))


def test_training_continues_without_unreadable_photos(folder, tmp_path, caplog):
    break_one_of_each_kind(folder)
    photo(folder, "valid", 0).unlink()
    with caplog.at_level(logging.WARNING):
        train_run(tiny_config(folder, **HOW), tmp_path / "run")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4 and all(
        "\n" not in message and "left out: " in message for message in messages
    )
    said = "\n".join(sorted(messages))
    for words in (
        "train/a/0.tif: cannot read",
        "train/b/1.tif: cannot read",
        "train/c/2.tif: 80x60 pixels, where 200x150 were expected",
        "valid/a/0.tif: no such photo",
    ):
        assert words in said
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["left_out"] for row in rows] == ["3", "3"]
    assert all(np.isfinite(float(row["train_total"])) for row in rows)
    assert "3 photos left out" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("estimator", ["ppo", "leave_one_out", "self_critical"])
def test_the_readable_photos_of_a_batch_give_the_gradients_they_give_alone(folder, estimator):
    settings = tiny_config(folder, **HOW, estimator=estimator, rollouts=2)
    dataset = open_dataset(settings.data, "train")
    loader = make_loader(dataset, settings, train=True)
    batch = next(iter(loader))
    gone = folder / dataset.names[int(batch.index_B[1])]
    content = gone.read_bytes()
    learned = []
    for given in (batch, batch.without(1)):
        if given is batch:
            gone.unlink()
        torch.manual_seed(0)
        model = build_model(
            settings.model, num_classes=3, channels=3, mean=dataset.mean, std=dataset.std
        )
        left_out = LeftOut(dataset)
        learner = TrainStep(
            model, settings.training, World(), batches_per_epoch=len(loader), left_out=left_out
        )
        learner(given)
        assert len(left_out) == (given is batch)
        learned.append(model.state_dict())
        gone.write_bytes(content)
    torch.testing.assert_close(learned[0], learned[1], atol=0, rtol=0)


def test_a_resumed_run_counts_what_was_left_out_before(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "whole")
    break_one_of_each_kind(folder)
    config = tiny_config(folder, **HOW | {"epochs": 1})
    train_run(config, tmp_path / "run")
    shutil.copytree(tmp_path / "whole", folder, dirs_exist_ok=True)
    resume_run(tmp_path / "run", replace_fields(config, {"epochs": 2}))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["left_out"] for row in rows] == ["3", "3"]


def test_photos_outside_the_folder_are_named_as_in_the_manifest(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "train").rename(elsewhere)
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("\ntrain/", f"\n{elsewhere}/"))
    lose_tiles(elsewhere / "a" / "0.tif")
    settings = tiny_config(folder, **HOW)
    dataset = open_dataset(settings.data, "train")
    left_out = LeftOut(dataset)
    loader = make_loader(dataset, settings, train=False)
    model = build_model(
        settings.model, num_classes=3, channels=3, mean=dataset.mean, std=dataset.std
    )
    predict_split(model.eval(), loader, left_out=left_out)
    assert list(left_out.errors) == [f"{elsewhere}/a/0.tif"] == dataset.names[:1]


def test_too_many_unreadable_photos_are_an_error(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(room, "FEW", 1)
    monkeypatch.setattr(room, "NAMED", 1)
    break_one_of_each_kind(folder)
    with pytest.raises(RunFailed, match=r"2 of 6 photos of train could not be read.*too many"):
        train_run(tiny_config(folder, **HOW), tmp_path / "run")
    assert [record.getMessage() for record in caplog.records][1:] == [
        "left out: more photos, which are no longer listed"
    ]


def test_the_test_reports_what_it_left_out(folder, tmp_path):
    train_run(tiny_config(folder, **HOW), tmp_path / "run")
    lose_tiles(photo(folder, "test", 1))
    loaded = load_run(tmp_path / "run", "cpu")
    evaluation = evaluate(loaded, controls=True)
    evaluation.save(tmp_path / "run")
    report = evaluation.to_dict()
    assert report["photos"] == 2 and report["controls"]["random"]["photos"] == 2
    assert [photo["path"] for photo in report["left_out"]] == ["test/b/1.tif"]
    assert "leave it out" in report["left_out"][0]["error"]
    assert json.loads((tmp_path / "run" / "test.json").read_text())["left_out"]
    assert "left out                 1   (photos that could not be read)" in summary(evaluation)
    rows = list(csv.DictReader((tmp_path / "run" / "test_photos.csv").open()))
    assert sorted(row["path"] for row in rows) == ["test/a/0.tif", "test/c/2.tif"]
    assert all(row["class"] == row["path"].split("/")[1] for row in rows)
    lose_tiles(photo(folder, "test", 0))
    photo(folder, "test", 2).unlink()
    with pytest.raises(RunFailed, match="3 of 3 photos of test could not be read"):
        evaluate(loaded)


def test_the_predictions_of_the_others_do_not_change(folder, tmp_path):
    train_run(tiny_config(folder, **HOW), tmp_path / "run")
    loaded = load_run(tmp_path / "run", "cpu")
    dataset = open_dataset(loaded.config.data, "train")
    loader = make_loader(dataset, loaded.config, train=False)
    before = predict_split(loaded.model, loader)
    lose_tiles(photo(folder, "train", 3))
    left_out = LeftOut(dataset)
    after = predict_split(loaded.model, loader, left_out=left_out)
    assert list(left_out.errors) == ["train/a/3.tif"]
    kept = [row for row, name in enumerate(dataset.names) if name != "train/a/3.tif"]
    assert after.index_N.tolist() == kept
    torch.testing.assert_close(after.confidence_N, before.confidence_N[kept])


def test_pictures_are_drawn_of_the_photos_that_can_be_read(folder, tmp_path, caplog):
    from stacked_ram.viz.photos import Split, photo_files, read_files
    from stacked_ram.viz.records import record_photos
    from stacked_ram.viz.whole_set import record_split

    train_run(tiny_config(folder, **HOW), tmp_path / "run")
    lose_tiles(photo(folder, "test", 1))
    photo(folder, "test", 2).write_text("no photo")
    loaded = load_run(tmp_path / "run", "cpu")
    split = Split(loaded)
    whole = record_split(loaded, split)
    assert whole.names == split.dataset.names == ["test/a/0.tif"]
    assert split.photo(0).label == whole.labels_N[0] == 0
    caplog.clear()
    named = read_files(loaded, photo_files([folder / "test"]))
    records = list(record_photos(loaded, named, skip_unreadable=True))
    assert [record.photo.name for record in records] == ["0.tif"]
    said = sorted(record.getMessage() for record in caplog.records)
    assert len(said) == 2 and "1.tif: cannot read" in said[0] and "2.tif" in said[1]
    with pytest.raises(UserError, match=r"2\.tif"):
        read_files(loaded, [photo(folder, "test", 2)])

"""Ordinary photos that cannot be read are left out and counted, as large ones are."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_photos

from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.evaluation.evaluate import evaluate
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.run import train_run
from stacked_ram.training.trainer import Trainer
from stacked_ram.viz.draw import draw_run
from stacked_ram.viz.photos import Split


def break_photos(folder, split, *numbers):
    names = ("bar", "dot", "ring")
    for number in numbers:
        path = folder / split / names[number % 3] / f"{number}.png"
        path.write_bytes(path.read_bytes()[:100]) if number % 2 else path.unlink()


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_testing_go_on_without_them(tmp_path, workers, caplog):
    folder = tiny_photos(tmp_path / "data")
    break_photos(folder, "train", 1, 4)
    break_photos(folder, "valid", 3)
    config = tiny_config(folder, epochs=2, workers=workers, cache="memory", pictures_every=1)
    train_run(config, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["left_out"] for row in rows] == ["2", "2"]
    assert all(np.isfinite(float(row["train_total"])) for row in rows)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all(line.startswith("left out: ") for line in said)
    break_photos(folder, "test", 2, 5)
    loaded = load_run(tmp_path / "run", "cpu")
    evaluation = evaluate(loaded, controls=True)
    assert evaluation.photos == 4 and evaluation.controls["random"]["photos"] == 4
    evaluation.save(tmp_path / "run")
    report = json.loads((tmp_path / "run" / "test.json").read_text())
    assert [row["path"] for row in report["left_out"]] == ["test/ring/2.png", "test/ring/5.png"]
    files = draw_run(loaded, out=tmp_path / "pictures", limit=3)
    assert files and all(path.is_file() for path in files)
    with pytest.raises(UserError, match=r"ring/5\.png"), Split(loaded) as split:
        split.photos([5])


def test_the_others_of_the_batch_do_not_change(tmp_path):
    folder = tiny_photos(tmp_path / "data")
    config = tiny_config(folder)
    dataset = open_dataset(config.data, "train")
    (before, *_) = make_loader(dataset, config, train=True)
    gone = len(before) - 1
    (folder / dataset.names[before.index_B[gone]]).write_bytes(b"no photo")
    (after, *_) = make_loader(dataset, config, train=True)
    expected = before.without(gone)
    assert torch.equal(after.index_B, expected.index_B)
    assert list(after.unreadable) == [dataset.names[before.index_B[gone]]]
    for photo, size, other in zip(
        after.pixels_BCHW, after.sizes_B2, expected.pixels_BCHW, strict=True
    ):
        height, width = size
        assert torch.equal(photo[:, :height, :width], other[:, :height, :width])


def test_a_batch_in_parts_has_the_same_photos_with_their_labels(tmp_path):
    dataset = open_dataset(tiny_config(tiny_photos(tmp_path / "data")).data, "train")
    batch = max(make_loader(dataset, tiny_config(tmp_path / "data"), train=True), key=len)
    parts = list(batch.split(3))
    assert [len(part) for part in parts] == [3, 3, 2]
    for name in ("pixels_BCHW", "sizes_B2", "labels_B", "boxes_B4", "index_B"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(batch, name))
    assert [len(part) for part in batch.split(8)] == [8]


def test_too_many_or_a_data_set_that_is_gone_end_the_run_in_one_line(tmp_path):
    folder = tiny_photos(tmp_path / "data")
    train_run(tiny_config(folder, epochs=1), tmp_path / "run")
    break_photos(folder, "train", *range(18))
    with pytest.raises(RunFailed, match=r"of 18 photos of train could not be read, which is too"):
        train_run(tiny_config(folder, epochs=1), tmp_path / "again")
    break_photos(folder, "test", *range(6))
    with pytest.raises(RunFailed, match=r"6 of 6 photos of test could not be read"):
        evaluate(load_run(tmp_path / "run", "cpu"))


def test_a_data_set_that_is_moved_away_ends_the_run_at_its_first_photo(tmp_path):
    folder = tiny_photos(tmp_path / "data")
    config = tiny_config(folder, epochs=1)
    train_run(config, tmp_path / "run")
    trainer = Trainer(config, tmp_path / "again")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(RunFailed, match=r"data: the data set was there and is no longer"):
        trainer.fit()
    loaded = load_run(tmp_path / "run", "cpu")
    with pytest.raises(UserError, match=r"data"):
        evaluate(loaded)

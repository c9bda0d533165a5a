"""Starting from another run's weights, with other classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from tiny import tiny_config, tiny_digits, tiny_photos

import stacked_ram as ram
from stacked_ram.runs.checkpoint import load_run, read_weights, weights_file
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import resume_run, train_run
from stacked_ram.training.trainer import Trainer


@pytest.fixture(scope="module")
def source(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "source"
    train_run(tiny_config(digits, epochs=1), folder)
    return folder


def with_classes(folder, classes):
    """A data set of the same digits in other classes."""
    tiny_digits(folder)
    for labels in folder.glob("*/labels.npy"):
        np.save(labels, np.arange(len(np.load(labels))) % len(classes))
    info = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump({**info, "classes": classes}))
    return folder


def test_all_but_the_classifier_is_taken_and_said(source, tmp_path, capsys):
    data = with_classes(tmp_path / "data", ["a", "b", "c", "d"])
    config = tiny_config(data, epochs=1, init_from=str(source))
    model = Trainer(config, tmp_path / "run").train_step.model
    given, _ = read_weights(weights_file(source))
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name]) != name.startswith("classifier.")
    train_run(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert f"init_from {source}/best.safetensors: took" in said
    assert "new: classifier.weight (3x16 there, 4x16 here), classifier.bias" in said
    assert load_run(tmp_path / "run").classes == ("a", "b", "c", "d")


def test_the_classifier_is_taken_only_for_the_same_classes(source, digits, tmp_path):
    weights = load_run(source, "cpu").model.classifier.weight
    for data, same in ((digits, True), (with_classes(tmp_path / "d", ["x", "y", "z"]), False)):
        trainer = Trainer(tiny_config(data, init_from=str(source)), tmp_path / "run")
        assert torch.equal(trainer.train_step.model.classifier.weight, weights) == same


def test_a_resumed_run_no_longer_needs_the_other(source, digits, tmp_path):
    moved = tmp_path / "moved"
    source_copy = tmp_path / "copy"
    source_copy.mkdir()
    (source_copy / "best.safetensors").write_bytes((source / "best.safetensors").read_bytes())
    config = tiny_config(digits, epochs=1, init_from=str(source_copy))
    train_run(config, tmp_path / "run")
    source_copy.rename(moved)
    more = tiny_config(digits, epochs=2, init_from=str(source_copy))
    assert resume_run(tmp_path / "run", more)["epoch"] in (1, 2)


def test_what_does_not_fit_is_refused(source, digits, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run"):
        Trainer(tiny_config(digits, init_from="nowhere"), tmp_path / "run")
    photos = tiny_photos(tmp_path / "photos")
    other = tiny_config(
        photos, init_from=str(source), core="gru", core_size=8, feature_size=8, what_size=8,
        where_size=4,
    )  # fmt: skip
    with pytest.raises(UserError, match="no weights of its retina fit this model"):
        Trainer(other, tmp_path / "run")


def test_python_takes_it_as_any_field(source, digits, tmp_path):
    run = ram.train(tiny_config(digits, epochs=1), out=tmp_path / "run", init_from=str(source))
    assert run.config.training.init_from == str(source)

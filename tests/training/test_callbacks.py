"""Callbacks: when they are called, and what trackers receive."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy
import pytest
from tiny import tiny_config

from stacked_ram.runtime.errors import UserError
from stacked_ram.training.callbacks import Callback
from stacked_ram.training.run import train_run
from stacked_ram.training.trainer import Trainer
from stacked_ram.viz.training_pictures import tracking_callbacks


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_start(self, trainer) -> None:
        self.calls.append("start")

    def on_step_end(self, trainer, photos) -> None:
        self.calls.append(f"step {trainer.step} of {photos}")

    def on_epoch_end(self, trainer, row) -> None:
        self.calls.append(f"epoch {row['epoch']}")

    def on_train_end(self, trainer) -> None:
        self.calls.append("end")


def test_callbacks_are_called_at_four_moments(digits, tmp_path):
    noting = Recorder()
    config = tiny_config(digits, epochs=2, batch_size=24)
    row = Trainer(config, tmp_path / "run", callbacks=[noting]).fit()
    assert noting.calls == [
        "start", "step 1 of 24", "step 2 of 24", "epoch 1", "step 3 of 24", "step 4 of 24",
        "epoch 2", "end",
    ]  # fmt: skip
    assert "valid_accuracy" in row and (tmp_path / "run" / "config.yaml").is_file()


def test_the_end_is_called_after_an_error_too(digits, tmp_path):
    class Failing(Callback):
        def on_step_end(self, trainer, photos) -> None:
            raise ValueError("enough")

    noting = Recorder()
    with pytest.raises(ValueError, match="enough"):
        train_run(tiny_config(digits), tmp_path / "run", callbacks=[noting, Failing()])
    assert noting.calls[-1] == "end"


def test_the_header_says_what_is_trained_and_where_results_go(digits, tmp_path, capsys):
    train_run(tiny_config(digits, epochs=1), tmp_path / "run")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("training on cpu, float32: 48 photos of 3 classes (18 for validation)")
    assert first.endswith(f"results go to {tmp_path / 'run'}")
    assert first in (tmp_path / "run" / "log.txt").read_text()


class WandbRun:
    def __init__(self) -> None:
        self.logged: list[tuple[dict, int]] = []
        self.finished = False

    def log(self, values: dict, step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


def test_weights_and_biases_gets_config_metrics_and_pictures(photos, tmp_path, monkeypatch):
    run, given = WandbRun(), {}
    stand_in = SimpleNamespace(
        init=lambda **how: given.update(how) or run, Image=lambda image: image
    )
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    config = tiny_config(photos, epochs=2, pictures_every=1)
    train_run(config, tmp_path / "run", callbacks=tracking_callbacks("wandb"))
    assert given["name"] == "run" and given["config"]["training"]["epochs"] == 2
    assert [step for _, step in run.logged] == [1, 1, 2, 2]
    assert 0 <= run.logged[0][0]["valid/accuracy"] <= 1
    assert run.logged[1][0]["scan paths"].dtype == numpy.uint8
    assert run.finished and not (tmp_path / "run" / "tensorboard").exists()


def test_mlflow_gets_config_metrics_and_pictures(photos, tmp_path, monkeypatch):
    calls: list[tuple] = []

    def noted(name):
        return lambda *given, **how: calls.append((name, given, how))

    names = ("set_experiment", "start_run", "log_params", "log_metrics", "log_image", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**{n: noted(n) for n in names}))
    config = tiny_config(photos, epochs=2, pictures_every=2)
    train_run(config, tmp_path / "run", callbacks=tracking_callbacks("mlflow"))
    assert [name for name, *_ in calls] == [
        "set_experiment", "start_run", "log_params", "log_params", "log_params",
        "log_metrics", "log_metrics", "log_image", "end_run",
    ]  # fmt: skip
    assert calls[6][2]["step"] == 2 and "valid/accuracy" in calls[6][1][0]
    assert calls[7][2]["artifact_file"] == "scan paths/epoch-0002.png"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_tracker_is_reported_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"--log {name}: is not installed; pip install {name}"):
        tracking_callbacks(name)

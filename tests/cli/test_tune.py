from __future__ import annotations

from pathlib import Path

import optuna
import pandas
import pytest
from matplotlib import pyplot
from tiny import tiny_config

import stacked_ram as ram
from stacked_ram.cli.main import Tune
from stacked_ram.cli.tune import tune
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import NotWritten, RunFailed, UserError
from stacked_ram.training import tune as search
from stacked_ram.training.tune import parse_range


@pytest.fixture
def options(digits, tmp_path):
    config = tiny_config(digits, epochs=1)
    save_config(config, tmp_path / "a.yaml")

    def make(**changes) -> Tune:
        chosen = {
            "search": ("std=0.05:0.5", "lr=1e-3:1e-1:log", "num_glimpses=1:3", "core=lstm,gru"),
            "out": tmp_path / "study", "fields": config, "trials": 2,
        } | changes  # fmt: skip
        return Tune(config=tmp_path / "a.yaml", **chosen)

    return make


def test_a_study_continues_where_it_stopped(options, tmp_path, capsys):
    tune(options())
    tune(options(trials=3, sampler="gp"))
    table = pandas.read_csv(tmp_path / "study" / "trials.csv")
    assert table["number"].tolist() == [0, 1, 2]
    assert table["learning_rate"].nunique() == 3
    assert table["std"].between(0.05, 0.5).all()
    best = load_config(tmp_path / "study" / "best.yaml")
    row = table.loc[table["value"].idxmax()]
    assert best.model.num_glimpses == row["num_glimpses"]
    assert best.training.learning_rate == pytest.approx(row["learning_rate"])
    assert (tmp_path / "study" / "history.png").exists()
    assert not list((tmp_path / "study").glob("trial-*/state-*"))
    assert "best of 3 trials" in capsys.readouterr().out
    tune(options(trials=3))
    assert len(pandas.read_csv(tmp_path / "study" / "trials.csv")) == 3
    with pytest.raises(UserError, match="this study searches"):
        tune(options(trials=4, search=("std=0.1:0.5",)))


def scores(*found):
    """Replace the training: return these values in turn, or raise those that are errors."""
    values = iter(found)

    def scripted(tried, folder, **_):
        folder.mkdir(parents=True)
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return {"valid_accuracy": value, "valid_loss": value}

    return scripted


def test_python_searches_as_the_command_does(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "train_run", scores(0.5, 0.9, 0.7))
    monkeypatch.chdir(tmp_path)
    config, backend = tiny_config(digits, epochs=1), pyplot.get_backend()
    looks = pyplot.rcParams.copy()
    best = ram.tune(config, ["std=0.05:0.5"], trials=3, batch_size=5)
    table = pandas.read_csv(f"results/{Path(config.data.dataset).name}-study/trials.csv")
    assert best.model.std == pytest.approx(table["std"][table["value"].idxmax()])
    assert best.training.batch_size == 5
    assert pyplot.get_backend() == backend  # a notebook goes on showing its figures
    assert pyplot.rcParams == looks  # and they look as before


@pytest.mark.parametrize(
    ("before", "after"),
    [("core=lstm,gru", "core=lstm,rnn"), ("core=lstm,gru", "core=lstm,gru,rnn"),
     ("num_glimpses=1,3", "num_glimpses=1:3"), ("lr=1e-3:1e-1:log", "lr=1e-3:1e-1"),
     ("num_glimpses=1:3", "num_glimpses=1:3:log")],
)  # fmt: skip
def test_a_study_continues_with_its_choices_and_scales(options, monkeypatch, before, after):
    monkeypatch.setattr(search, "train_run", scores(0.5, 0.6))
    tune(options(trials=1, search=(before,)))
    began = before.replace("lr=1e-3:1e-1", "learning_rate=LOW:HIGH").replace("=1:3", "=LOW:HIGH")
    with pytest.raises(UserError, match=f"this study searches {began}; give that"):
        tune(options(trials=2, search=(after,)))
    tune(options(trials=2, search=(before.replace("1e-1", "1").replace("1:3", "1:4"),)))


def test_a_search_in_which_every_trial_fails_ends(options, tmp_path, monkeypatch, capsys):
    bad = RunFailed("the loss is not finite")
    monkeypatch.setattr(search, "train_run", scores(bad, bad, 0.5, bad, float("nan"), bad, bad))
    with pytest.raises(RunFailed, match="3 trials in a row failed, the last: the loss is not fin"):
        tune(options(trials=9))
    assert len(list((tmp_path / "study").glob("trial-*"))) == 6
    assert "best of 6 trials" in capsys.readouterr().out  # results so far are kept
    monkeypatch.setattr(search, "train_run", scores(0.7))
    tune(options(trials=2))
    assert pandas.read_csv(tmp_path / "study" / "trials.csv")["value"].max() == 0.7


def test_a_full_disk_ends_a_search_at_once(options, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise NotWritten(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("stacked_ram.training.trainer.write_rows", full)
    with pytest.raises(NotWritten, match=r"No space left on device\); make room, then the same"):
        tune(options())
    assert len(list((tmp_path / "study").glob("trial-*"))) == 1
    assert "--resume" not in capsys.readouterr().out


def test_the_same_seed_suggests_the_same_values(options, tmp_path):
    tables = []
    for name in ("one", "two"):
        search._HELD.clear()  # as a process of its own
        tune(options(out=tmp_path / name))
        tables.append(pandas.read_csv(tmp_path / name / "trials.csv").drop(columns="duration"))
    pandas.testing.assert_frame_equal(*tables)


def test_processes_on_one_study_draw_different_values(tmp_path):
    search._HELD.clear()
    assert [search.process_number(tmp_path) for _ in range(3)] == [0, 1, 2]


def test_bad_trials_are_pruned(options, tmp_path, monkeypatch):
    """Trials whose metric stays below the median of the earlier ones are pruned."""
    monkeypatch.setattr(search, "FIRST_TRIALS", 2)
    values = iter([0.8, 0.9, 0.1, 0.95])

    def scripted(tried, folder, *, callbacks, **_):
        value = next(values)
        for epoch in range(1, 5):
            callbacks[-1].on_epoch_end(None, {"epoch": epoch, "valid_accuracy": value})
        return {"valid_accuracy": value}

    monkeypatch.setattr(search, "train_run", scripted)
    tune(options(trials=4, search=("std=0.05:0.5",)))
    table = pandas.read_csv(tmp_path / "study" / "trials.csv")
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]


@pytest.mark.parametrize(("metric", "good"), [("loss", 0.1), ("accuracy", 0.9)])
def test_a_value_that_is_not_finite_is_the_worst(options, tmp_path, monkeypatch, metric, good):
    monkeypatch.setattr(search, "FIRST_TRIALS", 2)
    values = iter([0.5, 0.6, float("nan"), good])

    def scripted(tried, folder, *, callbacks, **_):
        row = {f"valid_{metric}": next(values)}
        for epoch in range(1, 5):
            callbacks[-1].on_epoch_end(None, row | {"epoch": epoch})
        return row

    monkeypatch.setattr(search, "train_run", scripted)
    config = replace_fields(options().fields, {"metric": metric})
    tune(options(fields=config, trials=4, search=("std=0.05:0.5",)))
    table = pandas.read_csv(tmp_path / "study" / "trials.csv")
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]


def test_it_finds_the_best_value(options, tmp_path, monkeypatch):
    def scripted(tried, folder, *, callbacks, **_):
        return {"valid_accuracy": 1 - abs(tried.model.std - 0.2)}

    monkeypatch.setattr(search, "train_run", scripted)
    tune(options(trials=25, search=("std=0.01:1",)))
    assert load_config(tmp_path / "study" / "best.yaml").model.std == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sdt=0:1", "did you mean `std`"),
        ("std=0.5:0.1", "LOW must be below HIGH"),
        ("std=0:0.1:log", "LOW must be below HIGH, and above 0"),
        ("std=a:b", "a range is LOW:HIGH"),
        ("std=0.5", "neither LOW:HIGH"),
        ("num_glimpses=0:4", "num_glimpses: 0 is below 1"),
        ("core=lstm,elman", "core"),
    ],
)
def test_invalid_ranges_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        parse_range(text, Config())


def test_values_are_drawn_from_their_ranges():
    drawn = optuna.trial.FixedTrial({"learning_rate": 1e-3, "num_glimpses": 4, "core": "gru"})
    assert parse_range("lr=1e-5:1e-2:log", Config()).draw(drawn) == 1e-3
    assert parse_range("num-glimpses=2:8", Config()).draw(drawn) == 4
    assert parse_range("core=lstm,gru", Config()).draw(drawn) == "gru"


def test_a_field_of_whole_numbers_without_a_default_is_drawn_whole():
    assert parse_range("patience=2:5", Config()).whole
    assert not parse_range("ema_decay=0.9:0.99", Config()).whole


def test_processes_that_start_a_study_together_share_it_and_killed_trials_are_closed(
    options, tmp_path, monkeypatch
):
    """Each waits while another makes the study."""
    from stacked_ram.runs.folder import lock_file

    made, opened = [], search.open_study

    def watched(config, folder, *some):
        with pytest.raises(BlockingIOError):  # nobody else makes it now
            lock_file(folder / ".study.lock")
        made.append(opened(config, folder, *some))
        return made[-1]

    monkeypatch.setattr(search, "open_study", watched)
    monkeypatch.setattr(search, "train_run", scores(0.5, 0.6, 0.7))
    tune(options(trials=1))
    for lock in search._HELD:
        lock.close()
    made[0].ask()  # by a process that was killed then
    tune(options(trials=2))
    states = [trial.state.name for trial in made[-1].get_trials()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    made[-1].ask()  # by another process that is at work
    with lock_file(tmp_path / "study" / ".process-9.lock"):
        tune(options(trials=3))
    assert [trial.state.name for trial in made[-1].get_trials()][-2:] == ["RUNNING", "COMPLETE"]

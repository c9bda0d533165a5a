"""A run folder describes its run, and never holds two."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_digits

import stacked_ram as ram
from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.runs.folder import RunFolder, default_folder, write_rows
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import resume_run, train_run

ROOT = Path(__file__).parents[2]


def test_the_folder_describes_its_run(digits, tmp_path):
    config = tiny_config(digits, epochs=1)
    ram.train(config, out=tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml") == config
    notes = json.loads((tmp_path / "run" / "run.json").read_text())
    (start,) = notes["starts"]
    assert notes["seed"] == 0
    assert {"started", "command", "git", "versions", "machine"} <= start.keys()
    assert start["versions"]["torch"].startswith("2.")
    assert "epoch 1/1" in (tmp_path / "run" / "log.txt").read_text()
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    header, row = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {"epoch", "learning_rate", "train_total", "valid_accuracy"} <= set(header.split(","))
    assert row.startswith("1,")


def test_a_folder_with_a_run_is_refused_without_overwrite(digits, tmp_path):
    config = tiny_config(digits, epochs=1)
    train_run(config, tmp_path / "run")
    mine = ("mine.txt", "answers.csv", "test_photos/one.jpg", "testing/notes")
    for name in mine:
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("notes")
    for split in ("valid", "test"):
        run_test(Options(runs=(tmp_path / "run",), split=split, exit_glimpses=2))
    written = {
        file.name
        for split in ("valid", "test")
        for file in (tmp_path / "run").glob(f"{split}[._]*")
    }
    written -= {"test_photos"}
    assert len(written) == 12
    with pytest.raises(UserError, match=r"holds a run already.*--resume.*--overwrite"):
        train_run(config, tmp_path / "run")
    other = replace_fields(config, {"core_size": 8})
    train_run(other, tmp_path / "run", overwrite=True)
    assert RunFolder(tmp_path / "run").config() == other
    assert all((tmp_path / "run" / name).exists() for name in mine)
    assert not any((tmp_path / "run" / name).exists() for name in written)  # from the earlier run
    first, last = sorted((tmp_path / "run").glob("state-*.pt"))
    assert first.stat().st_mtime_ns <= last.stat().st_mtime_ns  # none of the earlier run


def test_a_run_cannot_be_written_into_a_data_set(digits):
    before = sorted(digits.rglob("*"))
    with pytest.raises(UserError, match="is a data set"):
        train_run(tiny_config(digits, epochs=1), digits, overwrite=True)
    assert sorted(digits.rglob("*")) == before


def test_a_resumed_run_keeps_its_fields_and_may_train_longer(digits, tmp_path):
    config = tiny_config(digits, epochs=1)
    train_run(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"--core-size: a resumed run keeps its core_size"):
        resume_run(tmp_path / "run", replace_fields(config, {"core_size": 8}))
    resume_run(tmp_path / "run", replace_fields(config, {"epochs": 2}))
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert RunFolder(tmp_path / "run").config().training.epochs == 2


def test_a_run_resumes_with_its_data_set_moved_but_not_with_another(digits, tmp_path):
    old, new, other = (tmp_path / name for name in ("old", "new", "other"))
    shutil.copytree(digits, old)
    tiny_digits(other, counts=(48, 12, 18))
    config = tiny_config(old, epochs=1)
    train_run(config, tmp_path / "run")
    old.rename(new)
    longer = replace_fields(config, {"epochs": 2})
    with pytest.raises(UserError, match=r"no prepared data set at .*old.*give --dataset"):
        resume_run(tmp_path / "run", longer)
    with pytest.raises(UserError, match=r"was trained on other photos.*those of .*other"):
        resume_run(tmp_path / "run", replace_fields(longer, {"dataset": str(other)}))
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2
    resume_run(tmp_path / "run", replace_fields(longer, {"dataset": str(new)}))
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert RunFolder(tmp_path / "run").config().data.dataset == str(new)


def test_two_processes_cannot_train_one_run(digits, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(tiny_config(digits))
    code = f"from stacked_ram.runs.folder import RunFolder; RunFolder({str(run.path)!r}).go_on()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "another process is training this run" in done.stderr
    run.close()
    run.go_on()
    run.close()


def test_columns_added_later_are_kept(tmp_path):
    write_rows(tmp_path / "a.csv", [{"epoch": 1, "a": 2}, {"epoch": 2, "a": 3, "b": 4}])
    assert (tmp_path / "a.csv").read_text() == "epoch,a,b\n1,2,\n2,3,4\n"


def test_the_run_folder_is_named_after_the_preset_or_the_data_set():
    mnist = load_config("mnist")
    mine = replace_fields(mnist, {"dataset": "datasets/mine"})
    assert default_folder("mnist", mnist) == Path("results/mnist")
    assert default_folder("mnist", mine) == Path("results/mine")
    assert default_folder(None, mine) == Path("results/mine")

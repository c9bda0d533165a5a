"""Runs and a data set of an earlier version (November 2026, old_runs/) still work the same.

Both have fields under names that changed since: `checkpoint_steps`, `accumulate`, and the patch
unit `share`.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stacked_ram.cli.main import main
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.runs.checkpoint import load_run

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture
def old_run(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch) -> Path:
    """Copy an old run beside its data set, and change to the folder in which it was trained."""
    shutil.copytree(OLD / "dataset", tmp_path / "dataset")
    shutil.copytree(OLD / request.param, tmp_path / request.param)
    monkeypatch.chdir(tmp_path)
    return tmp_path / request.param


@pytest.mark.parametrize("old_run", ["paper", "glance"], indirect=True)
def test_an_old_run_gives_the_same_predictions(old_run: Path):
    expected = json.loads((old_run / "expected.json").read_text())
    run = load_run(old_run, "cpu")
    assert main(["predict", str(old_run), "dataset/test", "--out", "answers.jsonl"]) == 0
    rows = {}
    for line in Path("answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[Path(row["path"]).as_posix().removeprefix("dataset/")] = row
    names = [row["path"] for row in rows_of(Path("dataset/manifest.csv")) if row["split"] == "test"]
    for name, beliefs_TC, locations_TS2 in zip(
        names, expected["beliefs_NTC"], expected["locations_NTS2"], strict=True
    ):
        last_C = np.array(beliefs_TC[-1])
        row = rows[name]
        assert row["class"] == run.classes[last_C.argmax()]
        assert row["probability"] == pytest.approx(last_C.max(), abs=1e-4)
        # predict writes four digits
        top_level = np.array(locations_TS2)[:, -1]
        assert np.array(row["locations"]) == pytest.approx(top_level, abs=1e-3)


@pytest.mark.parametrize("old_run", ["paper"], indirect=True)
def test_an_old_run_resumes(old_run: Path):
    before = (old_run / "metrics.csv").read_text().splitlines()
    assert main(["train", "--resume", str(old_run), "--epochs", "3"]) == 0
    after = (old_run / "metrics.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("old_run", ["paper", "glance"], indirect=True)
def test_an_old_config_trains_again(old_run: Path):
    config = replace_fields(load_config(old_run / "config.yaml"), {"epochs": 1})
    assert config.training.epochs == 1
    assert main(["train", str(old_run / "config.yaml"), "--epochs", "1", "--out", "again"]) == 0
    rows, old = rows_of(Path("again/metrics.csv")), rows_of(old_run / "metrics.csv")
    assert len(rows) == 1
    assert rows[0]["valid_accuracy"] == old[0]["valid_accuracy"]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))

"""The table of record: written from what runs left, and never emptied."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from tiny import tiny_config

from stacked_ram.cli import Test as Options
from stacked_ram.evaluate import test as run_test
from stacked_ram.train import train_run

SCRIPT = Path(__file__).resolve().parent.parent / "results" / "collect.py"


@pytest.fixture
def collect():
    spec = importlib.util.spec_from_file_location("collect", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def rows(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_rows_come_from_runs_and_stay_where_a_run_has_gone(collect, photos, tmp_path):
    train_run(tiny_config(photos, epochs=1, seed=3), tmp_path / "one")
    run_test(Options(runs=(tmp_path / "one",)))
    collect(tmp_path)
    table = tmp_path / "tables" / "runs.csv"
    assert rows(table)["one"]["seed"] == "3" and rows(table)["one"]["photos"] != ""
    (tmp_path / "one").rename(tmp_path / "two")
    collect(tmp_path)
    assert list(rows(table)) == ["one", "two"]
    table.write_text("")  # as `> table` leaves it
    with pytest.raises(SystemExit, match="empty"):
        collect(tmp_path)

"""The committed tables: written from the outputs of runs, never emptied, with computed means."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pandas
import pytest
from tiny import tiny_config

from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.training.run import train_run

RESULTS = Path(__file__).resolve().parent.parent / "results"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, RESULTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_rows_come_from_runs_and_stay_after_a_run_was_deleted(photos, tmp_path):
    collect = script("collect").main
    train_run(tiny_config(photos, epochs=1, seed=3), tmp_path / "one")
    train_run(tiny_config(photos, epochs=1, train_on="train+valid"), tmp_path / "all")
    run_test(Options(runs=(tmp_path / "one",)))
    run_test(Options(runs=(tmp_path / "all",)))
    collect(tmp_path)
    assert list(rows(tmp_path / "runs.csv")) == ["all", "one"]
    assert not (tmp_path / "tables").exists(), "the committed table changes only on request"
    table = tmp_path / "tables" / "runs.csv"
    collect(tmp_path, record=True)
    row = rows(table)["one"]
    assert row["seed"] == "3" and row["photos"] != "" and row["epoch"] == "1"
    assert 0 <= float(row["valid accuracy"]) <= 100
    assert rows(table)["all"]["valid accuracy"] == ""  # the run was trained on that split
    (tmp_path / "one").rename(tmp_path / "two")
    collect(tmp_path, record=True)
    assert list(rows(table)) == ["all", "one", "two"]
    table.write_text("")  # as after `> table`
    with pytest.raises(SystemExit, match="empty"):
        collect(tmp_path, record=True)


def record(*runs: dict[str, object]) -> pandas.DataFrame:
    nothing = dict.fromkeys(script("collect").COLUMNS, "")
    texts = [{key: str(value) for key, value in (nothing | run).items()} for run in runs]
    return pandas.DataFrame(texts).set_index("run")


def test_means_standard_deviations_and_costs_are_those_of_the_runs():
    tables = script("tables")
    first = {
        "run": "a", "accuracy": 80, "low_95": 75, "high_95": 85, "after the glance": 50,
        "after each glimpse": "70 80", "gmacs": 0.5, "gmacs before": 0.1, "early exit": 78,
        "early exit gmacs": 0.4, "centre": 30, "samples averaged": 2,
        "accuracy of the samples": 81, "photos": 100,
    }  # fmt: skip
    second = first | {"run": "b", "accuracy": 84, "after each glimpse": "72 84", "centre": ""}
    runs = record(first, second)
    both = tables.table(runs, {"ours": ("a", "b")}).set_index("looked")
    whole = both.loc["all glimpses"]
    assert (whole["accuracy"], whole["gmacs"], whole["runs"]) == (82, 0.5, 2)
    assert whole["deviation"] == pytest.approx(8**0.5, abs=1e-3) and whole["each"] == "80.00 84.00"
    assert both.loc["the glance alone", "gmacs"] == 0.1
    assert both.loc["after glimpse 1", "gmacs"] == pytest.approx(0.3)
    assert both.loc["all at the centre", "runs"] == 1  # a single run was tested this way
    line = tables.markdown(tables.table(runs, {"ours": ("a", "b")}), errors=False).splitlines()[2]
    assert "| 82.0 ± 2.8 | 50.0 ± 0.0 at 0.1 | 71.0 ± 1.4 at 0.3 |" in line
    assert line.endswith("| 78.0 ± 0.0 at 0.4 | 30.0 | 81.0 ± 0.0 at 0.9 |")
    line = tables.markdown(tables.table(runs, {"ours": ("a",)}), errors=True).splitlines()[2]
    assert "| 20.00 (15.00 to 25.00) |" in line


def test_a_linear_probe_has_a_row_per_size_and_a_figure_per_data_set():
    ours = {
        "accuracy": 80, "low_95": 75, "high_95": 85, "after each glimpse": "80", "gmacs": 0.5,
        "gmacs before": 0.1, "probe sizes": "96 224", "probe gmacs": "0.07 0.38",
        "probe accuracies": "60 70",
    }  # fmt: skip
    runs = record(
        ours | {"run": "a", "data set": "one"},
        ours | {"run": "b", "data set": "one"},  # another seed: the same photos and figure
        ours | {"run": "c", "data set": "two", "probe accuracies": "62 74"},
        ours | {"run": "d", "data set": "three"} | dict.fromkeys(script("collect").PROBE, ""),
    )
    found = script("tables").table(runs, {"ours": ("a", "b", "c", "d")})
    probes = found[found["recipe"].str.startswith("linear probe")]
    assert list(probes["recipe"]) == ["linear probe, 96x96", "linear probe, 224x224"]
    assert list(probes["each"]) == ["60.00 62.00", "70.00 74.00"]
    assert list(probes["gmacs"]) == [0.07, 0.38] and set(probes["runs"]) == {2}


def test_the_pages_agree_with_the_tables(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "runs.csv").write_bytes((RESULTS / "tables" / "runs.csv").read_bytes())
    for page in RESULTS.glob("*.md"):
        (tmp_path / page.name).write_bytes(page.read_bytes())
    tables = script("tables")
    tables.main(tmp_path)
    made = [tmp_path / "tables" / f"{table}.csv" for table in tables.TABLES]
    for file in [*tmp_path.glob("*.md"), *made]:
        committed = RESULTS / file.relative_to(tmp_path)
        assert file.read_text() == committed.read_text(), f"python results/tables.py: {file.name}"
    shown = "".join(page.read_text() for page in RESULTS.glob("*.md"))
    assert all(f"<!-- {name} -->" in shown for name in tables.TABLES)

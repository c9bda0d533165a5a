"""A small share of `benchmarks/faults.py`: damaged files are read or refused in one line."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = 60


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(FOLDER))
        yield importlib.import_module("faults")


@pytest.fixture(scope="module")
def rows(faults, tmp_path_factory):
    return faults.rows(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    "name", ["config", "weights", "state", "manifest", "dataset", "digits", "csv", "idx", "mat"]
)
def test_damaged_files_are_read_or_refused_in_one_line(faults, rows, name):
    found = faults.damage(rows[name], CASES, seed=1)
    assert found["faults"] == 0 and found["refused"] > 0, found


def test_the_harness_sees_other_errors_and_several_lines(faults, rows):
    def fail(error):
        raise error

    for error in (ValueError("odd"), faults.UserError("two\nlines")):
        row = faults.Row(rows["csv"].file, lambda error=error: fail(error))
        assert faults.outcome(row, b"x") not in ("read", "refused")

"""A small share of `benchmarks/faults.py` and `benchmarks/random_configs.py`."""

from __future__ import annotations

import faulthandler
import importlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = 60


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(FOLDER))
        yield importlib.import_module("faults")


@pytest.fixture(scope="module")
def configs():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(FOLDER))
        yield importlib.import_module("random_configs")


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


def test_damaged_photos_are_read_or_refused_by_name(faults, rows, tmp_path):
    """By `prepare`, `predict` and region; the full row tries the app too."""
    pytest.importorskip("pyvips")
    photos = importlib.import_module("fault_photos")
    run = rows["weights"].file.parent
    found = photos.damage_photos(range(CASES), 1, tmp_path, run)
    assert found["faults"] == 0, found
    for way in ("prepare", "predict", "region"):
        read, refused = found[f"read by {way}"], found[f"refused by {way}"]
        assert read > 0 and refused > 0 and read + refused == CASES, found


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crash", "exit code -11"),
        ("loop", "more than 1 s of processor time"),
        ("wait", "exit code -9"),
        ("left out", "neither in the result nor refused"),
        ("two lines", "not in one line with its name"),
        ("memory", "more than 0.001 GB, and read"),
    ],
)
def test_the_harness_sees_what_decoders_may_do(faults, tmp_path, monkeypatch, what, said):
    pytest.importorskip("pyvips")
    photos = importlib.import_module("fault_photos")
    monkeypatch.setattr(photos, "LIMIT", 1)
    monkeypatch.setattr(photos, "SILENT", 1 if what == "wait" else 600)
    if what == "memory":
        monkeypatch.setattr(photos, "MOST", 1_000_000)

    def way(files):
        if what == "crash":
            faulthandler.disable()  # or pytest's prints the stacks
            os.kill(os.getpid(), signal.SIGSEGV)
        while what == "loop":
            pass
        if what == "wait":
            time.sleep(1000)
        error = f"{files[0]}: odd\nlines" if what == "two lines" else ""
        if what != "left out":
            yield files[0].name, photos.judged(error, str(files[0]))

    file = tmp_path / "batch" / "raw" / "dot" / "a.png"
    file.parent.mkdir(parents=True)
    assert said in photos.answers_in_process(way, [file])["a.png"]


def test_random_configurations_survive_their_file(configs, tmp_path):
    kept = 0
    for seed in range(100):
        fields = configs.drawn(random.Random(seed))
        try:
            config = replace_fields(Config(), {"dataset": "datasets/x"} | fields)
        except UserError:
            continue
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config, fields
        kept += 1
    assert kept > 15


def test_wrong_values_are_refused_by_name(configs, tmp_path):
    found = configs.invalid(300, 1, tmp_path)
    assert found["faults"] == 0 and found["refused by name"] > 200, found

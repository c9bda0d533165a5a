"""Every benchmark finishes in quick mode and prints its table."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pandas
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def quick(monkeypatch, capsys):
    """Run the main function of a benchmark in this process; return its output."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick", *words])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


def test_gpu(quick, tmp_path):
    out = tmp_path / "gpu.json"
    printed = quick("gpu", "--device", "cpu", "--out", str(out))
    rows = json.loads(out.read_text())["rows"]
    assert {row["part"] for row in rows} == {
        "check", "digits28", "engine", "digits100", "backbone", "digits60"
    }  # fmt: skip
    assert not [row for row in rows if "error" in row]
    assert all(row["what"] in printed for row in rows)
    rates = [row["photos/s"] for row in rows if "photos/s" in row]
    assert len(rates) >= 18 and min(rates) > 0


def test_gpu_notices_wrong_results(quick, monkeypatch, capsys):
    quick("gpu", "--device", "cpu", "--parts")
    right = sys.modules["gpu_check"].given_loss

    def wrong(model, photos, labels, locations):
        return right(model, photos, labels, locations) * (1 + (locations.dtype == torch.float32))

    monkeypatch.setattr("gpu_check.given_loss", wrong)
    with pytest.raises(SystemExit):
        quick("gpu", "--device", "cpu", "--parts", "check")
    assert "loss 28: off by" in capsys.readouterr().out


def test_growing(quick):
    assert "names, s" in quick("growing")


def test_looking(quick):
    printed = quick("looking")
    assert "glance, network" in printed and "to plain at equal GMACs" in printed


def test_costs(quick, tmp_path):
    printed = quick("costs", "--out", str(tmp_path / "costs.csv"))
    table = pandas.read_csv(tmp_path / "costs.csv")
    assert list(table.preset) == ["demo", "mnist"] and all(n in printed for n in table.preset)
    for column in ("train_photos_per_s", "look_photos_per_s", "gmacs_total"):
        assert (table[column] > 0).all()


def test_backbone_work(quick):
    printed = quick("backbone_work")
    assert "ours, bf16, channels last" in printed and "one batch for all" in printed


def test_patch_reading(quick):
    assert "stack: conv, 60x60 digits" in quick("patch_reading")


@pytest.mark.parametrize("name", ["glimpses", "loader", "preparing"])
def test_others(quick, name):
    assert quick(name)


def test_shards_beside_the_folder(quick):
    rows = quick("loader", "--shards", "--workers", "0").splitlines()[-3:]
    assert [row.split()[0] for row in rows] == ["one", "crops", "own"]


@pytest.mark.slow
def test_serving(quick):
    for needed in ("fastapi_offline", "prometheus_client"):
        pytest.importorskip(needed, reason="pip install -r requirements-serve.txt")
    printed = quick("serving")
    assert "in batches" in printed and "a good photo after them: 200" in printed


@pytest.mark.slow
def test_any_size(quick):
    pytest.importorskip("pyvips", reason="pip install 'pyvips[binary]' for large photos")
    rows = [line.split() for line in quick("any_size", "--sizes", "1").splitlines()[1:]]
    assert [row[2] for row in rows] == ["glimpses", "resized"]
    assert rows[0][-1] == "100%"  # a patch at full resolution


@pytest.mark.slow
def test_memory(quick):
    assert "activation_checkpointing" in quick("memory")


@pytest.mark.slow
def test_startup(quick):
    assert "main.py predict" in quick("startup")


@pytest.mark.slow
def test_busy_machine(quick):
    printed = quick("busy_machine", "--others", "0").splitlines()
    rows = [line for line in printed if "(none)" in line]
    assert [row.split()[0] for row in rows] == ["quiet", "busy"]

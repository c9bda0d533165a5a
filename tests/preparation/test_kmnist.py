"""KMNIST from files with the official names to a test, by the commands in its preset's header."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import yaml

from stacked_ram.cli.main import main
from stacked_ram.cli.prepare import main as prepare
from stacked_ram.preparation import download

PRESET = Path(__file__).parents[2] / "configs" / "kmnist.yaml"
COUNTS = {"train": 120, "t10k": 30}


def write_official(folder: Path) -> None:
    """Write IDX files with the official names; each character is a bar that shows its class."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in COUNTS.items():
        labels = np.arange(count) % 10
        images = rng.integers(0, 30, (count, 28, 28))
        images[np.arange(count), :, 2 * labels + 4] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            content = gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)


def test_kmnist_from_its_official_files_to_a_test(tmp_path, monkeypatch, capfd):
    official = tmp_path / "downloads" / "kmnist"  # where --download looks first
    write_official(official)
    files = [
        download.RemoteFile(file.url, hashlib.md5((official / file.name).read_bytes()).hexdigest())
        for file in download.OFFICIAL["kmnist"]
    ]
    monkeypatch.setitem(download.OFFICIAL, "kmnist", tuple(files))
    dataset, run = tmp_path / "kmnist", tmp_path / "run"
    assert prepare(["--download", "kmnist", str(dataset)]) == 0
    info = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert info["classes"] == ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    assert sum(info["counts"]["train"].values()) == 110
    assert set(info["counts"]["test"].values()) == {3}
    few = ["--dataset", str(dataset), "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    assert main(["train", str(PRESET), "--out", str(run), *few]) == 0
    assert main(["test", str(run), "--controls"]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["photos"] == 30 and len(report["accuracy_after"]) == 6

"""Predict with a full disk, without a reader, with odd names: one line, nothing half written."""

from __future__ import annotations

import csv
import os
import sys
import threading
from pathlib import Path

import pytest
from tiny import tiny_config

from stacked_ram.cli.predict import Predict, predict
from stacked_ram.evaluation.predict import Row, photo_names
from stacked_ram.evaluation.prediction_table import part, write_table
from stacked_ram.runtime.errors import NotWritten, UserError, run_entry_point
from stacked_ram.training.run import train_run

FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=1), folder)
    return folder


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_full_disk_is_one_line_and_ends_the_threads(run, photos, tmp_path, suffix):
    out = tmp_path / f"table.{suffix}"
    part(out, 0).symlink_to(FULL)
    names = (str(photos / "test"),) * 30
    others = set(threading.enumerate())  # of earlier tests
    with pytest.raises(NotWritten, match=rf"table\.{suffix}: cannot be written \(No space left"):
        predict(Predict(run=run, photos=names, out=out))
    assert not out.exists() and not part(out, 0).is_symlink()
    for thread in set(threading.enumerate()) - others:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    works = [lambda: print("text"), lambda: write_table([Row("a", "b")], None, 1) and 0]
    for work in works:
        with open(FULL, "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert run_entry_point(work) == 1
        assert capsys.readouterr().err == (
            "error: standard output: cannot be written (No space left on device)\n"
        )
    for work in works:
        reader, writer = os.pipe()
        os.close(reader)  # as `| head` that has ended
        with open(writer, "w") as nobody_reads:
            monkeypatch.setattr(sys, "stdout", nobody_reads)
            assert run_entry_point(work) == 0
        assert capsys.readouterr().err == ""


def test_a_training_whose_output_nobody_reads_goes_on(photos, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody_reads:
        monkeypatch.setattr(sys, "stdout", nobody_reads)
        train_run(tiny_config(photos, epochs=1), tmp_path / "run")
    assert "1 epoch trained" in (tmp_path / "run" / "log.txt").read_text()


def test_names_with_a_carriage_return_and_long_cells_keep_their_rows(tmp_path):
    names = ["a\rb.jpg", "c\nd.jpg", 'e"f.jpg', "x" * 200_000 + ".jpg", "plain.jpg"]
    rows = [Row(name, error="no such photo") for name in names]
    write_table(rows, tmp_path / "table.csv", 1)
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["path"] for row in read] == names
    content = (tmp_path / "table.csv").read_bytes()
    assert content.endswith(b"plain.jpg,,,,,no such photo\n") and b"\r\n" not in content
    assert list(photo_names([str(tmp_path / "table.csv")])) == names


def test_a_csv_that_is_none_is_named(tmp_path):
    (tmp_path / "odd.csv").write_bytes(b'path\n"' + b"\r" * 9 + b"\0\n")
    try:
        list(photo_names([str(tmp_path / "odd.csv")]))
    except UserError as error:
        assert "odd.csv" in str(error)


def test_parts_of_a_killed_command_with_more_processes_are_swept(tmp_path):
    out = tmp_path / "table.csv"
    kept = tmp_path / ".table.csv.part_mine"
    for path in (part(out, 0), part(out, 3), kept):
        path.write_text("half")
    write_table([Row("a", error="b")], out, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "table.csv"]


def test_an_answer_that_is_not_finite_is_an_error_of_its_row(run, photos):
    import torch

    from stacked_ram.evaluation.predict import predict_stream
    from stacked_ram.runs.checkpoint import load_run

    loaded = load_run(run, "cpu")
    with torch.no_grad():
        loaded.model.classifier.bias.fill_(torch.inf)
    rows = list(predict_stream(loaded, [str(path) for path in sorted(photos.glob("test/*/*"))]))
    assert all("is not finite" in row.error for row in rows)

"""Preparing from Python: the returned summary, and no output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from making import check_sound, class_folders, dataset_info, picture, save, summarise

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare

ROOT = Path(__file__).parents[2]


def test_the_summary_describes_the_data_set_and_nothing_is_printed(tmp_path: Path, capfd) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    save(picture(0), source / "a" / "twice.png")
    (source / "a" / "broken.jpg").write_bytes(b"")
    dest = tmp_path / "out"
    made = prepare(PrepareOptions(source=str(source), dest=str(dest), workers=1))
    assert capfd.readouterr() == ("", "")
    assert (made.dest, made.classes, made.unchanged, made.dry_run) == (
        dest,
        ("a", "b"),
        False,
        False,
    )
    assert made.left_out == {"empty": 1} == dataset_info(dest)["left_out"]
    assert sum(made.photos.values()) == 17
    assert (made.exact_duplicates, made.near_duplicates) == (0, 1)
    assert made.report.exists()
    assert f"{made.photos['train']} train" in str(made) and "1 empty" in str(made)
    again = summarise(source, dest)
    assert again.unchanged and again.photos == made.photos


def test_a_dry_run_returns_its_plan(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "rare": 1})
    plan = summarise(source, tmp_path / "out", dry_run=True)
    assert plan.dry_run and plan.classes == ("a", "rare") and plan.photos == {}
    assert "'rare' has 1 photo" in str(plan.problem)


def test_a_run_may_end_while_its_worker_processes_start(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from stacked_ram.preparation.pool import Workers\n"
        "with Workers(2) as workers:\n"
        "    workers.start()\n"
        "    workers.dismiss()\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_needs_no_guard_for_worker_processes(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    script = tmp_path / "script.py"
    script.write_text(
        "from stacked_ram.preparation.options import PrepareOptions\n"
        "from stacked_ram.preparation.pipeline import prepare\n"
        f"print(prepare(PrepareOptions({str(source)!r}, {str(tmp_path / 'out')!r}, workers=2)))\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 classes") == 1 and done.stderr == ""
    check_sound(tmp_path / "out")

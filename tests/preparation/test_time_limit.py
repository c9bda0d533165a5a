"""Photos that take for ever are given up and named; Ctrl-C ends a run that decodes one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from making import class_folders, jpeg, picture, problems, run
from PIL import Image

from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.checks import check_photo
from stacked_ram.preparation.pool import Workers, check_all

ROOT = Path(__file__).parents[2]
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")


def with_scans(scans: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = jpeg(Image.new("RGB", size, (90, 120, 30)), progressive=True)
    last = content.rindex(b"\xff\xda")
    begin = content.rindex(b"\xff\xc4", 0, last)  # its Huffman table
    return content[:-2] + content[begin:-2] * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


def slow_photo(path: Path) -> Path:
    """A photo that takes several seconds to decode."""
    path.write_bytes(with_scans(490, (6000, 4000)))
    return path


def test_jpeg_of_very_many_scans(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    (source / "a" / "many.jpg").write_bytes(with_scans(3000))
    run(source, tmp_path / "set")
    assert problems(tmp_path / "set") == {"many.jpg": "too_slow"}


@needs_timers
def test_a_slow_photo_is_given_up_and_the_others_are_checked(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 40})
    photos = sorted(source.rglob("*.jpg"))
    slow = [slow_photo(source / "a" / f"slow {number}.jpg") for number in range(2)]
    photos[5:5], photos[30:30] = slow[:1], slow[1:]
    plan = CheckPlan(tmp_path / "decoded", 64, 92, 10**8, seconds=0.5)
    with Workers(2) as workers:
        found = [result for part in check_all(enumerate(photos), plan, workers) for result in part]
        notes = workers.notes
        assert notes is not None and notes.exists()
    assert not notes.exists()
    assert sorted(number for number, _ in found) == list(range(42))
    assert {photos[number]: checked.detail for number, checked in found if checked.problem} == {
        path: "not decoded after 0.5 s of processor time" for path in slow
    }
    decoded = [checked.file for _, checked in found if not checked.problem]
    assert all((plan.folder / file).exists() for file in decoded)


@needs_timers
def test_a_slow_photo_is_named_while_it_is_decoded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stacked_ram.preparation.time_limit._SLOW", 0)
    shown: list[str] = []
    plan = CheckPlan(tmp_path / "decoded", 64, 92, 10**8, seconds=2)
    with Workers(2) as workers:
        list(check_all([(1, slow_photo(tmp_path / "slow.jpg"))], plan, workers, shown.append))
    assert any("slow.jpg: " in text and "given up after 2 s" in text for text in shown)


def test_this_process_has_no_limit(tmp_path: Path) -> None:
    """With one worker, photos are decoded in the process of the caller, which must live on."""
    path = tmp_path / "x.jpg"
    picture(1).save(path)
    (tmp_path / "decoded").mkdir()
    plan = CheckPlan(tmp_path / "decoded", 64, 92, 10**8, seconds=1e-6)
    for _ in range(20):
        assert check_photo(path, plan).problem == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("workers", "interrupts"), [("1", 2), ("2", 1)])
def test_interrupt_while_a_photo_is_decoded(tmp_path: Path, workers: str, interrupts: int) -> None:
    source = class_folders(tmp_path / "in", {"a": 4, "b": 4})
    slow_photo(source / "a" / "a slow one.jpg")
    command = [sys.executable, "prepare_data.py", str(source), str(tmp_path / "set")]
    process = subprocess.Popen(
        [*command, "--workers", workers], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    decoding = tmp_path / ".set.partial" / "decoded"
    while not decoding.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.5 if workers == "1" else 2)
    start = time.monotonic()
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 3
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.endswith("stopped\n")
    assert not (tmp_path / "set").exists()

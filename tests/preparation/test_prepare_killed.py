"""Killed runs, full disks and dead workers: DEST is complete or does not exist."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from making import check_sound, class_folders, run, tree_digest

from stacked_ram.preparation import checks, kept_checks, pool, writing
from stacked_ram.preparation import workdir as working
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.preparation.workdir import restore, working_folder
from stacked_ram.runtime.errors import RunFailed, UserError

ROOT = Path(__file__).parents[2]


def start(source: Path, dest: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "prepare_data.py"), str(source), str(dest), *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children(pid: int) -> dict[int, bytes]:
    """Return the children of a process with their command lines, where /proc lists them."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid:
                found[int(status.parent.name)] = (status.parent / "cmdline").read_bytes()
    return found


def workers_of(pid: int) -> list[int]:
    """Return the worker processes, which are forked from a server where that is possible."""
    found = children(pid)
    servers = [child for child, command in found.items() if b"forkserver" in command]
    spawned = [child for child, command in found.items() if b"spawn_main" in command]
    return spawned + [worker for server in servers for worker in children(server)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("source") / "in", {"a": 60, "b": 60})


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    dest = tmp_path_factory.mktemp("whole") / "set"
    run(source, dest)
    return tree_digest(dest)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, photos: int) -> None:
    """Stop the run, like Ctrl-C, after this many checked photos."""
    checked = itertools.count(1)
    real = checks.check_photo

    def check(path: Path, plan: CheckPlan) -> checks.Checked:
        if next(checked) > photos:
            raise KeyboardInterrupt
        return real(path, plan)

    monkeypatch.setattr(pool, "check_photo", check)


def test_the_next_run_reuses_decoded_photos(source, whole, tmp_path, monkeypatch) -> None:
    dest = tmp_path / "set"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 70)
        with pytest.raises(KeyboardInterrupt):
            run(source, dest)
    assert not dest.exists()
    decoded = []
    real = checks.check_photo
    monkeypatch.setattr(
        pool, "check_photo", lambda path, plan: decoded.append(path) or real(path, plan)
    )
    run(source, dest)
    assert len(decoded) == 120 - 64  # whole chunks of 8 were kept
    assert tree_digest(dest) == whole


def test_with_other_decoding_options_nothing_is_reused(source, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(patched, 70)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "set")
    info = run(source, tmp_path / "set", short_side=16)
    assert info["repaired"] == {"reduced": 120}
    check_sound(tmp_path / "set")


@pytest.mark.parametrize("other", [{}, {"short_side": 16}], ids=str)
def test_a_dry_run_does_not_change_a_stopped_run(source, tmp_path, monkeypatch, other) -> None:
    packed = shutil.make_archive(str(tmp_path / "photos"), "tar", source)
    dest = tmp_path / "set"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 70)
        with pytest.raises(KeyboardInterrupt):
            run(Path(packed), dest)
    before = tree_digest(tmp_path)
    plan = prepare(PrepareOptions(source=Path(packed), dest=dest, dry_run=True, **other))
    checked = 0 if other else 64
    assert f"{120 - checked} photos would be checked, {checked} have" in str(plan)
    prepare(PrepareOptions(source=source, dest=dest, dry_run=True))
    os.utime(packed, (0, 0))  # another archive
    prepare(PrepareOptions(source=Path(packed), dest=dest, dry_run=True))
    assert tree_digest(tmp_path) == before


def test_lost_or_cut_decoded_files_are_decoded_again(source, whole, tmp_path, monkeypatch) -> None:
    dest = tmp_path / "set"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 100)
        with pytest.raises(KeyboardInterrupt):
            run(source, dest)
    files = sorted((working_folder(dest) / "decoded").rglob("*.jpg"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    run(source, dest)
    assert tree_digest(dest) == whole


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment(source: Path, whole, tmp_path: Path, seed: int) -> None:
    """Killed (without a chance to clean up) once or twice, then run to its end."""
    dest = tmp_path / "set"
    moment = random.Random(seed)
    for _ in range(2):
        process = start(source, dest, "--workers", "2")
        limit = time.monotonic() + moment.uniform(0.2, 2.5)
        while time.monotonic() < limit and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        if dest.exists():  # it had finished
            break
    run(source, dest)
    check_sound(dest)
    same = tree_digest(dest)
    for name in ("dataset.yaml", "report.html"):  # these contain the command
        same.pop(name)
    assert same == {name: digest for name, digest in whole.items() if name in same}
    assert len(same) == len(whole) - 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_dead_worker_is_reported_and_no_worker_outlives_the_run(
    source: Path, tmp_path: Path
) -> None:
    process = start(source, tmp_path / "set", "--workers", "2")
    deadline = time.monotonic() + 30
    while not (workers := workers_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(workers[0], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: a worker process died")
    assert "Traceback" not in error, error
    assert not (tmp_path / "set").exists()

    process = start(source, tmp_path / "set", "--workers", "2")
    deadline = time.monotonic() + 30
    while not (workers := workers_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def full_disk(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("room", "name"),
    [
        (checks, "write_bytes"), (writing, "place_file"),
        (writing, "write_report"), (writing, "publish"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("exists", [False, True])
def test_full_disk(source, whole, tmp_path, monkeypatch, room, name: str, exists: bool) -> None:
    dest = tmp_path / "set"
    if exists:
        run(source, dest, seed=9)
        if room is checks:
            (dest / "checks.sqlite").unlink()  # so that the photos are decoded again
    before = tree_digest(dest)
    with monkeypatch.context() as patched:
        patched.setattr(room, name, full_disk)
        with pytest.raises(RunFailed, match=r"no space left.*set is unchanged"):
            run(source, dest, overwrite=exists)
    assert tree_digest(dest) == before
    assert dest.exists() == exists
    run(source, dest, overwrite=exists)
    assert tree_digest(dest) == whole


def test_full_disk_while_photos_are_taken_from_the_data_set(
    source: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "set"
    run(source, dest, seed=9)
    before = tree_digest(dest)
    with monkeypatch.context() as patched:
        patched.setattr(kept_checks, "place_file", full_disk)
        with pytest.raises(RunFailed, match=r"no space left.*set is unchanged"):
            run(source, dest, overwrite=True)
    assert tree_digest(dest) == before
    run(source, dest, overwrite=True)
    assert tree_digest(dest) == whole


@pytest.mark.parametrize("renames", [1, 2])
def test_killed_between_the_renames(source, tmp_path, monkeypatch, renames: int) -> None:
    """Either the old data set comes back or the new one stays."""
    dest = tmp_path / "set"
    run(source, dest)
    old = tree_digest(dest)
    done = itertools.count(1)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if next(done) > renames:
            raise KeyboardInterrupt
        moved = real(self, target)
        if renames == 2 and target == dest:
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            run(source, dest, seed=4, overwrite=True)
    restore(dest)
    assert dest.exists()
    assert (tree_digest(dest) == old) == (renames == 1)
    run(source, dest, seed=4, overwrite=True)
    check_sound(dest)


def test_two_runs_at_once(source: Path, tmp_path: Path) -> None:
    plan = CheckPlan(tmp_path, 512, 92, 10**6)
    other = Catalogue(working_folder(tmp_path / "set"), plan)
    with pytest.raises(UserError, match="another run is using"):
        run(source, tmp_path / "set")
    other.close()
    run(source, tmp_path / "set")
    check_sound(tmp_path / "set")


def test_half_written_file_has_a_temporary_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        working.write_bytes(tmp_path / "x.jpg", b"content")
    assert not [*tmp_path.iterdir()]


def test_dying_worker_fails_the_run() -> None:
    with (
        pool.Workers(2) as workers,
        pytest.raises(RunFailed, match="a worker process died"),
    ):
        list(workers.in_order(os._exit, [3, 3], name=str))

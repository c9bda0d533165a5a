"""Errors of the machine stop a run with their cause; they are never a photo's verdict."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from making import class_folders, problems, rows, run
from PIL import Image, ImageFile

from stacked_ram.preparation import checks
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.runtime.errors import RunFailed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "in", {"a": 6, "b": 6})


def unreadable(monkeypatch: pytest.MonkeyPatch, number: int, folder: str = "a") -> None:
    """Reading a file below `folder` fails with the error of this number."""
    real = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.parent.name == folder:
            raise OSError(number, os.strerror(number))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_read_now(source, tmp_path, monkeypatch, number: int) -> None:
    with monkeypatch.context() as patched:
        unreadable(patched, number)
        with pytest.raises(RunFailed, match=rf"6 photos .*photo 000.jpg: {os.strerror(number)}"):
            run(source, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert run(source, tmp_path / "set")["left_out"] == {}
    assert len(rows(tmp_path / "set")) == 12


def test_a_source_that_is_away_for_a_moment(source, tmp_path, monkeypatch) -> None:
    real = checks.check_photo

    def away(path: Path, plan: CheckPlan):
        return real(path.with_name(path.name + " is away"), plan)

    with monkeypatch.context() as patched:
        patched.setattr("stacked_ram.preparation.pool.check_photo", away)
        with pytest.raises(RunFailed, match=r"12 photos could not be checked .*No such file"):
            run(source, tmp_path / "set")
    assert len(run(source, tmp_path / "set")["classes"]) == 2
    assert len(rows(tmp_path / "set")) == 12


def test_links_that_lead_nowhere_are_the_fault_of_the_source(source, tmp_path) -> None:
    os.symlink("nowhere", source / "a" / "dangling.jpg")
    run(source, tmp_path / "set")
    found = problems(tmp_path / "set")
    assert found["dangling.jpg"] == "unreadable"
    assert set(found.values()) == {"unreadable"}


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory when reading image file")])
@pytest.mark.parametrize("lacking", [True, False])
def test_too_little_memory(source, tmp_path, monkeypatch, error, lacking: bool) -> None:
    """A good photo is decoded by the next run; a file that misleads the decoder is unreadable."""

    def load(self):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(ImageFile.ImageFile, "load", load)
        patched.setattr(checks, "_has_memory", lambda pixels: not lacking)
        expected = "too little memory" if lacking else "none of its 6 photos can be used"
        with pytest.raises(Exception, match=expected):
            run(source, tmp_path / "set")
    if lacking:
        assert run(source, tmp_path / "set")["left_out"] == {}


def test_too_little_memory_to_store(source, tmp_path, monkeypatch) -> None:
    def resize(*arguments, **named):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "resize", resize)
        with pytest.raises(RunFailed, match="too little memory"):
            run(source, tmp_path / "set", short_side=16)
    assert run(source, tmp_path / "set", short_side=16)["left_out"] == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_permission(source, tmp_path) -> None:
    photo = source / "a" / "photo 000.jpg"
    photo.chmod(0)
    with pytest.raises(RunFailed, match="Permission denied"):
        run(source, tmp_path / "set")
    photo.chmod(0o644)
    assert run(source, tmp_path / "set")["left_out"] == {}

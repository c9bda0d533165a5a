"""A data set that is made again decodes only the photos that are new."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from making import by_source, check_sound, class_folders, picture, rows, save, summarise
from PIL import Image

from stacked_ram.preparation import checks
from stacked_ram.runtime.errors import UserError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each decoded file is added."""
    names: list[str] = []
    decode = checks._decode

    def counting(image, source, *rest):
        names.append(source.name)
        return decode(image, source, *rest)

    monkeypatch.setattr(checks, "_decode", counting)
    return names


def test_only_new_photos_are_decoded(tmp_path: Path, decoded: list[str]) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"
    save(picture(900).convert("CMYK"), source / "a/cmyk.jpg")
    save(picture(901), source / "b/large.tif")
    summarise(source, dest)
    assert len(decoded) == 18
    save(picture(902), source / "a/new.jpg")
    save(picture(903), source / "b/new.png")
    with pytest.raises(UserError, match="--overwrite, which decodes only new photos"):
        summarise(source, dest)
    decoded.clear()
    summary = summarise(source, dest, overwrite=True)
    assert sorted(decoded) == ["new.jpg", "new.png"]
    assert summary.reused == 18
    assert "18 photos were in" in str(summary)
    check_sound(dest)
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    summarise(source, tmp_path / "fresh")
    assert rows(dest) == rows(tmp_path / "fresh")


def test_a_photo_that_moved_or_was_touched_is_not_decoded_again(
    tmp_path: Path, decoded: list[str]
) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"
    summarise(source, dest)
    decoded.clear()
    (source / "a/photo 000.jpg").rename(source / "b/moved.jpg")
    (source / "a/photo 001.jpg").touch()
    summarise(source, dest, overwrite=True, seed=3)
    assert decoded == []
    assert by_source(dest)["b/moved.jpg"]["class"] == "b"
    check_sound(dest)


def test_photos_whose_check_may_differ_are_decoded(tmp_path: Path, decoded: list[str]) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"
    (source / "a/broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    summarise(source, dest)
    stored = dest / by_source(dest)["a/photo 002.jpg"]["path"]
    stored.write_bytes(b"changed by somebody")
    other = by_source(dest)["a/photo 003.jpg"]["path"]
    (dest / other).unlink()
    save(picture(900), source / "a/photo 001.jpg")  # another photo under the same name
    (source / "b/photo 000.jpg").rename(source / "b/photo 000.png")  # now with a wrong suffix
    decoded.clear()
    summary = summarise(source, dest, overwrite=True)
    assert sorted(decoded) == [
        "photo 000.png", "photo 001.jpg", "photo 002.jpg", "photo 003.jpg",
    ]  # fmt: skip
    assert summary.repaired == {"wrong_suffix": 1}
    check_sound(dest)
    decoded.clear()
    summarise(source, dest, overwrite=True, short_side=24)
    assert len(decoded) == 16


def test_a_data_set_without_its_checks_is_made_again_from_scratch(
    tmp_path: Path, decoded: list[str]
) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"
    summarise(source, dest)
    before = rows(dest)
    (dest / "checks.sqlite").write_bytes(b"not a database" * 100)
    decoded.clear()
    summarise(source, dest, overwrite=True)
    assert len(decoded) == 16
    assert rows(dest) == before
    (dest / "checks.sqlite").unlink()
    decoded.clear()
    summarise(source, dest, overwrite=True)
    assert len(decoded) == 16


def test_sixteen_bit_photos_are_decoded_again_if_a_brighter_one_comes(
    tmp_path: Path, decoded: list[str]
) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"

    def deep(name: str, white: int) -> None:
        values = np.linspace(0, white, 48 * 36).reshape(36, 48).astype(np.uint16)
        save(Image.fromarray(values), source / name)

    deep("a/deep.png", 4095)
    summarise(source, dest)
    decoded.clear()
    deep("b/as deep.png", 4000)
    summarise(source, dest, overwrite=True)
    assert set(decoded) == {"as deep.png"}
    deep("b/deeper.png", 60000)
    decoded.clear()
    summarise(source, dest, overwrite=True)
    assert set(decoded) == {"deep.png", "as deep.png", "deeper.png"}
    summarise(source, tmp_path / "fresh")
    assert rows(dest) == rows(tmp_path / "fresh")

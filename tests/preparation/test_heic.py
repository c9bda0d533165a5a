"""HEIC photos are read with an optional package; without it, the user learns what to install."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import by_source, check_sound, class_folders, picture, problems, rows, summarise
from PIL import Image

from stacked_ram.images.formats import has_heif, is_heif
from stacked_ram.preparation import catalogue, damage
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.runtime.errors import UserError

NO_PHOTO = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(2000)
needs_heif = pytest.mark.skipif(not has_heif(), reason="pillow-heif is not installed")


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (damage, catalogue):
        monkeypatch.setattr(room, "has_heif", lambda: False)


def heic(image: Image.Image, path: Path, **settings) -> Path:
    import pillow_heif

    pillow_heif.from_pillow(image).save(path, **settings)
    return path


def test_without_the_package_the_user_learns_what_to_install(tmp_path: Path, monkeypatch) -> None:
    without_package(monkeypatch)
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    (source / "a/IMG_1.HEIC").write_bytes(NO_PHOTO)
    summary = summarise(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"IMG_1.HEIC": "needs_pillow_heif"}
    (row,) = (row for row in rows(tmp_path / "out", "report.csv") if row["problem"])
    assert "pip install -r requirements-heic.txt" in row["detail"]
    assert "1 HEIC photos are left out" in str(summary)
    assert "pip install -r requirements-heic.txt" in str(summary)


def test_a_class_of_heic_photos_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    without_package(monkeypatch)
    source = class_folders(tmp_path / "in", {"a": 6, "b": 0})
    (source / "b").mkdir()
    for number in range(6):
        (source / f"b/{number}.heic").write_bytes(NO_PHOTO + bytes([number]))
    with pytest.raises(UserError, match=r"6 needs_pillow_heif.*requirements-heic\.txt"):
        summarise(source, tmp_path / "out")
    monkeypatch.undo()
    if has_heif():  # installed since: the photos are checked again
        with pytest.raises(UserError, match="6 unreadable"):
            prepare(PrepareOptions(source=source, dest=tmp_path / "out", workers=1))


def test_avif_is_not_taken_for_heic() -> None:
    assert is_heif(NO_PHOTO)
    assert not is_heif(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200))
    assert not is_heif(b"")


@needs_heif
def test_heic_photos_are_stored_upright_as_jpeg(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    image = picture(900, (320, 240))
    heic(image, source / "a/one.HEIC", quality=95)
    exif = Image.Exif()
    exif[274] = 6  # written as the rotation of HEIC itself too, as phones do
    heic(image, source / "a/turned.heic", quality=95, exif=exif.tobytes())
    summarise(source, tmp_path / "out")
    check_sound(tmp_path / "out")
    for name, wanted in [
        ("one.HEIC", image),
        ("turned.heic", image.transpose(Image.Transpose.ROTATE_270)),
    ]:
        row = by_source(tmp_path / "out")[f"a/{name}"]
        assert row["repairs"] == "reencoded"
        with Image.open(tmp_path / "out" / row["path"]) as stored:
            difference = np.asarray(stored, np.float64) - np.asarray(wanted, np.float64)
        assert np.abs(difference).mean() < 4


@needs_heif
def test_of_several_pictures_the_main_one_is_stored(tmp_path: Path) -> None:
    import pillow_heif

    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    several = pillow_heif.from_pillow(Image.new("RGB", (64, 48), "black"))
    several.add_from_pillow(Image.new("RGB", (64, 48), "white"))
    several.save(source / "a/several.heic", primary_index=1)
    summarise(source, tmp_path / "out")
    row = by_source(tmp_path / "out")["a/several.heic"]
    assert row["repairs"] == "animated"
    with Image.open(tmp_path / "out" / row["path"]) as stored:
        assert min(stored.getpixel((30, 20))) > 250


@needs_heif
def test_a_heic_photo_without_its_end_is_truncated(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    content = heic(picture(900, (320, 240)), tmp_path / "whole.heic").read_bytes()
    (source / "a/cut.heic").write_bytes(content[: len(content) * 2 // 3])
    summarise(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"cut.heic": "truncated"}

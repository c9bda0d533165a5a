"""Photos of 10, 12 or 14 bits in files of 16 bits keep their brightness."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from making import class_folders, dataset_info, picture, rows, run, save
from PIL import Image, PngImagePlugin, TiffImagePlugin

from stacked_ram.preparation import pipeline
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.checks import check_photo


@pytest.fixture
def plan(tmp_path: Path) -> CheckPlan:
    folder = tmp_path / "decoded"
    folder.mkdir()
    return CheckPlan(folder, short_side=512, quality=95, max_pixels=1_000_000)


def values(seed: int, white: int) -> np.ndarray:
    """A grayscale picture whose values reach `white`."""
    grey = np.asarray(picture(seed).convert("L"), dtype=float)
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    return np.round(grey * white).astype(np.uint16)


def brightness(path: Path) -> int:
    with Image.open(path) as image:
        return int(np.asarray(image.convert("L")).max())


def stored(content: bytes, plan: CheckPlan, name: str) -> tuple[int, tuple[str, ...]]:
    path = plan.folder.parent / name
    path.write_bytes(content)
    checked = check_photo(path, plan)
    assert checked.problem == ""
    return brightness(plan.folder / checked.file), checked.repairs


def test_declared_depth(plan: CheckPlan) -> None:
    grey = values(1, 4095)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    tiff = io.BytesIO()
    Image.fromarray(grey).save(tiff, "TIFF", tiffinfo=tags)
    chunk = PngImagePlugin.PngInfo()
    chunk.add(b"sBIT", bytes([12]))
    png = io.BytesIO()
    Image.fromarray(grey).save(png, "PNG", pnginfo=chunk)
    for content, name in ((tiff, "x.tif"), (png, "x.png")):
        found, repairs = stored(content.getvalue(), plan, name)
        assert found >= 253
        assert "few_grey_levels" not in repairs
    scaled = io.BytesIO()  # sBIT beside values that were scaled up, as the standard wants it
    Image.fromarray(grey * 16).save(scaled, "PNG", pnginfo=chunk)
    assert stored(scaled.getvalue(), plan, "x.png")[0] >= 253


def test_undeclared_depth_is_reported_when_it_leaves_few_levels(plan: CheckPlan) -> None:
    png = io.BytesIO()
    Image.fromarray(values(1, 4095)).save(png, "PNG")
    found, repairs = stored(png.getvalue(), plan, "x.png")
    assert found == 16
    assert "few_grey_levels" in repairs


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_colour(plan: CheckPlan, suffix: str) -> None:
    colour = np.asarray(picture(2), dtype=np.uint16) * 16
    _, content = cv2.imencode(suffix, np.ascontiguousarray(colour[..., ::-1]))
    path = plan.folder.parent / f"x{suffix}"
    path.write_bytes(content.tobytes())
    white = CheckPlan(**{**vars(plan), "white": 4080})
    checked = check_photo(path, white)
    with Image.open(plan.folder / checked.file) as image:
        difference = np.asarray(image, dtype=int) - np.asarray(picture(2), dtype=int)
    assert np.abs(difference).mean() < (0.01 if suffix == ".png" else 6)


def source_of(folder: Path, white: int, suffix: str = ".png") -> Path:
    for number in range(12):
        image = Image.fromarray(values(number, white - number))
        save(image, folder / "ab"[number % 2] / f"{number}{suffix}")
    return folder


@pytest.mark.parametrize(("white", "given"), [(1000, None), (4095, None), (16000, None)])
def test_common_maximum_of_a_source(tmp_path: Path, white: int, given) -> None:
    info = run(source_of(tmp_path / "in", white), tmp_path / "set")
    used = {1000: 1023, 4095: 4095, 16000: 16383}[white]
    assert f"12 16-bit photos declare no white: {used} was used (none is brighter)" in info["notes"]
    assert "few_grey_levels" not in info["repaired"]
    for row in rows(tmp_path / "set"):
        assert brightness(tmp_path / "set" / row["path"]) >= 240


def test_one_bright_photo_decides_for_all(tmp_path: Path) -> None:
    """So photos of one camera stay comparable."""
    source = source_of(tmp_path / "in", 4095)
    save(Image.fromarray(values(50, 65535)), source / "a" / "bright.png")
    info = run(source, tmp_path / "set")
    assert info["repaired"]["few_grey_levels"] == 12
    assert any(note.startswith("12 16-bit photos have fewer than 32") for note in info["notes"])
    info = run(source, tmp_path / "set", sixteen_bit_max=4095, overwrite=True)
    assert info["repaired"]["few_grey_levels"] == 1  # now the bright one is white
    assert any("4095 was used (--sixteen-bit-max)" in note for note in info["notes"])


def test_a_run_stopped_between_the_two_scalings(tmp_path: Path, monkeypatch) -> None:
    source = source_of(tmp_path / "in", 4095)
    run(source, tmp_path / "whole")
    real = pipeline._check_with
    with monkeypatch.context() as patched:

        def stop(plan, *arguments):
            if plan.white:
                raise KeyboardInterrupt
            real(plan, *arguments)

        patched.setattr(pipeline, "_check_with", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "set")
    run(source, tmp_path / "set")
    first, second = ((tmp_path / name / "manifest.csv").read_text() for name in ("whole", "set"))
    assert first == second


def test_full_range_and_8_bits_are_as_before(tmp_path: Path) -> None:
    source = source_of(class_folders(tmp_path / "in", {"a": 3, "b": 3}), 65535, ".tif")
    info = run(source, tmp_path / "set")
    assert not [note for note in info["notes"] if re.search("16-bit", note)]
    assert dataset_info(tmp_path / "set")["repaired"]["16_bit"] == 12


def test_equal_stored_files_are_duplicates(tmp_path: Path) -> None:
    """Different files may be stored as equal ones: a TIFF with and without compression."""
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    save(picture(70), source / "a" / "plain.tif")
    save(picture(70), source / "a" / "packed.tif", compression="tiff_lzw")
    info = run(source, tmp_path / "set", near_duplicates=-1)
    assert any(note.startswith("1 exact and 0 near duplicates") for note in info["notes"])
    pair = [row for row in rows(tmp_path / "set") if row["source"].endswith(".tif")]
    assert pair[0]["split"] == pair[1]["split"]
    assert pair[0]["sha256"] == pair[1]["sha256"]

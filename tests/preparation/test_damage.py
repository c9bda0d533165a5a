"""Photos whose data are damaged, but which decoders accept, are found and quarantined."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from making import class_folders, dataset_info, jpeg, problems, rows, run, summarise
from PIL import Image

from stacked_ram.preparation import pool
from stacked_ram.preparation.checked import CheckPlan
from stacked_ram.preparation.checks import check_photo
from stacked_ram.preparation.jpeg import data_fault, outline_of, warnings_pass
from stacked_ram.runtime.errors import RunFailed


@pytest.fixture
def plan(tmp_path: Path) -> CheckPlan:
    folder = tmp_path / "decoded"
    folder.mkdir()
    return CheckPlan(folder, short_side=512, quality=92, max_pixels=1_000_000)


def textured(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with as much detail as a photo."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size[1], size[0], 3))
    for scale in (4, 16, 64):
        shape = (size[0] // scale + 2, size[1] // scale + 2)
        noise = rng.integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray((picture / 3).astype(np.uint8))


def encoded(seed: int, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    textured(seed).save(buffer, kind, **settings)
    return buffer.getvalue()


def zeroed(content: bytes, start: float, length: float) -> bytes:
    begin, count = int(len(content) * start), int(len(content) * length)
    return content[:begin] + bytes(count) + content[begin + count :]


def with_tail(content: bytes, other: bytes) -> bytes:
    return content[: len(content) // 2] + other[len(other) // 2 :]


def check(content: bytes, plan: CheckPlan, name: str = "x.jpg") -> str:
    path = plan.folder.parent / name
    path.write_bytes(content)
    return check_photo(path, plan).problem


def fault_of(content: bytes) -> str:
    return data_fault(content, outline_of(content))


JPEGS = {
    "baseline": {}, "progressive": {"progressive": True}, "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1}, "full colour": {"subsampling": 0},
}  # fmt: skip


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_damaged_in_the_middle(plan: CheckPlan, kind: str) -> None:
    for seed in range(4):
        whole = encoded(seed, "JPEG", **JPEGS[kind])
        assert check(whole, plan) == ""
        other = encoded(seed + 100, "JPEG", **JPEGS[kind])
        for damaged in (zeroed(whole, 0.5, 0.25), zeroed(whole, 0.4, 0.1)):
            assert check(damaged, plan) == "damaged"
        if kind != "restarts":  # there the tail of a photo of the same size fits
            assert check(with_tail(whole, other), plan) in ("damaged", "unreadable")


def test_grayscale_and_cmyk_jpeg(plan: CheckPlan) -> None:
    for mode in ("L", "CMYK"):
        whole = jpeg(textured(1).convert(mode))
        assert check(whole, plan) == ""
        assert check(zeroed(whole, 0.5, 0.25), plan) == "damaged"


def test_odd_metadata_is_no_damage_and_hides_none(plan: CheckPlan) -> None:
    """libjpeg warns of them too, and only its first warning of a photo can be seen."""
    whole = encoded(1, "JPEG", quality=90)
    revision = whole.index(b"JFIF\0") + 5
    scan = whole.index(b"\xff\xda") + 2
    scan += int.from_bytes(whole[scan : scan + 2], "big")
    for odd in (
        whole[:revision] + b"\x07" + whole[revision + 1 :],  # a JFIF of version 7
        whole[: scan - 3] + b"\0\0\0" + whole[scan:],  # coefficients 0 to 0 of a baseline JPEG
    ):
        assert check(odd, plan) == ""
        assert check(zeroed(odd, 0.5, 0.25), plan) == "damaged"


def test_jpeg_whose_brightness_is_shifted(plan: CheckPlan) -> None:
    """A changed bit of a difference shifts all blocks after it, and libjpeg does not warn."""
    patches = np.random.default_rng(0).integers(0, 5, (30, 40), dtype=np.uint8) * 60
    whole = jpeg(Image.fromarray(patches).resize((320, 240), Image.Resampling.BICUBIC))
    place, faults = random.Random(0), []
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[place.randrange(len(whole) // 4, len(whole) - 2)] ^= 1 << place.randrange(8)
        faults.append(fault_of(bytes(damaged)))
    assert sum(fault.startswith("blocks of the JPEG are darker") for fault in faults) >= 5


def test_extreme_photos_are_no_damage(plan: CheckPlan) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (240, 320, 3), dtype=np.uint8) * 255
    stripes = np.zeros((240, 320, 3), dtype=np.uint8)
    stripes[::2] = 255
    halves = np.zeros((240, 320, 3), dtype=np.uint8)
    halves[:, 163:] = 255
    for pixels in (noise, stripes, halves):
        for settings in JPEGS.values():
            for quality in (1, 10, 50, 90, 100):
                whole = jpeg(Image.fromarray(pixels), quality=quality, **settings)
                assert check(whole, plan) == "", (settings, quality)


def test_white_page_is_no_damage(plan: CheckPlan) -> None:
    page = Image.new("RGB", (900, 1000), "white")
    for settings in JPEGS.values():
        assert check(jpeg(page, **settings), plan) == ""


def test_warnings_of_the_decoder_are_seen() -> None:
    assert warnings_pass()


def test_other_output_is_passed_on(capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    import os

    import cv2

    real = cv2.imdecode

    def loud(*arguments):
        os.write(2, b"a word from another thread\n")
        return real(*arguments)

    monkeypatch.setattr(cv2, "imdecode", loud)
    assert fault_of(encoded(1, "JPEG")) == ""
    assert fault_of(zeroed(encoded(1, "JPEG"), 0.5, 0.25)) != ""
    assert capfd.readouterr().err == "a word from another thread\n" * 2


def test_png_with_a_wrong_checksum(plan: CheckPlan) -> None:
    whole = encoded(1, "PNG")
    assert check(whole, plan, "x.png") == ""
    assert check(whole + b"more", plan, "x.png") == ""
    start, stored = random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[start.randrange(33, len(whole))] ^= 1 << start.randrange(8)
        stored += check(bytes(damaged), plan, "x.png") == ""
    assert stored == 0
    assert check(zeroed(whole, 0.5, 0.45), plan, "x.png")
    assert check(whole[:-12], plan, "x.png") == "truncated"


def test_gif_webp_and_tiff(plan: CheckPlan) -> None:
    gif = encoded(1, "GIF")
    assert check(gif, plan, "x.gif") == ""
    assert check(gif[:-40], plan, "x.gif") == "truncated"
    webp = encoded(1, "WEBP")
    assert check(webp, plan, "x.webp") == ""
    assert check(webp[:-40], plan, "x.webp") != ""
    tiff = encoded(1, "TIFF", compression="tiff_adobe_deflate")
    assert check(tiff, plan, "x.tif") == ""
    place = random.Random(0)
    for _ in range(20):
        damaged = bytearray(tiff)
        damaged[place.randrange(300, len(tiff) - 300)] ^= 16
        assert check(bytes(damaged), plan, "x.tif") != ""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of clean photos, with two damaged ones and a text among them."""
    folder = class_folders(tmp_path / "in", {"a": 10, "b": 10})
    (folder / "a" / "grey.jpg").write_bytes(zeroed(encoded(1, "JPEG"), 0.5, 0.25))
    (folder / "b" / "noise.png").write_bytes(zeroed(encoded(2, "PNG"), 0.9, 0.02))
    (folder / "b" / "a text.jpg").write_text("no photo")
    return folder


def test_damaged_photos_are_left_out_and_shown_first(source: Path, tmp_path: Path) -> None:
    info = run(source, tmp_path / "set")
    assert problems(tmp_path / "set")["grey.jpg"] == "damaged"
    assert info["left_out"]["damaged"] == 1 + (info["left_out"].get("damaged", 0) == 2)
    report = (tmp_path / "set" / "report.html").read_text(encoding="utf-8")
    assert report.index("<b>damaged (quarantined)") < report.index("<b>not_an_image (quarantined)")
    with pytest.raises(RunFailed, match=r"grey.jpg: damaged \(the JPEG decoder warns: "):
        run(source, tmp_path / "strict", strict=True)


def test_keep_damaged(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "set", keep_damaged=True)
    kept = {row["source"]: row for row in rows(tmp_path / "set") if row["repairs"]}
    assert "damaged" in kept["a/grey.jpg"]["repairs"]
    assert dataset_info(tmp_path / "set")["repaired"]["damaged"] >= 1
    with pytest.raises(RunFailed, match=r"grey.jpg: .*damaged"):
        run(source, tmp_path / "strict", keep_damaged=True, strict=True)


def test_a_decoder_without_warnings_is_noted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pool, "warnings_pass", lambda: False)
    info = run(class_folders(tmp_path / "in", {"a": 6, "b": 6}), tmp_path / "set", workers=1)
    assert any("not checked for damage" in note for note in info["notes"])


def test_sets_of_an_older_release_are_still_complete(tmp_path: Path) -> None:
    """They do not record the options that are new."""
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    dest = tmp_path / "set"
    run(source, dest)
    text = (dest / "dataset.yaml").read_text(encoding="utf-8")
    older = [line for line in text.splitlines() if "keep_damaged" not in line]
    (dest / "dataset.yaml").write_text("\n".join(older), encoding="utf-8")
    assert summarise(source, dest).unchanged

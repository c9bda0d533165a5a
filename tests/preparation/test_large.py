"""Large tiled TIFFs under --keep-size: kept byte for byte, checked tile by tile."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
from making import class_folders, dataset_info, picture, problems, rows, run, save, tree_digest
from PIL import Image
from pyramids import (
    add_harmless_tag,
    claim_size,
    cut_tile,
    lose_tiles,
    smooth_pixels,
    vips,
    write_pyramid,
)

from stacked_ram.images import opening
from stacked_ram.preparation import large
from stacked_ram.preparation.perceptual import fingerprint

LIMIT = 0.05  # megapixels, for --max-megapixels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of ordinary photos, each with a pyramid of 300 x 200 pixels."""
    folder = class_folders(tmp_path / "in", {"a": 3, "b": 3})
    for seed, name in enumerate("ab"):
        write_pyramid(folder / name / "slide.tif", smooth_pixels(200, 300, seed))
    return folder


def prepared(source: Path, dest: Path, **more) -> dict:
    return run(source, dest, keep_size=True, max_megapixels=LIMIT, **more)


def test_training_and_preparation_agree_on_what_is_large() -> None:
    assert large.MOST_WHOLE == opening.LARGE


def test_large_tiffs_are_kept_byte_for_byte(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    info = prepared(source, out)
    assert not info["left_out"] and not info["repaired"]
    by_source = {row["source"]: row for row in rows(out)}
    assert len(by_source) == 8
    for seed, name in enumerate("ab"):
        row = by_source[f"{name}/slide.tif"]
        content = (source / name / "slide.tif").read_bytes()
        assert row["path"].endswith("/slide.tif") and (out / row["path"]).read_bytes() == content
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert (row["width"], row["height"]) == ("300", "200")
        pixels_HWC = smooth_pixels(200, 300, seed)
        expected = fingerprint(Image.fromarray(pixels_HWC))
        assert (int(row["phash"], 16) ^ expected.phash).bit_count() <= 4
    assert prepared(source, out) == info, "a second run changes nothing"
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2


def test_large_tiffs_of_a_data_set_are_not_decoded_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(source, tmp_path / "out")
    before = rows(tmp_path / "out")
    decoded = []
    decode = large.fingerprint_tiles
    monkeypatch.setattr(
        large, "fingerprint_tiles", lambda path: decoded.append(path) or decode(path)
    )
    write_pyramid(source / "a/new.tif", smooth_pixels(200, 300, 7))
    prepared(source, tmp_path / "out", overwrite=True)
    assert len(decoded) == 1
    assert {row["sha256"] for row in before} < {row["sha256"] for row in rows(tmp_path / "out")}
    assert not list(tmp_path.glob(".out*"))


def test_mean_and_std_count_the_pixels_of_large_photos(tmp_path: Path, monkeypatch) -> None:
    source = class_folders(tmp_path / "in", {"b": 3})
    (source / "a").mkdir()
    for seed in range(3):
        write_pyramid(source / "a" / f"{seed}.tif", smooth_pixels(400, 520, seed))
    info = prepared(source, tmp_path / "out")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    train = [row for row in rows(tmp_path / "out") if row["split"] == "train"]
    pixels = []
    for row in train:
        with Image.open(tmp_path / "out" / row["path"]) as image:
            pixels.append(np.asarray(image).reshape(-1, 3) / 255)
    pixels_N3 = np.concatenate(pixels)
    assert np.allclose(info["mean"], pixels_N3.mean(0), atol=2e-3)
    assert np.allclose(info["std"], pixels_N3.std(0), atol=2e-3)


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "jpeg", "Q": 90}, {"compression": "deflate"}, {"bigtiff": True},
        {"subifd": True}, {"tile_width": 128, "tile_height": 32},
    ],
    ids=str,
)  # fmt: skip
def test_kinds_of_tiled_tiff(source: Path, tmp_path: Path, how: dict) -> None:
    write_pyramid(source / "a" / "kind.tif", smooth_pixels(1300, 1100, 5), **how)
    prepared(source, tmp_path / "out")
    assert not problems(tmp_path / "out")
    [row] = [row for row in rows(tmp_path / "out") if row["source"] == "a/kind.tif"]
    assert (row["width"], row["height"]) == ("1100", "1300")


def test_grayscale_rotated_and_wrongly_named(source: Path, tmp_path: Path) -> None:
    grey = smooth_pixels(200, 300, 7, channels=1)
    write_pyramid(source / "a" / "grey.tif", grey)
    write_pyramid(source / "a" / "named.jpg", smooth_pixels(190, 280, 8))
    turned = vips().Image.new_from_array(smooth_pixels(200, 320, 9)).copy()
    turned.set_type(vips().GValue.gint_type, "orientation", 6)
    turned.tiffsave(str(source / "b" / "turned.tif"), tile=True, pyramid=True, tile_width=64,
                    tile_height=64)  # fmt: skip
    header = large.tiled_header(source / "b" / "turned.tif")
    assert (header.width, header.height, header.orientation) == (320, 200, 6)
    prepared(source, tmp_path / "out")
    by_source = {row["source"]: row for row in rows(tmp_path / "out")}
    assert by_source["a/grey.tif"]["repairs"] == ""
    assert by_source["a/named.jpg"]["repairs"] == "wrong_suffix"
    assert by_source["a/named.jpg"]["path"].endswith("named.tif")
    size = by_source["b/turned.tif"]["width"], by_source["b/turned.tif"]["height"]
    assert size == ("200", "320"), "upright, not as stored"


def test_a_size_larger_than_its_tiles_is_refused(source: Path, tmp_path: Path) -> None:
    claim_size(source / "a" / "slide.tif", 50_000)
    prepared(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"slide.tif": "unreadable"}


@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_tile_anywhere_is_found(source: Path, tmp_path: Path, level: int) -> None:
    lose_tiles(source / "a" / "slide.tif", level)
    prepared(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"slide.tif": "unreadable"}
    [row] = [row for row in rows(tmp_path / "out", "report.csv") if row["problem"]]
    assert "decoded" not in row["detail"], "no path of the working folder"


@pytest.mark.parametrize("how", [{}, {"compression": "jpeg"}, {"compression": "deflate"}], ids=str)
def test_a_cut_tile_at_the_end_of_the_file_is_found(
    source: Path, tmp_path: Path, how: dict
) -> None:
    path = write_pyramid(source / "a" / "cut.tif", smooth_pixels(200, 300, 5), **how)
    cut_tile(path)
    prepared(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"cut.tif": "unreadable"}


def test_a_harmless_warning_loses_no_photo(source: Path, tmp_path: Path, caplog) -> None:
    for path in (source / "a" / "slide.tif", source / "b" / "slide.tif"):
        add_harmless_tag(path)
        with caplog.at_level(logging.WARNING, "pyvips"):
            vips().Image.new_from_file(str(path))
    assert "65000" in caplog.text
    save(picture(900), source / "a" / "small.tif", tiffinfo={65000: "anything"})
    info = prepared(source, tmp_path / "out")
    assert not info["left_out"] and not info["repaired"].keys() - {"reencoded"}
    kept = [row["path"] for row in rows(tmp_path / "out") if row["path"].endswith(".tif")]
    assert len(kept) == 2


def test_bombs_are_refused_before_decoding(source: Path, tmp_path: Path) -> None:
    claim_size(source / "a" / "slide.tif", 200_000)
    Image.new("RGB", (400, 300)).save(source / "a" / "strips.tif")
    save(picture(9, (400, 300)), source / "b" / "large.png")
    prepared(source, tmp_path / "out")
    assert problems(tmp_path / "out") == dict.fromkeys(
        ["slide.tif", "strips.tif", "large.png"], "too_many_pixels"
    )


@pytest.mark.parametrize("how", [{}, {"keep_size": True, "scene": "64x48"}], ids=str)
def test_without_keep_size_large_photos_are_reduced(
    source: Path, tmp_path: Path, how: dict
) -> None:
    if "scene" in how:
        for number in range(6):
            save(picture(500 + number), tmp_path / "behind" / f"{number}.jpg")
        how = {**how, "background": tmp_path / "behind", "clutter": 0}
    run(source, tmp_path / "out", max_megapixels=LIMIT, **how)
    assert problems(tmp_path / "out") == {"slide.tif": "too_many_pixels"}


def test_without_pyvips_the_refusal_says_what_to_install(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(large, "has_vips", lambda: False)
    info = prepared(source, tmp_path / "out")
    assert info["left_out"] == {"too_many_pixels": 2}
    details = [row["detail"] for row in rows(tmp_path / "out", "report.csv") if row["problem"]]
    assert all("requirements-large.txt" in detail for detail in details)


def test_memory_is_limited_to_a_few_tiles(tmp_path: Path) -> None:
    """9,000 x 9,000 pixels are 243 MB; decoding may take at most a tenth of that."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "large.tif"
    photo = vips().Image.black(9000, 9000).new_from_image([10, 90, 200]).cast("uchar")
    photo.copy(interpretation="srgb").tiffsave(
        str(path), tile=True, pyramid=True, compression="jpeg"
    )
    small = write_pyramid(tmp_path / "small.tif", smooth_pixels(64, 64))
    large.fingerprint_tiles(small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, preview, size = large.fingerprint_tiles(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert size == (9000, 9000) and preview
    assert np.allclose(np.array(found.channel_sums) / 81e6, [10, 90, 200], atol=1.5)
    assert grown < 60_000, f"{grown} KiB"


def test_duplicates_and_conflicts_among_large_photos(source: Path, tmp_path: Path) -> None:
    (source / "b" / "slide.tif").write_bytes((source / "a" / "slide.tif").read_bytes())
    info = prepared(source, tmp_path / "out")
    assert info["left_out"] == {"conflict": 2}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "two labels" in page and page.count("no picture") == 0
    assert dataset_info(tmp_path / "out")["counts"]["train"]["a"] > 0
    assert tree_digest(tmp_path / "out")

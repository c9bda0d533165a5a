"""Every faulty file is either repaired to upright 8-bit sRGB or quarantined with its problem."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import jpeg, picture, save
from PIL import Image, ImageCms

from stacked_ram.preparation.boxes import clip_box, stored_box
from stacked_ram.preparation.checked import Checked, CheckPlan
from stacked_ram.preparation.checks import check_photo


@pytest.fixture
def plan(tmp_path: Path) -> CheckPlan:
    folder = tmp_path / "decoded"
    folder.mkdir()
    return CheckPlan(folder, short_side=64, quality=92, max_pixels=1_000_000)


def stored(checked: Checked, plan: CheckPlan) -> Image.Image:
    image = Image.open(plan.folder / checked.file)
    image.load()
    return image


def difference(first: Image.Image, second: Image.Image) -> float:
    a, b = (np.asarray(image.convert("RGB"), dtype=float) for image in (first, second))
    return float(np.abs(a - b).mean())


def png_of(width: int, height: int, bits: int, raw: bytes) -> bytes:
    """Return an RGB PNG with this header and the pixel data `raw`."""
    header = struct.pack(">2I5B", width, height, bits, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(raw), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_clean_small_photo_is_kept_byte_for_byte(tmp_path: Path, plan: CheckPlan) -> None:
    for name in ("a.jpg", "b.png"):
        path = save(picture(1), tmp_path / name)
        checked = check_photo(path, plan)
        assert (checked.problem, checked.repairs) == ("", ())
        assert (plan.folder / checked.file).read_bytes() == path.read_bytes()
        assert checked.sha256 == checked.source_sha256


@pytest.mark.parametrize(
    ("mode", "suffix", "word"),
    [
        ("L", ".jpg", "grayscale"), ("CMYK", ".jpg", "cmyk"), ("P", ".png", "palette"),
        ("RGBA", ".png", "transparency"), ("LA", ".png", "transparency"),
        ("1", ".png", "grayscale"), ("I;16", ".png", "16_bit"),
        ("LAB", ".tif", "colour_space"), ("F", ".tif", "16_bit"), ("CMYK", ".tif", "cmyk"),
    ],
)  # fmt: skip
def test_modes_become_rgb(
    tmp_path: Path, plan: CheckPlan, mode: str, suffix: str, word: str
) -> None:
    original = picture(2)
    if mode == "I;16":
        values = np.asarray(original.convert("L"), dtype=np.uint16) * 257
        image, original = Image.fromarray(values), original.convert("L")
    elif mode == "F":
        image, original = original.convert("F"), original.convert("L")
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            original, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )  # fmt: skip
    else:
        image = original.convert(mode)
        if mode not in ("CMYK", "RGBA"):
            original = image
    checked = check_photo(save(image, tmp_path / f"x{suffix}"), plan)
    assert checked.problem == ""
    assert word in checked.repairs
    result = stored(checked, plan)
    assert result.mode == "RGB"
    assert result.size == (48, 36)
    if mode != "LAB":  # Pillow converts LAB back only with a profile
        assert difference(result, original) < 6


def test_transparent_parts_are_white(tmp_path: Path, plan: CheckPlan) -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 20))
    result = stored(check_photo(save(image, tmp_path / "x.png"), plan), plan)
    assert result.getpixel((2, 2)) == (0, 0, 255)
    assert result.getpixel((15, 15)) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    path = save(palette, tmp_path / "p.png", transparency=0)
    checked = check_photo(path, plan)
    assert {"palette", "transparency"} <= set(checked.repairs)
    assert stored(checked, plan).getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bit_colour_is_reported(tmp_path: Path, plan: CheckPlan) -> None:
    raw = b"".join(b"\0" + struct.pack(">3H", 65535, 32896, 0) * 8 for _ in range(8))
    path = tmp_path / "x.png"
    path.write_bytes(png_of(8, 8, 16, raw))
    checked = check_photo(path, plan)
    assert checked.repairs == ("16_bit", "few_grey_levels")
    assert stored(checked, plan).getpixel((3, 3)) == (255, 128, 0)


def test_other_colour_profiles_are_applied_and_srgb_is_kept(
    tmp_path: Path, plan: CheckPlan
) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    checked = check_photo(save(picture(3), tmp_path / "s.jpg", icc_profile=srgb), plan)
    assert checked.repairs == ()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = check_photo(save(picture(3), tmp_path / "b.jpg", icc_profile=b"nonsense"), plan)
    assert broken.problem == ""
    assert difference(stored(broken, plan), picture(3)) < 6
    assert check_photo(save(picture(3), tmp_path / "l.jpg", icc_profile=lab), plan).problem == ""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(48, 36), (200, 150)])
def test_exif_rotation_applies_to_photo_and_box(
    tmp_path: Path, plan: CheckPlan, orientation: int, size: tuple[int, int]
) -> None:
    """A white box on black must be found where the rotated and scaled box says."""
    width, height = size
    box = (width // 8, height // 3, width // 2, height // 3 + height // 4)
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    exif = Image.Exif()
    exif[274] = orientation
    for suffix in (".jpg", ".png", ".tif"):
        checked = check_photo(save(image, tmp_path / f"x{suffix}", exif=exif), plan)
        assert checked.problem == ""
        assert ("exif_rotation" in checked.repairs) == (orientation != 1), suffix
        found = np.argwhere(np.asarray(stored(checked, plan).convert("L")) > 127)
        assert (checked.raw_width, checked.raw_height) == size, suffix
        scale = min(1, 64 / height)
        upright = (height, width) if orientation >= 5 else (width, height)
        reduced = tuple(round(scale * side) for side in upright)
        assert (checked.width, checked.height) == reduced, suffix
        left, top, right, bottom = stored_box(
            " ".join(map(str, (*box, *size))), checked.raw_width, checked.raw_height,
            checked.orientation, *reduced,
        )  # fmt: skip
        measured = (*found.min(axis=0)[::-1], *(found.max(axis=0)[::-1] + 1))
        assert np.abs(np.array(measured) - (left, top, right, bottom)).max() <= 1.01, suffix


def test_large_photos_are_reduced_and_small_ones_never_enlarged(
    tmp_path: Path, plan: CheckPlan
) -> None:
    checked = check_photo(save(picture(4, (300, 200)), tmp_path / "x.jpg", quality=95), plan)
    assert (checked.width, checked.height) == (96, 64)
    assert checked.repairs == ("reduced",)
    exact = picture(4, (300, 200)).resize((96, 64), Image.Resampling.LANCZOS)
    assert difference(stored(checked, plan), exact) < 3
    small = check_photo(save(picture(4, (30, 20)), tmp_path / "y.jpg"), plan)
    assert (small.width, small.height, small.repairs) == (30, 20, ())


def test_draft_decoding_is_as_sharp(tmp_path: Path, plan: CheckPlan) -> None:
    """The JPEG decoder reduces photos above twice the short side; the result must be the same."""
    large = picture(5, (800, 640))
    checked = check_photo(save(large, tmp_path / "x.jpg", quality=95), plan)
    assert (checked.raw_width, checked.raw_height) == (800, 640)
    assert (checked.width, checked.height) == (80, 64)
    exact = large.resize((80, 64), Image.Resampling.LANCZOS)
    assert difference(stored(checked, plan), exact) < 3


def test_a_wrong_suffix_is_repaired_without_encoding(tmp_path: Path, plan: CheckPlan) -> None:
    path = tmp_path / "really a png.JPG"
    picture(6).save(path, "PNG")
    checked = check_photo(path, plan)
    assert checked.repairs == ("wrong_suffix",)
    assert checked.file.endswith(".png")
    assert (plan.folder / checked.file).read_bytes() == path.read_bytes()
    bare = tmp_path / "no suffix"
    picture(6).save(bare, "JPEG")
    assert check_photo(bare, plan).repairs == ("wrong_suffix",)


def test_animated_keeps_first_picture(tmp_path: Path, plan: CheckPlan) -> None:
    frames = [picture(seed) for seed in (7, 8, 9)]
    for name in ("x.gif", "x.webp", "x.png", "x.tif"):
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:])
        checked = check_photo(path, plan)
        assert "animated" in checked.repairs, name
        assert difference(stored(checked, plan), frames[0]) < 12, name


def test_other_formats_are_stored_as_jpeg_without_fault(tmp_path: Path, plan: CheckPlan) -> None:
    for name in ("x.bmp", "x.tif", "x.webp", "x.ppm"):
        checked = check_photo(save(picture(10), tmp_path / name), plan)
        assert checked.repairs == ("reencoded",), name
        assert checked.file.endswith(".jpg")
        assert stored(checked, plan).format == "JPEG"
        disguised = (tmp_path / name).rename(tmp_path / "disguised.png")
        checked = check_photo(disguised, plan)
        assert checked.repairs == ("wrong_suffix", "reencoded"), name
        assert stored(checked, plan).format == "JPEG"


QUARANTINED = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"this is not a picture at all", "not_an_image"),
    "page.png": (b"<!doctype html><title>404</title>", "not_an_image"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "not_an_image"),
    "start.jpg": (jpeg(picture(1))[:40], "truncated"),
    "half.jpg": (jpeg(picture(1, (200, 150)))[:2500], "truncated"),
    "no end.jpg": (jpeg(picture(1))[:-2], "truncated"),
    "bomb.png": (png_of(60_000, 60_000, 8, b""), "too_many_pixels"),
    "large.png": (png_of(1_001, 1_000, 8, b""), "too_many_pixels"),
    "dot.png": (None, "too_small"),
}


@pytest.mark.parametrize("name", QUARANTINED)
def test_quarantined(tmp_path: Path, plan: CheckPlan, name: str) -> None:
    content, word = QUARANTINED[name]
    path = tmp_path / name
    if content is None:
        picture(1, (1, 1)).save(path)
    else:
        path.write_bytes(content)
    checked = check_photo(path, plan)
    assert checked.problem == word
    assert checked.detail
    assert "\n" not in checked.detail
    assert not checked.file


def test_a_photo_that_ends_in_zeros_is_truncated(tmp_path: Path, plan: CheckPlan) -> None:
    """An interrupted download whose space was allocated in advance ends in zeros."""
    whole = jpeg(picture(1, (200, 150)))
    path = tmp_path / "x.jpg"
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    checked = check_photo(path, plan)
    assert checked.problem == "truncated"
    assert checked.preview, "the report shows the readable part"


def test_bytes_after_the_end_are_ignored(tmp_path: Path, plan: CheckPlan) -> None:
    """Phones append a video, whose bytes may look like the start of a scan."""
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(picture(1)) + b"ftypmp42\xff\xda\x00\x08film" * 50)
    assert check_photo(path, plan).problem == ""


def test_a_thumbnail_in_the_header_is_not_the_end(tmp_path: Path, plan: CheckPlan) -> None:
    inner = jpeg(picture(2, (16, 12)))
    segment = b"\xff\xe5" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = jpeg(picture(1, (200, 150)))
    with_thumbnail = whole[:2] + segment + whole[2:]
    path = tmp_path / "x.jpg"
    path.write_bytes(with_thumbnail)
    assert check_photo(path, plan).problem == ""
    path.write_bytes(with_thumbnail[: len(with_thumbnail) * 3 // 4])
    assert check_photo(path, plan).problem == "truncated"


def test_progressive_and_restart_markers_decode(tmp_path: Path, plan: CheckPlan) -> None:
    for settings_ in ({"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}):
        path = tmp_path / "x.jpg"
        path.write_bytes(jpeg(picture(3, (200, 150)), **settings_))
        assert check_photo(path, plan).problem == ""


def test_special_files(tmp_path: Path, plan: CheckPlan) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert check_photo(tmp_path / "pipe.jpg", plan).problem == "unreadable"


def test_a_failure_to_store_is_not_a_fault_of_the_photo(tmp_path: Path) -> None:
    nowhere = CheckPlan(tmp_path / "gone", 64, 92, 1_000_000)
    with pytest.raises(OSError, match="gone"):
        check_photo(save(picture(1), tmp_path / "x.jpg"), nowhere)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
)
def test_all_damage_is_found(
    tmp_path: Path, plan: CheckPlan, kind: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    """A file damaged in any way is quarantined with a reason or stored completely."""
    buffer = io.BytesIO()
    picture(11).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for place, change in flips:
        content[int(place * (len(content) - 1))] ^= change
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(content[: int(cut * len(content)) + 1]))
    checked = check_photo(path, plan)
    if checked.problem:
        assert checked.detail and not checked.file
    else:
        assert stored(checked, plan).size == (checked.width, checked.height)


def test_boxes_are_clipped_to_the_photo() -> None:
    assert clip_box((-5, 2, 200, 9), 100, 50) == (0, 2, 100, 9)
    assert clip_box((120, 2, 200, 9), 100, 50) is None


def test_a_photo_longer_than_a_jpeg_can_be_is_refused(tmp_path: Path, plan: CheckPlan) -> None:
    """One such photo must not end the preparation of all others."""
    for size, problem in (((8, 65_501), "too_many_pixels"), ((8, 65_500), "")):
        Image.new("L", size).save(tmp_path / "a.bmp")
        assert check_photo(tmp_path / "a.bmp", plan).problem == problem
    Image.new("RGB", (8, 65_501)).save(tmp_path / "a.png")  # stored as it is
    assert check_photo(tmp_path / "a.png", plan).problem == ""

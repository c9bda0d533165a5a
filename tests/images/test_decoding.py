from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from stacked_ram.images import decoding as read
from stacked_ram.images.colour import to_srgb
from stacked_ram.images.decoding import read_photo, reduced_size
from stacked_ram.runtime.errors import UserError

GRADIENT = np.linspace(0, 255, 60 * 40 * 3).reshape(60, 40, 3).astype(np.uint8)


def saved(path, pixels, **more):
    Image.fromarray(pixels).save(path, **more)
    return path


def test_pixels_as_stored(tmp_path):
    photo_CHW = read_photo(saved(tmp_path / "a.png", GRADIENT))
    assert photo_CHW.dtype == np.uint8 and photo_CHW.flags.c_contiguous
    assert (photo_CHW == GRADIENT.transpose(2, 0, 1)).all()


def test_short_side_reduces_and_never_enlarges(tmp_path):
    path = saved(tmp_path / "a.jpg", GRADIENT, quality=95)
    assert read_photo(path, short_side=20).shape == (3, 30, 20)
    assert read_photo(path, short_side=100).shape == (3, 60, 40)
    assert read_photo(path, photo_size=(16, 50)).shape == (3, 16, 50)
    assert reduced_size(1, 1000, 1, None) == (1, 1000)
    assert reduced_size(1000, 3, 2, None) == (667, 2)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reduction_is_antialiased(tmp_path, suffix):
    """A fine chessboard becomes grey, also with scaled JPEG decoding."""
    board = ((np.indices((96, 96)).sum(0) % 2) * 255).astype(np.uint8)
    path = saved(tmp_path / f"a.{suffix}", np.repeat(board[:, :, None], 3, 2))
    small_CHW = read_photo(path, short_side=20).astype(int)
    assert abs(small_CHW[:, 2:-2, 2:-2] - 127.5).max() < 12


def test_scaled_decoding_agrees_with_full_decoding(tmp_path):
    smooth = np.asarray(Image.fromarray(GRADIENT).resize((300, 400), Image.Resampling.BICUBIC))
    jpg, png = saved(tmp_path / "a.jpg", smooth, quality=98), saved(tmp_path / "a.png", smooth)
    a, b = read_photo(jpg, short_side=70), read_photo(png, short_side=70)
    assert a.shape == b.shape
    assert abs(a.astype(int) - b).mean() < 3


def test_grayscale_becomes_three_channels_or_stays_one(tmp_path):
    path = saved(tmp_path / "a.png", GRADIENT[:, :, 0])
    assert (read_photo(path) == GRADIENT[:, :, 0]).all() and len(read_photo(path)) == 3
    assert (read_photo(path, channels=1) == GRADIENT[None, :, :, 0]).all()
    assert read_photo(path, short_side=20, channels=1).shape == (1, 30, 20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_exif_rotation_is_applied_before_the_photo_is_reduced(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    pixels = GRADIENT.copy()
    pixels[:20] = 255
    path = saved(tmp_path / f"a.{suffix}", pixels, exif=exif, quality=95)
    turned = read_photo(path)
    assert turned.shape == (3, 40, 60)
    assert turned[:, :, -15:].min() > 200  # the top is now on the right
    assert read_photo(path, short_side=20).shape == (3, 20, 30)
    assert read_photo(path, photo_size=(10, 24)).shape == (3, 10, 24)
    read_photo(path, stored_size=(40, 60))


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "1", "L"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert read_photo(path).shape == (3, 60, 40)


def test_sixteen_bits_keep_their_range(tmp_path):
    values = np.linspace(0, 65535, 60 * 40).reshape(60, 40).astype(np.uint16)
    path = saved(tmp_path / "a.png", values)
    photo = read_photo(path)
    assert photo.min() == 0 and photo.max() == 255
    assert abs(photo[0].astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize("content", [b"", b"no photo at all", b"\x89PNG\r\n\x1a\n" + b"0" * 40])
def test_a_file_that_is_not_a_photo_is_named(tmp_path, content):
    path = tmp_path / "bad one.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad one") as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)


def test_truncated_missing_and_folder(tmp_path):
    path = saved(tmp_path / "a.jpg", GRADIENT, quality=95)
    path.write_bytes(path.read_bytes()[:400])
    for bad in (path, tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UserError, match=str(bad)):
            read_photo(bad)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", GRADIENT)
    monkeypatch.setattr(read, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match="more than 100 pixels"):
        read_photo(path)


def test_a_photo_whose_size_differs_from_the_manifest(tmp_path):
    path = saved(tmp_path / "a.png", GRADIENT)
    read_photo(path, stored_size=(60, 40))
    with pytest.raises(UserError, match=r"40x60 pixels, where manifest.csv says 60x40"):
        read_photo(path, stored_size=(40, 60))


@pytest.mark.parametrize(
    "more",
    [
        dict(quality=95), dict(quality=60, subsampling="4:2:0"), dict(progressive=True),
        dict(subsampling="4:4:4", restart_marker_blocks=3), dict(keep_rgb=True),
        dict(icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()),
    ],
    ids=["444", "420", "progressive", "restarts", "rgb", "profile"],
)  # fmt: skip
def test_a_jpeg_has_the_pixels_that_pillow_finds(tmp_path, more):
    noise = np.random.default_rng(0).integers(0, 256, (61, 43, 3), np.uint8)
    path = saved(tmp_path / "a.jpg", noise, **more)
    with Image.open(path) as image:
        expected_CHW = np.asarray(to_srgb(image)[0]).transpose(2, 0, 1)
    assert (read_photo(path) == expected_CHW).all()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_so_has_a_jpeg_of_other_colours(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (61, 43, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected_CHW = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert (read_photo(tmp_path / "a.jpg") == expected_CHW).all()


@pytest.mark.parametrize(
    ("said", "why"), [("odd box\n  at 378\n", "odd box at 378"), ("", "OSError")]
)
def test_what_a_decoder_says_is_one_line(tmp_path, monkeypatch, said, why):
    """libheif, for one, explains a damaged file in two lines."""

    def fail(*_, **__):
        raise OSError(said)

    path = saved(tmp_path / "a.png", GRADIENT)
    monkeypatch.setattr(read.Image, "open", fail)
    with pytest.raises(UserError) as error:
        read_photo(path)
    assert str(error.value) == f"{path}: cannot read this photo ({why}); leave it out"

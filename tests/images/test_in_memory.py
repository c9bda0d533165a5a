"""Photos in memory give the same pixels as their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stacked_ram.images.in_memory import array_image
from stacked_ram.images.opening import open_photo
from stacked_ram.runtime.errors import UserError


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("shape", [(30, 40, 3), (30, 40), (30, 40, 1)])
def test_arrays_tensors_and_images_are_reduced_as_their_file_is(tmp_path, shape, channels):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    tensor = torch.from_numpy(pixels)
    tensor = tensor.permute(2, 0, 1) if pixels.ndim == 3 else tensor
    image = array_image(pixels)
    image.save(tmp_path / "photo.png")
    expected_CHW = open_photo(tmp_path / "photo.png", short_side=20, channels=channels)
    assert expected_CHW.shape == (channels, 20, 27)
    for photo in (image, pixels, tensor, pixels / 255, tensor / 255):
        found_CHW = open_photo(photo, short_side=20, channels=channels)
        np.testing.assert_array_equal(found_CHW, expected_CHW)


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        (np.zeros((3, 30, 40), np.uint8), r"shape \(3, 30, 40\): an array is H x W x C"),
        (torch.zeros(30, 40, 3), r"shape \(30, 40, 3\): a tensor is C x H x W"),
        (np.zeros((0, 30, 3), np.uint8), r"shape \(0, 30, 3\)"),
        (np.full((30, 40), 2.0), "divide by 255"),
        (np.full((30, 40), np.nan), "divide by 255"),
        (np.zeros((30, 40), np.int64), "int64"),
        (b"photo", "bytes"),
    ],
)
def test_an_invalid_photo_is_named(photo, says):
    with pytest.raises(UserError, match=says):
        array_image(photo)


def test_an_image_is_rotated_upright_and_not_changed_itself(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was rotated by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        pixels_CHW = open_photo(turned, channels=1)
        assert turned.size == (3, 2)
    np.testing.assert_array_equal(pixels_CHW[0], np.rot90(np.asarray(image), -1))

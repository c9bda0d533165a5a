from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_digits, tiny_photos

# A job that a shell starts in the background ignores Ctrl-C; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 48, 18 and 18 tiny grayscale photos."""
    return tiny_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 18, 6 and 6 tiny colour photos with boxes."""
    return tiny_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts alike, whichever ran before it: the same random numbers, and Pillow's own
    limit of pixels (preparing photos in this process sets another)."""
    torch.manual_seed(0)
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_digits, tiny_photos


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 48, 18 and 18 tiny grayscale photos."""
    return tiny_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 18, 6 and 6 tiny colour photos with boxes."""
    return tiny_photos(tmp_path_factory.mktemp("data") / "photos")

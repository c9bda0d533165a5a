from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import save_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """An untrained run on the tiny colour photos."""
    return save_run(
        tmp_path_factory.mktemp("runs") / "first", photos, 3, num_glimpses=3,
        first_location="learned",
    )  # fmt: skip


@pytest.fixture(scope="session")
def other_run_folder(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "second", photos, 3, seed=1)


@pytest.fixture(scope="session")
def digits_run_folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "digits", digits, 1)

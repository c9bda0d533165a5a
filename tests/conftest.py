from __future__ import annotations

import gc
import logging
import os
import signal
from pathlib import Path

import pytest

# Tests under pytest -n keep the machine busy; so that no command says so among its own words.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from tiny import tiny_digits, tiny_photos

# A job that a shell starts in the background ignores Ctrl-C, and one under nohup SIGHUP; some tests
# send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Under pytest -n, each process and its children use an equal part of the cores.
processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if processes > 1:
    threads = max(1, torch.get_num_threads() // processes)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from searching what was imported again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in the same worker, so that their fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


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
    """Seed every test, and let all loggers be heard, whatever the tests before it did."""
    torch.manual_seed(0)
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("stacked_ram") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)

from __future__ import annotations

import os

import pytest

from stacked_ram.runtime import threads


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    for name in threads.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "PAUSE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.parametrize(
    ("running", "sleeps"), [([1] * 6, False), ([3, 1, 1, 1, 1, 1], False), ([3] * 6, True)]
)
def test_threads_sleep_only_beside_other_work(running, sleeps, capsys):
    counts = iter(running)
    threads.sleep_at_barriers_if_busy(lambda: next(counts))
    assert (os.environ.pop("GOMP_SPINCOUNT", None) == "0") == sleeps
    assert ("busy" in capsys.readouterr().err) == sleeps


@pytest.mark.parametrize("name", threads.SETTINGS)
def test_the_users_settings_are_kept(name, monkeypatch):
    monkeypatch.setenv(name, "1000")
    threads.sleep_at_barriers_if_busy(lambda: 100)
    assert os.environ[name] == "1000"
    assert sum(other in os.environ for other in threads.SETTINGS) == 1


def test_the_number_of_running_processes_includes_this_one():
    assert threads.running_processes() >= 1

"""Reading ahead: in order, within its limits, without deadlocks."""

from __future__ import annotations

import threading
import time

import pytest

from stacked_ram.images.read_ahead import read_ahead

SIZE = 10


def test_photos_come_in_order_for_any_reading_time():
    def read(name):
        time.sleep(0.002 * (int(name) % 3))
        return int(name)

    names = [str(number) for number in range(40)]
    for most_pixels in (0, SIZE, 1000):
        found = list(read_ahead(names, read, lambda _: SIZE, most=16, most_pixels=most_pixels))
        assert found == [(name, int(name)) for name in names]


def test_the_number_of_waiting_photos_is_limited():
    lock, made, taken, most_waiting = threading.Lock(), 0, 0, 0

    def read(name):
        nonlocal made, most_waiting
        with lock:
            made += 1
            most_waiting = max(most_waiting, made - taken)
        return name

    for _ in read_ahead(map(str, range(60)), read, lambda _: SIZE, most=40, most_pixels=3 * SIZE):
        taken += 1
        time.sleep(0.002)
    assert made == 60
    assert most_waiting <= 4 + 8 + 1  # waiting, being read, and handed over


def test_stopping_early_or_an_error_does_not_block():
    photos = read_ahead(map(str, range(50)), str, lambda _: SIZE, most=20, most_pixels=0)
    assert next(photos) == ("0", "0")
    photos.close()

    def read(name):
        if name == "3":
            raise OSError("gone")
        return name

    with pytest.raises(OSError, match="gone"):
        list(read_ahead(map(str, range(50)), read, lambda _: SIZE, most=20, most_pixels=0))

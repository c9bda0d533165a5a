"""Read photos ahead in threads, with limits on their number and memory."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Photo = TypeVar("Photo")

THREADS = 8


def read_ahead(
    names: Iterable[str],
    read: Callable[[str], Photo],
    pixels: Callable[[Photo], int],
    *,
    most: int,
    most_pixels: int,
) -> Iterator[tuple[str, Photo]]:
    """Iterate over (name, result of `read`), in order.

    pixels: returns how many pixels a photo holds in memory.
    most: how many names are read ahead.
    most_pixels: while waiting photos hold this many pixels, no further photo is begun. Photos that
        are being read may exceed it.
    """
    changed = threading.Condition()
    waiting: deque[tuple[str, Future]] = deque()
    kept, turn = 0, 0.0  # pixels that wait; the number of the next photo to hand over

    def work(number: int, name: str) -> Photo:
        nonlocal kept
        with changed:  # the next to be handed over never waits, so some thread always goes on
            changed.wait_for(lambda: kept <= most_pixels or number <= turn)
        photo = read(name)
        with changed:
            kept += pixels(photo)
        return photo

    def take() -> tuple[str, Photo]:
        nonlocal kept, turn
        name, future = waiting.popleft()
        photo = future.result()
        with changed:
            kept -= pixels(photo)
            turn += 1
            changed.notify_all()
        return name, photo

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        try:
            for number, name in enumerate(names):
                waiting.append((name, threads.submit(work, number, name)))
                if len(waiting) >= most:
                    yield take()
            while waiting:
                yield take()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            with changed:
                turn = math.inf  # nobody takes photos any more: no thread has to wait
                changed.notify_all()

"""Do work ahead in threads, such as reading photos, with limits on its number and memory."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Name = TypeVar("Name")
Photo = TypeVar("Photo")

THREADS = 8


def read_ahead(
    names: Iterable[Name],
    read: Callable[[Name], Photo],
    pixels: Callable[[Photo], int],
    *,
    most: int,
    most_pixels: int,
    threads: int = THREADS,
) -> Generator[tuple[Name, Photo], None, None]:
    """Iterate over (name, result of `read`), in order.

    pixels: returns how many pixels a photo holds in memory.
    most: how many names are read ahead.
    most_pixels: while waiting photos hold this many pixels, no further photo is begun. Photos that
        are being read may exceed it.
    threads: how many read at the same time, at most as many as there are processors.
    """
    changed = threading.Condition()
    waiting: deque[tuple[Name, Future[Photo]]] = deque()
    kept, turn = 0, 0.0  # pixels that wait; the number of the next photo to hand over

    def work(number: int, name: Name) -> Photo:
        nonlocal kept
        with changed:  # the next to be handed over never waits, so some thread always goes on
            changed.wait_for(lambda: kept <= most_pixels or number <= turn)
        photo = read(name)
        with changed:
            kept += pixels(photo)
        return photo

    def take() -> tuple[Name, Photo]:
        nonlocal kept, turn
        name, future = waiting.popleft()
        photo = future.result()
        with changed:
            kept -= pixels(photo)
            turn += 1
            changed.notify_all()
        return name, photo

    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        try:
            for number, name in enumerate(names):
                waiting.append((name, pool.submit(work, number, name)))
                if len(waiting) >= most:
                    yield take()
            while waiting:
                yield take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with changed:
                turn = math.inf  # nobody takes photos any more: no thread has to wait
                changed.notify_all()

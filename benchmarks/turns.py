"""The clock of the benchmarks whose works take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

WARM_UP = 2  # turns that do not count


def medians(works: dict[str, Callable], rounds: int, threads: int) -> dict[str, float]:
    """Median seconds of each, taking turns: of the processor with one thread, else of the clock."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + WARM_UP):
        for name, work in works.items():
            begun = clock()
            work()
            if turn >= WARM_UP:
                times[name].append(clock() - begun)
    return {name: statistics.median(values) for name, values in times.items()}

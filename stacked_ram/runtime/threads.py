"""OpenMP's threads on a machine that does something else too.

Torch's threads wait for each other at barriers, and GNU's OpenMP has them spin there. On a quiet
machine that is fastest: sleeping instead costs 1.3 to 1.9 times the time. Where other processes
want the cores, a spinning thread keeps out the one that it waits for: a training step then takes
many times as long (benchmarks/README.md, "A busy machine"). So they sleep only where, as a program
starts, other work is running.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # what a user may have decided already
SAMPLES, PAUSE = 6, 0.01  # looks at the machine, and seconds between two of them


def sleep_at_barriers_if_busy(count_running: Callable[[], int] | None = None) -> None:
    """Set GOMP_SPINCOUNT=0 for this process and its children if the machine is busy, and say so on
    standard error. Must be called before torch is imported; takes 0.05 s.

    Busy: on average of a few looks, other processes keep at least half of the cores running. Only
    Linux tells; elsewhere, and where the user has set either variable, nothing happens.
    count_running: how many processes run or want to, this one included.
    """
    if any(name in os.environ for name in SETTINGS):
        return
    count_running = count_running or running_processes
    others = []
    for _ in range(SAMPLES):
        others.append(count_running() - 1)
        time.sleep(PAUSE)
    if sum(others) / SAMPLES >= (os.cpu_count() or 1) / 2:
        os.environ["GOMP_SPINCOUNT"] = "0"
        print(
            "the machine is busy: threads sleep while they wait (GOMP_SPINCOUNT=0)", file=sys.stderr
        )


def running_processes() -> int:
    """Processes of the machine that run or want to run now; 1 where the system does not tell."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1

"""How worker processes are started."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext


def fresh_processes() -> BaseContext:
    """Return a way to start processes that share neither database nor threads with this one.

    On most systems they are forked from one new process, which loads once what they need. It starts
    at the first call, which does not wait for it: call this early.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stacked_ram.preparation.pool", "cv2"])
    forkserver.ensure_running()
    return context

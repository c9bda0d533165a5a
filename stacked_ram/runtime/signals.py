"""Ctrl-C and SIGTERM: finish the step, save, and say how to go on."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """The run was told to stop, and everything is saved. Exit code 130 (Ctrl-C) or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """Inside the `with`, the first signal is only noted; the second one ends the process."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.caught = 0
        """Number of the signal that came; 0: none."""
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> StopSignals:
        for one in self.SIGNALS:
            try:
                self._before[one] = signal.signal(one, self._note)
            except ValueError:  # not the main thread: the program around us handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._owner:  # a forked loader process leaves it to us
            self.caught = number
            self._restore()

"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, and print how to resume."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # the terminal was closed; Windows has no such signal
    STOP_SIGNALS.append(signal.SIGHUP)


class Stopped(SystemExit):
    """The run was stopped by a signal, and everything is saved. Exit code 130 (Ctrl-C), 143
    or 129."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """Inside the `with`, the first signal is only noted; the second ends the process."""

    def __init__(self) -> None:
        self.caught = 0
        """The number of the caught signal; 0: none."""
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> StopSignals:
        for number in STOP_SIGNALS:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if ignored and number not in (signal.SIGINT, signal.SIGTERM):  # SIGHUP, by nohup
                continue
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # outside the main thread Python allows no handlers
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._owner:  # forked loader processes ignore it
            self.caught = number
            self._restore()


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """Inside the `with`, the second Ctrl-C ends the process at once.

    Python handles signals only between its own steps, so it may never come to them while a decoder
    in C is running. A thread reads them here from where C leaves their numbers.
    """
    try:
        # A copy, because standard error is redirected while warnings of a C library are read.
        messages = os.dup(2)
    except OSError:  # it is closed
        messages = os.open(os.devnull, os.O_WRONLY)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    try:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    except ValueError:  # outside the main thread, which gets the signals
        reader.close()
        writer.close()
        os.close(messages)
        yield
        return

    def watch() -> None:
        interrupts = 0
        while numbers := reader.recv(64):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts >= 2:
                os.write(messages, b"stopped\n")
                os._exit(128 + signal.SIGINT)
        reader.close()
        os.close(messages)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()

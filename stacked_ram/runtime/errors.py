"""Errors that are shown to the user in one line, and the exit codes of entry points."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Misuse: one line that says what was wrong, where, and what to do. Exit code 2."""

    exit_code = 2


class RunFailed(UserError):
    """The command was right and the run failed (disk full, loss not finite). Exit code 1."""

    exit_code = 1


class NotWritten(RunFailed):
    """A file could not be written; the old file is kept. Exit code 1."""


def check(condition: bool, message: str) -> None:
    """Raise UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word that is nearest to a mistyped word, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def brief(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def run_entry_point(work: Callable[[], int | None]) -> int:
    """Run a command: a UserError becomes one line on stderr and its exit code."""
    try:
        try:
            code = work() or 0
        except OSError:
            flush_output()  # says so if that is what failed
            raise
        flush_output()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output (`| head`) has ended
        discard_output()
        return 0


def flush_output() -> None:
    """Write out what was printed. Raises NotWritten if that fails (disk full), and BrokenPipeError
    if nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise NotWritten(f"standard output: cannot be written ({error.strerror})") from None


def discard_output() -> None:
    """Let what is printed from now on, and what is in the buffer, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

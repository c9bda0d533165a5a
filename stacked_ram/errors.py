"""The one exception that is meant for the person at the keyboard, and how entry points end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """What was wrong, where (file, key, value) and what to do, in one line. Exit code 2."""


def run_entry_point(work: Callable[[], int | None]) -> int:
    """Run a command: a UserError becomes one line on stderr and exit code 2."""
    try:
        return work() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

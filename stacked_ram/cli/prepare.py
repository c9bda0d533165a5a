"""The command line of `prepare_data.py`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.runtime.errors import run_entry_point
from stacked_ram.runtime.program import program
from stacked_ram.runtime.signals import second_interrupt_ends
from stacked_ram.runtime.threads import sleep_at_barriers_if_busy


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, prepare; 0: done, 1: could not be finished, 2: misuse."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        import tyro

        options = tyro.cli(PrepareOptions, prog=program("prepare"), args=arguments)
        if options.inspect or options.canvas:
            sleep_at_barriers_if_busy()
        # What decodes photos is loaded only now, so that --help answers at once.
        from stacked_ram.preparation.pipeline import prepare

        command = shlex.join(["prepare_data.py", *arguments])
        summary = prepare(options, command=command, progress=True)
        print(summary)
        if summary.problem is not None:
            raise summary.problem
        return 0

    with second_interrupt_ends():
        return run_entry_point(work)

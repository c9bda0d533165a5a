"""The command line of `viz.py`. Nothing heavy is imported before the work begins."""

from __future__ import annotations

import sys

import tyro

from stacked_ram.cli.viz_options import Viz
from stacked_ram.runtime.errors import UserError, run_entry_point
from stacked_ram.runtime.program import program


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    return run_entry_point(lambda: work(tyro.cli(Viz, prog=program("viz"), args=arguments)))


def work(options: Viz) -> int:
    check(options)
    from stacked_ram.cli import viz_commands as commands

    commands.run(options)
    return 0


def check(options: Viz) -> None:
    """Refuse what cannot go together, before anything is loaded."""
    for name in ("limit", "glimpses"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is below 1")
    ways = [
        name for name in ("report", "app", "one_per_class", "compare") if getattr(options, name)
    ]
    if len(ways) > 1 and ways != ["app", "compare"]:
        given = " and ".join("--" + name.replace("_", "-") for name in ways)
        raise UserError(f"{given}: ask for one at a time")
    if options.one_per_class and options.named:
        raise UserError("--one-per-class: takes its photos from the data set; name none")

"""The export command: a trained model as programs that run without this code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError, check

EXAMPLE = (240, 320)  # of a photo, where no data set says how large photos are


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model's deterministic pass as programs that run without this code."""

    run: Positional[Path]
    """Run folder or file of weights."""
    out: Path | None = None
    """Folder for the programs and their card. Default: RUN/export."""
    size: tuple[int, int] | None = None
    """The only height and width of photos that they take. Default: any, or the run's photo_size."""
    batch_size: int | None = None
    """The only number of photos that they take at once. Default: any."""
    onnx: bool = True
    """Write ONNX too (needs requirements-export.txt)."""
    stop_at: float | None = None
    """Early exit: stop once a class has this probability, 0 to 1. The number of glimpses is then a
    third output."""
    int8: tuple[Literal["dynamic", "static"], ...] = ()
    """Write ONNX with weights of 8 bits too, and measure what that costs on the test split."""


def export(options: Export) -> None:
    """Write the programs and their card; prints the files. Raises UserError, RunFailed."""
    # late: `--help` answers without torch
    from stacked_ram.evaluation.cost import photo_cost, stored_size
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.runs.export import export as write_programs
    from stacked_ram.runs.onnx import INSTALL, missing_packages

    batch = options.batch_size
    check(batch is None or batch >= 1, f"--batch-size: {batch} is below 1")
    check(min(options.size or (1,)) >= 1, f"--size: {options.size} is not above 0")
    check(0 <= (options.stop_at or 0) <= 1, f"--stop-at: {options.stop_at} is not in 0 to 1")
    check(options.onnx or not options.int8, "--int8: is ONNX; leave out --no-onnx")
    missing = missing_packages() if options.onnx else []
    if missing and options.int8:
        raise UserError(f"--int8: needs {', '.join(missing)}: {INSTALL}")
    loaded = load_run(options.run, "cpu")
    only = options.size or loaded.config.data.photo_size
    size = only or stored_size(loaded.config)
    if size is None and loaded.model.needs_whole_photo:
        raise UserError(
            f"no data set at {loaded.config.data.dataset}, which would say how large photos are:"
            " give --size HEIGHT WIDTH"
        )
    files, note = write_programs(
        loaded,
        options.out or loaded.folder / "export",
        size or EXAMPLE,
        any_size=only is None,
        batch_size=batch,
        onnx=options.onnx and not missing,
        stop_at=options.stop_at,
        int8=options.int8,
        gmacs=None if size is None else photo_cost(loaded.model, *size).total,
    )
    for path in files:
        print(path)
    if note:
        print(f"note: {note}", file=sys.stderr)
    if missing:
        print(f"note: no ONNX, which needs {', '.join(missing)}: {INSTALL}", file=sys.stderr)

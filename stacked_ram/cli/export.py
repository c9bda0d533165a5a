"""The export command: a trained model as a program that runs without this code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError, check


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model's deterministic pass as a program that runs without this code."""

    run: Positional[Path]
    """Run folder or file of weights."""
    out: Path | None = None
    """Folder for the program and its description. Default: RUN/export."""
    size: tuple[int, int] | None = None
    """Height and width of the photos it takes. Default: those that the model was trained on."""
    batch_size: int = 1
    """Photos that it takes at once."""
    onnx: bool = False
    """Also write ONNX (needs the packages onnx and onnxscript)."""


def export(options: Export) -> None:
    """Write the program and its description; prints the files. Raises UserError, RunFailed."""
    # late: `--help` answers without torch
    from stacked_ram.evaluation.cost import photo_cost, stored_size
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.runs.export import export as write_program

    check(options.batch_size >= 1, f"--batch-size: {options.batch_size} is below 1")
    check(min(options.size or (1,)) >= 1, f"--size: {options.size} is not above 0")
    loaded = load_run(options.run, "cpu")
    size = options.size or stored_size(loaded.config)
    if size is None:
        raise UserError(
            f"no data set at {loaded.config.data.dataset}, which would say how large photos are:"
            " give --size HEIGHT WIDTH"
        )
    files = write_program(
        loaded,
        options.out or loaded.folder / "export",
        size,
        batch_size=options.batch_size,
        onnx=options.onnx,
        gmacs=photo_cost(loaded.model, *size).total,
    )
    for path in files:
        print(path)

"""The info command: layers, parameters and cost of a run or a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from stacked_ram.runtime.errors import check


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a run or a configuration: layers, parameters, GMACs."""

    what: Positional[Path]
    """Run folder, weights file, YAML file, or preset."""
    size: tuple[int, int] | None = None
    """Height and width of the photo that GMACs are counted on. Default: the data set's."""


def info(options: Info) -> None:
    """Print the description. Raises UserError."""
    from stacked_ram.evaluation.describe import describe  # late: `--help` answers without torch

    check(min(options.size or (1,)) >= 1, f"--size: {options.size} is not above 0")
    print(describe(options.what, options.size))

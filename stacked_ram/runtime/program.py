"""How the toolkit's programs are called here, for messages that can be pasted into a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

# Each program: the script in a clone, and the command that an installation brings.
PROGRAMS = {
    "main": ("main.py", "stacked-ram"),
    "prepare": ("prepare_data.py", "stacked-ram-prepare"),
    "viz": ("viz.py", "stacked-ram-viz"),
}


def program(name: Literal["main", "prepare", "viz"] = "main") -> str:
    """What to type for a program: `python main.py`, or `stacked-ram` where it is installed.

    It follows the program that is running; from Python, it is the clone's script where the package
    lies in a clone.
    """
    script, command = PROGRAMS[name]
    called = Path(sys.argv[0])
    if called.stem in {installed for _, installed in PROGRAMS.values()}:
        return command
    if called.name in {file for file, _ in PROGRAMS.values()}:
        return f"{Path(sys.executable).name} {called.with_name(script)}"
    in_clone = (Path(__file__).parents[2] / script).is_file()
    return f"{Path(sys.executable).name} {script}" if in_clone else command

"""Every script of examples/ runs as its docstring says, on small data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import raw_photos, tiny_config

from stacked_ram.config.yaml import to_dict

ROOT = Path(__file__).parents[2]


def small_config(path: Path) -> str:
    """Write the YAML file of a small model."""
    path.write_text(yaml.safe_dump(to_dict(tiny_config(path.parent))))
    return str(path)


# script -> arguments that make it small
SCRIPTS = {
    "quickstart.py": lambda home: [
        str(raw_photos(home / "my_photos")), small_config(home / "small.yaml"),
    ],
    "sklearn_digits.py": lambda home: ["1"],
    "own_retina.py": lambda home: [],
    "own_core.py": lambda home: [],
    "own_attention.py": lambda home: [],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *SCRIPTS[name](tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_every_example_is_tested():
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    # tests/training, tests/runs
    elsewhere = {"own_estimator.py", "own_training_loop.py", "run_onnx.py"}
    assert scripts == set(SCRIPTS) | elsewhere

"""Every script of examples/ runs as its docstring says, on small data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import CLASSES, SIZE, draw, tiny_config

from stacked_ram.config.yaml import to_dict

ROOT = Path(__file__).parents[2]


def photo_folder(folder: Path) -> str:
    """A folder for each class, as a user has it."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            # uneven backgrounds, so that no two photos are near duplicates
            background = Image.fromarray(rng.integers(0, 120, (3, 4, 3)).astype(np.uint8))
            pixels = np.array(background.resize((30, 24)))
            top, left = rng.integers(0, (24 - SIZE + 1, 30 - SIZE + 1))
            for channel in range(3):
                draw(pixels[top : top + SIZE, left : left + SIZE, channel], label)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg", quality=95)
    return str(folder)


def small_config(path: Path) -> str:
    """A YAML file of a small model."""
    path.write_text(yaml.safe_dump(to_dict(tiny_config(path.parent))))
    return str(path)


# Each script: the arguments that make it small.
SCRIPTS = {
    "quickstart.py": lambda home: [
        photo_folder(home / "my_photos"), small_config(home / "small.yaml"),
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


def test_no_example_is_forgotten():
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    elsewhere = {"own_estimator.py", "own_training_loop.py"}  # tests/training
    assert scripts == set(SCRIPTS) | elsewhere

"""Drawn photos with several labels each: shapes of several colours, and a CSV that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny import tiny_config

from stacked_ram.config.schema import Config

COLOURS = {"blue": (40, 60, 230), "green": (40, 200, 60), "red": (230, 40, 40)}
SIDE = 7


def draw_shapes(folder: Path, count: int = 48, seed: int = 0) -> Path:
    """Write photos with a square of each of their colours somewhere, and labels.csv."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["file,label"]
    for number in range(count):
        height, width = ((22, 28), (26, 22))[number % 2]
        background = Image.fromarray(rng.integers(0, 130, (3, 4, 3)).astype(np.uint8))
        pixels = np.array(background.resize((width, height)))
        has = [name for bit, name in enumerate(COLOURS) if number % 8 >> bit & 1]
        for place, name in enumerate(rng.permutation(has)):
            top = int(rng.integers(0, height - SIDE))
            left = int(rng.integers(0, width // 3 - SIDE + 1)) + place * (width // 3)
            pixels[top : top + SIDE, left : left + SIDE] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        lines.append(f"{number:03d}.png,{'|'.join(has)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def shapes_config(dataset: Path | str, **changes: object) -> Config:
    """A small model with a glance, after which it may stop."""
    model = {"patch_size": 6, "glance": (8, 8), "regions": (4, 4), "first_location": "learned"}
    training = {"epochs": 3, "rollouts": 2, "estimator": "leave_one_out", "reward": "drop"}
    return tiny_config(Path(dataset), **{**model, **training, **changes})

"""How long the commands take to answer: processor and clock seconds, the best of a few runs.

    python benchmarks/startup.py [--quick]

`predict` looks at one photo with a backbone of random weights; importing is part of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import repository  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
HELP, PREDICT = 1.0, 4.0  # seconds, by the clock on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of three commands")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = 1 if options.quick else options.runs
    with tempfile.TemporaryDirectory() as folder:
        weights, photo = made_run(Path(folder), "test_efficientnet" if options.quick else None)
        given = ["main.py", "predict", str(weights), str(photo), "--device", "cpu"]
        commands = {"main.py predict": (given, PREDICT)}
        names = ["main.py", "main.py train", "prepare_data.py", "viz.py"]
        for name in names[: 2 if options.quick else None]:
            commands[f"{name} --help"] = ([*name.split(), "--help"], HELP)
        print(f"{'':<26}{'CPU s':>7}{'clock s':>9}{'target':>8}")
        for name, (words, target) in commands.items():
            processor, clock = min(took(words) for _ in range(runs))
            print(f"{name:<26}{processor:7.2f}{clock:9.2f}{target:8.1f}", flush=True)


def took(words: list[str]) -> tuple[float, float]:
    """Processor and clock seconds of one command."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    clock = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(words)}: ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, clock


def made_run(folder: Path, backbone: str | None) -> tuple[Path, Path]:
    """A file of weights and a photo of 640 x 480."""
    import numpy as np
    from PIL import Image

    from stacked_ram.config.schema import Config, ModelConfig
    from stacked_ram.models.build import build_model
    from stacked_ram.runs.checkpoint import Metadata, save_weights

    config = Config(
        model=ModelConfig(
            retina="backbone", patch_size=96, **({"backbone": backbone} if backbone else {})
        )
    )
    classes = tuple("abcde")
    facts = {"channels": 3, "mean": (0.4,) * 3, "std": (0.25,) * 3}
    model = build_model(config.model, num_classes=len(classes), **facts)
    weights, photo = folder / "best.safetensors", folder / "photo.jpg"
    save_weights(weights, model.state_dict(), Metadata(config=config, classes=classes, **facts))
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    return weights, photo


if __name__ == "__main__":
    main()

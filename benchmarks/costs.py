"""What each preset costs, in one table: parameters, GMACs of a photo by torch's counter, photos/s
of training and of looking at photos (test, predict), and the memory that training takes.

    python benchmarks/costs.py [--quick] [--threads 1] [--out results/tables/preset_costs.csv]

No weights are loaded and no data set is needed: random photos as large as the preset says
(photo_size, 4:3 photos of short_side, or the digits' canvas) lie in memory, in batches of the
preset's size. Each preset is a process of its own. Training is whole steps (glimpses, gradients,
optimiser; nothing kept from epoch to epoch); the memory is what the resident memory grows by at
most (Linux). A preset whose photos are read piece by piece is measured on photos in memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas
import repository  # noqa: F401
import torch
from memory import peak
from turns import medians

from stacked_ram.config.resolve import resolve_auto
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config
from stacked_ram.evaluation.cost import count_parameters, photo_cost
from stacked_ram.models.build import build_model
from stacked_ram.ops.depthwise import use_fast_depthwise
from stacked_ram.runtime.devices import autocast, set_switches
from stacked_ram.training import estimators
from stacked_ram.training.optim import make_optimizer

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES = {
    "stanford_dogs": 120,
    "flowers17": 17,
    "scenes_flowers17": 17,
    "flowers5": 5,
    "bach": 4,
    "needle": 4,
    "streets_both": 4,
}  # others: 10

SHAPES = {  # of data sets whose photos are kept as they are stored
    "demo": (3, 72, 96),
    "needle": (3, 1536, 2048),
    "streets_both": (3, 576, 1360),
    "scenes_flowers17": (3, 768, 1024),
}


def photo_shape(config: Config) -> tuple[int, int, int]:
    """Channels, height and width of a preset's photos."""
    name = Path(config.data.dataset).name
    if config.data.photo_size is not None:
        return 3, *config.data.photo_size
    if config.data.short_side is not None:
        return 3, config.data.short_side, config.data.short_side * 4 // 3
    if name in SHAPES:
        return SHAPES[name]
    side = int((re.search(r"\d+$", name) or ["28"])[0])
    return 1, side, side


def row(name: str, config: Config, rounds: int, threads: int) -> dict[str, object]:
    channels, height, width = photo_shape(config)
    model = build_model(
        config.model,
        num_classes=CLASSES.get(Path(config.data.dataset).name, 10),
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        load_weights=False,
    )
    cost = photo_cost(model, height, width)
    parameters, trained = count_parameters(model)
    return {
        "preset": name,
        "photo": f"{height}x{width}",
        "parameters": parameters,
        "trained": trained,
        "glimpses": config.model.num_glimpses,
        "gmacs_before": round(cost.before, 6),
        "gmacs_per_glimpse": round(cost.per_glimpse, 6),
        "gmacs_core_per_glimpse": round(cost.core, 6),
        "gmacs_total": round(cost.total, 6),
        **speed(model, config, (channels, height, width), rounds, threads),
    }


def speed(model, config: Config, shape: tuple[int, int, int], rounds: int, threads: int) -> dict:
    """Photos/s and peak megabytes on random photos of this shape."""
    settings = config.training
    photos = settings.batch_size
    pixels = torch.randint(0, 256, (photos, *shape), dtype=torch.uint8)
    labels = torch.randint(0, model.num_classes, (photos,))
    if settings.precision == "bf16":  # as the training step does
        use_fast_depthwise(model)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, settings)
    device = torch.device("cpu")
    set_switches(settings, device)

    def train() -> None:
        model.train()
        with autocast(device, settings.precision):
            losses = next(estimators.losses(model, model.photos(pixels), labels, settings))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def look() -> None:
        model.eval()
        with torch.no_grad(), autocast(device, settings.precision):
            model(model.photos(pixels))

    memory = peak(lambda: (train(), train()))
    seconds = medians({"train": train, "look": look}, rounds, threads)
    return {
        "batch": photos,
        "precision": settings.precision,
        "train_photos_per_s": round(photos / seconds["train"], 1),
        "look_photos_per_s": round(photos / seconds["look"], 1),
        "train_memory_mb": round(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small presets, a step of each")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--preset", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 1 if options.quick else 5
    if options.preset:
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        config = resolve_auto(load_config(options.preset), torch.device("cpu"))
        print(json.dumps(row(options.preset, config, rounds, options.threads)))
        return
    names = ["demo", "mnist"] if options.quick else sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    flags = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    rows = []
    for name in names:
        command = [sys.executable, __file__, "--preset", name, *flags]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        rows.append(json.loads(done.stdout))
    table = pandas.DataFrame(rows)
    print(f"{options.threads} thread(s)\n{table.to_string(index=False)}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()

"""What taking glimpses costs: photos/s of whole training steps on the CPU, in one table.

    python benchmarks/glimpses.py [--quick] [--threads 1]

Steps (forward, backward, optimiser) at each of the paper's settings, batch 128. Each takes turns
with its `free` one, so that whatever else the machine does hits both alike, and both follow the
other: with all five in one round a step after the peers' pays for caches that these left cold.

    peers         glimpses cut in a Python loop over the batch (benchmarks/peers.py)
    peers, free   the same with the patches given as a constant
    ours          this package's model, glimpses and all
    ours, free    the same with the patches given as a constant
    kernel        only the glimpses: photos prepared, all steps read

The share is that of the step that the glimpses take: 1 - (step, free) / step. With one thread the
time is that of the processor, which a shared machine disturbs less; with more it is the clock's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import repository  # noqa: F401
import torch
from peers import PeerRAM
from turns import medians

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.models.build import build_model
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.ops.patches import Photos
from stacked_ram.training import estimators
from stacked_ram.training.optim import make_optimizer

BATCH = 128
SETTINGS = {28: (8, 1, 6), 60: (12, 3, 8), 100: (12, 4, 8)}  # side: patch_size, patches, steps


class GivenPatches(Photos):
    """Photos that answer every reading with the same patches."""

    def patches(self, locations_R2, geometry, dtype=None):
        if not hasattr(self, "given"):
            self.given = super().patches(locations_R2, geometry, dtype)
        return self.given


def peers_step(pixels, labels, setting, bf16: bool, free: bool) -> Callable[[], None]:
    size, patches, steps = setting
    model = PeerRAM(size, patches, steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    photos = pixels.float() / 255
    given = torch.rand(BATCH, patches * size * size) if free else None

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(photos, labels, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(pixels, labels, setting, bf16: bool, free: bool) -> Callable[[], None]:
    size, patches, steps = setting
    config = ModelConfig(
        patch_size=size, num_patches=patches, num_glimpses=steps, core="rnn", glimpse_scale=2.0
    )
    model = build_model(config, num_classes=10, channels=1, mean=[0.0], std=[1.0])
    training = TrainingConfig(step_losses="last")
    optimizer = make_optimizer(model, training)
    given = GivenPatches(pixels)

    def step() -> None:
        photos = given if free else model.photos(pixels)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for losses in estimators.losses(model, photos, labels, training):
                total = losses.total
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def kernel(pixels, setting) -> Callable[[], None]:
    size, patches, steps = setting
    geometry = GlimpseGeometry(size, patches)
    locations = [torch.rand(BATCH, 2) * 2 - 1 for _ in range(steps)]

    def run() -> None:
        photos = Photos(pixels)
        with torch.no_grad():
            for locations_R2 in locations:
                photos.patches(locations_R2, geometry)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of each only")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = 5 if options.quick else 40
    names = ("peers", "peers, free", "ours", "ours, free", "kernel")
    print(f"photos/s, batch {BATCH}, {options.threads} thread(s), median of {rounds} steps")
    heads = "".join(f"{name:>13}" for name in names)
    print(f"{'side':>4} {'precision':>9}{heads}{'glimpses':>10}{'kernel':>8}{'to peers':>9}")
    for side, setting in SETTINGS.items():
        pixels = torch.randint(0, 256, (BATCH, 1, side, side), dtype=torch.uint8)
        labels = torch.randint(0, 10, (BATCH,))
        for precision in ("float32", "bf16"):
            bf16 = precision == "bf16"
            peers = {
                "peers": peers_step(pixels, labels, setting, bf16, free=False),
                "peers, free": peers_step(pixels, labels, setting, bf16, free=True),
            }
            ours = {
                "ours": our_step(pixels, labels, setting, bf16, free=False),
                "ours, free": our_step(pixels, labels, setting, bf16, free=True),
            }
            seconds = {}
            for works in (peers, ours, {"kernel": kernel(pixels, setting)}):
                seconds |= medians(works, rounds, options.threads)
            rates = "".join(f"{BATCH / seconds[name]:13,.0f}" for name in names)
            share = 1 - seconds["ours, free"] / seconds["ours"]
            alone = seconds["kernel"] / seconds["ours"]
            ratio = seconds["peers"] / seconds["ours"]
            print(f"{side:4d} {precision:>9}{rates}{share:10.1%}{alone:8.1%}{ratio:9.2f}")


if __name__ == "__main__":
    main()

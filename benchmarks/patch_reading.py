"""Patches of whole-pixel cells read by sliding sums, and by windows: whole training steps.

    python benchmarks/patch_reading.py [--quick] [--threads 1] [--compiled]

On a CPU the compiled loop reads uint8 photos. Everything else with cells of whole pixels is read by
sliding sums (ops/sliding_sums.py): feature maps (`stack: conv`), photos given as floats,
everything under torch.compile and on a GPU. The general way (ops/windows.py) could read them too.
Steps of both take turns; a ratio above 1 says how much slower a step is by windows.

Also printed: how many tensor operations one reading launches, both ways. In a CUDA graph that is
nearly the number of kernels, and at a batch of 128 a GPU waits for their number, not their work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import repository  # noqa: F401
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from turns import medians

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.models.build import build_model
from stacked_ram.ops import patches
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.ops.patches import Photos
from stacked_ram.training import estimators
from stacked_ram.training.optim import make_optimizer

SLIDING_PIXELS = {"sliding sums": patches.SLIDING_PIXELS, "windows": 0}
DENSE_28 = dict(patch_size=8, num_patches=1, num_glimpses=6, core="rnn")
DENSE_60 = dict(patch_size=12, num_patches=3, num_glimpses=8, core="rnn")
FLOWERS = dict(
    retina="conv", patch_size=40, num_patches=3, what_size=256, stack="conv", num_levels=3,
    kernel_size=3, map_channels=16, core="lstm", num_glimpses=4,
)  # fmt: skip
CASES = {  # model's fields, batch, channels, side, whether photos are floats, bf16
    "stack: conv, 60x60 digits": ({**DENSE_60, "stack": "conv", "num_levels": 2}, 64, 1, 60, 0, 0),
    "stack: conv, flowers5_conv_224": (FLOWERS, 8, 3, 224, 0, 1),
    "float photos, 28x28 digits": (DENSE_28, 128, 1, 28, 1, 0),
    "float photos, 60x60 digits": (DENSE_60, 128, 1, 60, 1, 0),
}
COMPILED = {
    "torch.compile, 28x28 digits": (DENSE_28, 128, 1, 28, 0, 0),
    "torch.compile, 60x60 digits": (DENSE_60, 128, 1, 60, 0, 0),
}


def reading_by(way: str, step: Callable[[], None]) -> Callable[[], None]:
    """The step with every reading outside the compiled loop made in this way."""

    def run() -> None:
        patches.SLIDING_PIXELS = SLIDING_PIXELS[way]
        try:
            step()
        finally:
            patches.SLIDING_PIXELS = SLIDING_PIXELS["sliding sums"]

    return run


def training_step(
    fields: dict, batch: int, channels: int, side: int, floats: bool, bf16: bool, compiled: bool
) -> Callable[[], None]:
    config = ModelConfig(**fields)
    mean, std = [0.4] * channels, [0.25] * channels
    if floats:  # normalised already
        mean, std = [0.0] * channels, [1.0] * channels
    model = build_model(config, num_classes=10, channels=channels, mean=mean, std=std)
    settings = TrainingConfig(step_losses="last")
    optimizer = make_optimizer(model, settings)
    pixels = torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch,))
    given = pixels.float() / 255 if floats else pixels

    def loss_of(pixels: Tensor, labels: Tensor) -> Tensor:
        photos = Photos(pixels) if floats else model.photos(pixels)
        return next(estimators.losses(model, photos, labels, settings)).total

    loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(bf16)):
            total = loss(given, labels)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class Counted(TorchDispatchMode):
    """Counts operations but for views, which launch nothing."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        return result


def operations(way: str, fields: dict, side: int) -> int:
    """Operations of a second reading, when what is made once a batch has been made.

    The photos are floats with their gradient off: a CPU reads these as a GPU reads any.
    """
    geometry = GlimpseGeometry(fields["patch_size"], fields["num_patches"])
    photos, locations_R2 = Photos(torch.rand(8, 1, side, side)), torch.rand(8, 2) * 2 - 1
    counter = Counted()

    def read() -> None:
        photos.patches(locations_R2, geometry)

    reading_by(way, read)()
    with counter:
        reading_by(way, read)()
    return counter.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a step of each, no large photos")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="under torch.compile (minutes)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    for fields, side in ((DENSE_28, 28), (DENSE_60, 60)):
        counts = {way: operations(way, fields, side) for way in SLIDING_PIXELS}
        print(f"operations of one reading at {side}x{side}: {counts}")
    print(f"\n{'ms a step':<34}" + "".join(f"{way:>14}" for way in SLIDING_PIXELS) + "   ratio")
    for name, case in (COMPILED if options.compiled else CASES).items():
        if options.quick and case[3] > 100:
            continue
        works = {}
        for way in SLIDING_PIXELS:
            torch.manual_seed(0)
            works[way] = reading_by(way, training_step(*case, compiled=options.compiled))
        seconds = medians(works, rounds, options.threads)
        ratio = seconds["windows"] / seconds["sliding sums"]
        print(f"{name:<34}" + "".join(f"{1e3 * s:14.1f}" for s in seconds.values())
              + f"{ratio:8.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""The peak memory of a training step, beside a fine-tuned backbone's.

    python benchmarks/memory.py [--quick] [--backbone tf_efficientnet_lite0]

Each case is a process of its own that takes two steps. On the CPU the figure is what the process's
resident memory grew by (Linux), on CUDA the most that was allocated, weights included.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import repository  # noqa: F401

PATCH, PATCHES, GLIMPSES, PHOTO = 96, 2, 6, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two photos, a tiny backbone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=16, help="of a batch")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.photos = "test_efficientnet", 2
    if options.case:
        print(f"{measure(options):.1f}")
        return
    print(f"{options.backbone}, {options.photos} photos of {PHOTO} x {PHOTO}; {GLIMPSES} glimpses"
          f" of {PATCHES} {PATCH}-pixel patches; {options.device}")  # fmt: skip
    cases = {
        "photos": "fine-tuned backbone, the whole photos",
        "patches": "fine-tuned backbone, all patches at once",
        "ours": "this model",
        "checkpoint": "this model, activation_checkpointing",
    }
    if options.quick:
        cases = {case: cases[case] for case in ("photos", "checkpoint")}
    found: dict[str, float] = {}
    for case, title in cases.items():
        command = [sys.executable, __file__, "--case", case, "--device", options.device,
                   "--backbone", options.backbone, "--photos", str(options.photos)]  # fmt: skip
        found[case] = float(subprocess.run(command, check=True, capture_output=True).stdout)
        print(f"{title:<42}{found[case]:9.1f} MB{found[case] / found['photos']:8.2f}")


def measure(options: argparse.Namespace) -> float:
    """Peak megabytes of two steps of one case."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    step = make_step(options, device)

    def two_steps() -> None:
        step()
        step()

    if device.type != "cuda":
        return peak(two_steps)
    torch.cuda.reset_peak_memory_stats()
    two_steps()
    return torch.cuda.max_memory_allocated() / 1e6


def peak(work: Callable[[], object]) -> float:
    """Megabytes by which the resident memory grows at most during some work (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Megabytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024 / 1e6


def make_step(options: argparse.Namespace, device):
    import torch
    from torch import nn

    from stacked_ram.config.schema import ModelConfig, TrainingConfig
    from stacked_ram.models.build import build_model
    from stacked_ram.training import estimators

    config = ModelConfig(
        retina="backbone", backbone=options.backbone, patch_size=PATCH, num_patches=PATCHES,
        num_glimpses=GLIMPSES,
    )  # fmt: skip
    facts = {"num_classes": 10, "channels": 3, "mean": [0.4] * 3, "std": [0.25] * 3}
    model = build_model(config, **facts).to(device).train()
    shape = (options.photos, 3, PHOTO, PHOTO)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (options.photos,), device=device)
    if options.case in ("photos", "patches"):
        trained = nn.Sequential(model.backbone, nn.Linear(model.backbone.out_features, 10))
        images, answers = torch.randn(shape, device=device), labels
        if options.case == "patches":
            count = options.photos * PATCHES * GLIMPSES
            images = torch.randn(count, 3, PATCH, PATCH, device=device)
            answers = torch.randint(0, 10, (count,), device=device)
        trained.to(device)

        def loss_of():
            return nn.functional.cross_entropy(trained(images), answers)
    else:
        trained = model
        model.activation_checkpointing = options.case == "checkpoint"

        def loss_of():
            return next(
                estimators.losses(model, model.photos(pixels), labels, TrainingConfig())
            ).total

    optimizer = torch.optim.AdamW(trained.parameters(), fused=True)

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()

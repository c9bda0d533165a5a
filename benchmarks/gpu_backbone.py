"""The part `backbone` of gpu.py: patches through a backbone, beside the backbone alone."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator

import torch
from gpu_parts import Row, Sizes, clocked, repeat
from torch import Tensor, nn

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.models.build import build_model
from stacked_ram.training import estimators
from stacked_ram.training.cuda_graphs import WARM_UP, StepGraph


def backbone(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    if importlib.util.find_spec("timm") is None:
        yield {"what": "", "left out": "no timm"}
        return
    sizes, device = Sizes(options.quick), torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    config = ModelConfig(
        retina="backbone", backbone=sizes.backbone, patch_size=96, num_patches=2,
        num_glimpses=1 if options.quick else 4,
    )  # fmt: skip
    side = 112 if options.quick else 224
    pixels = torch.randint(0, 256, (sizes.photos, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (sizes.photos,), device=device)
    calls = config.num_glimpses
    patches = torch.randn(sizes.photos * config.num_patches, 3, 96, 96, device=device)
    patches = patches.to(memory_format=torch.channels_last)
    facts = {"num_classes": 10, "channels": 3, "mean": [0.4] * 3, "std": [0.25] * 3}
    model = build_model(config, **facts).to(device, memory_format=torch.channels_last)
    twin = build_model(config, **facts).to(device, memory_format=torch.channels_last)
    head = nn.Linear(twin.backbone.out_features, 10).to(device)
    answers = labels.repeat_interleave(config.num_patches, 0)
    settings = TrainingConfig()

    def ours(pixels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            photos = model.photos(pixels)
            loss = next(estimators.losses(model, photos, labels, settings)).total
        update(loss, optimizers[0])

    def random_calls(patches: Tensor) -> None:
        """As many patches in as many calls."""
        with torch.autocast(device.type, torch.bfloat16):
            logits = [head(twin.backbone(patches)) for _ in range(calls)]
            loss = sum(nn.functional.cross_entropy(one.float(), answers) for one in logits)
        update(loss, optimizers[1])

    def random_one_call(patches: Tensor) -> None:
        """As many patches in one call."""
        with torch.autocast(device.type, torch.bfloat16):
            logits = head(twin.backbone(patches.repeat(calls, 1, 1, 1)))
            loss = nn.functional.cross_entropy(logits.float(), answers.repeat(calls))
        update(loss, optimizers[1])

    cuda = device.type == "cuda"
    trained = [list(model.parameters()), [*twin.backbone.parameters(), *head.parameters()]]
    optimizers = [torch.optim.AdamW(each, fused=True, capturable=cuda) for each in trained]
    count, rates = len(patches) * calls, {}
    for name, step, given in (
        ("random, as many calls", random_calls, patches),
        ("random, one call", random_one_call, patches),
        ("ours", ours, pixels),
    ):
        for graph in (False, True):
            run = StepGraph(step) if graph else step
            times = 1 if options.quick else 10
            for _ in range(1 if options.quick else WARM_UP + 3):
                run(given)
            taken = clocked(lambda r=run, n=times, g=given: repeat(r, n, g))
            way = f"{name}{', graph' if graph else ''}"
            rates[way] = count * times / taken
            row = {"what": way, "patches/s": rates[way]}
            if name == "ours":
                row["to as many calls"] = (
                    rates[way] / rates[way.replace(name, "random, as many calls")]
                )
                row["to one call"] = rates[way] / rates[way.replace(name, "random, one call")]
            yield row


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

"""The part `check` of gpu.py: correctness."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from gpu_digits import SETTINGS, Digits, made_digits, paper_model
from gpu_parts import Row, Sizes
from torch import Tensor

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.ops.patches import Photos
from stacked_ram.training import losses
from stacked_ram.training.cuda_graphs import StepGraph


def check(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    """Each row has an error and the most it may be; one above it raises."""
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for side, (size, patches, steps) in SETTINGS.items():
        torch.manual_seed(side)
        pixels = torch.randint(0, 256, (32, 1, side, side), dtype=torch.uint8)
        labels = torch.randint(0, 10, (32,))
        # on a grid that float32 holds exactly, so that boxes snap alike in both precisions
        locations = (torch.randint(-64, 65, (32, steps, 1, 2)) + 0.25) / 64
        geometry = GlimpseGeometry(size, patches)
        exact = Photos(pixels.double() / 255)
        ours = Photos(pixels.to(device))
        found = ours.patches(locations[:, 0, 0].to(device), geometry)
        wanted = exact.patches(locations[:, 0, 0].double(), geometry)
        yield bounded(f"patches {side}", apart([found], [wanted]), 1e-6)

        model = paper_model(side)
        reference = paper_model(side).double()
        reference.load_state_dict(model.state_dict())
        one = given_loss(model.to(device), ours, labels.to(device), locations.to(device))
        other = given_loss(reference, exact, labels, locations.double())
        yield bounded(f"loss {side}", apart([one], [other]), 1e-5)
        gradients = [[p.grad for p in each.parameters()] for each in (model, reference)]
        yield bounded(f"gradients {side}", apart(*gradients), 1e-4)
    sizes = Sizes(options.quick)
    data = made_digits(sizes.batch + 5, device)
    for side in SETTINGS:
        ways = []
        for graph in (False, True):
            work = Digits(side, data, sizes.batch, bf16=False)
            rows = torch.arange(sizes.batch, device=device)
            step: Callable = StepGraph(work.step, warm_up=2) if graph else work.step
            for number in range(5):
                torch.manual_seed(10 + number)
                step(rows + number)
            ways.append(list(work.model.parameters()))
        yield bounded(f"graph to eager {side}", apart(*ways), 1e-3)


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative distance, all values as one vector."""
    one = torch.cat([each.detach().double().cpu().flatten() for each in found])
    other = torch.cat([each.detach().double().cpu().flatten() for each in wanted])
    return float((one - other).norm() / other.norm())


def bounded(what: str, error: float, most: float) -> Row:
    if not error <= most:
        raise AssertionError(f"{what}: off by {error:.2e}, at most {most:.0e} is right")
    return {"what": what, "off": f"{error:.1e}", "limit": f"{most:.0e}"}


def given_loss(model: RAM, photos: Photos, labels: Tensor, locations: Tensor) -> Tensor:
    """The whole REINFORCE loss of a scan path that is given, differentiated."""
    settings = TrainingConfig(step_losses="all")
    trace = model(photos, locations_BTS2=locations)
    returns = losses.returns(trace, labels, "drop")
    policy = losses.policy_loss(trace, returns - trace.baselines_BT.detach())
    loss = losses.total_loss(trace, labels, settings, None, returns, policy).total
    loss.backward()
    return loss

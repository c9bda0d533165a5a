"""What a photo costs: multiply-accumulates counted by torch, and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stacked_ram.config.schema import Config, DataConfig
from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.remote import dataset_folder
from stacked_ram.images.decoding import reduced_size
from stacked_ram.models.programs import as_networks
from stacked_ram.ops.patches import Photos

LARGEST = 4096  # side of the photo that stands for any larger one


@dataclass(frozen=True)
class Cost:
    """GMACs of one photo, everything that torch's counter knows (matrix products, convolutions):
    the glance and feature maps, each glimpse with all its patches, and the core. Bringing pixels
    to size stands by itself, as no figure of a plain network counts how its photos were resized."""

    total: float
    per_glimpse: float
    """Of one glimpse, the choice of its place included; the mean over the steps."""
    before: float
    """What is done once, before the first glimpse: the glance and the feature maps."""
    core: float = 0.0
    """The part of per_glimpse that the core takes."""
    reading: float = 0.0
    """Not in total: the area averages that make the glance and all patches, as matrix products."""


@torch.no_grad()
def photo_cost(model: Any, height: int, width: int) -> Cost:
    """The cost of one photo of this size, counted on one pass."""
    device = next(model.parameters()).device
    if not model.needs_whole_photo:  # nothing but patches and the glance is computed
        height, width = min(height, LARGEST), min(width, LARGEST)
    pixels = torch.zeros(1, len(model.mean), height, width, dtype=torch.uint8, device=device)
    was_training = model.training
    model.eval()
    total, core = gmacs(lambda: model(model.photos(pixels)))
    before, core_before = gmacs(lambda: model.start(model.photos(pixels)))
    of_glance, of_glimpse = reading(model, model.photos(pixels))  # the part of the counts above
    glance_products, glimpse_products = reading(model, model.photos(pixels.float()))
    model.train(was_training)
    steps = model.num_glimpses
    return Cost(
        total=total - of_glance - steps * of_glimpse,
        per_glimpse=(total - before) / steps - of_glimpse,
        before=before - of_glance,
        core=(core - core_before) / steps,
        reading=glance_products + steps * glimpse_products,
    )


def reading(model: Any, photos: Photos) -> tuple[float, float]:
    """GMACs of making the glance's image, and one glimpse's patches."""
    of_glance = of_glimpse = 0.0
    if model.glance is not None:
        of_glance, _ = gmacs(lambda: photos.resized(model.glance.size))
    centre_12 = torch.zeros(1, 2, device=photos.device)
    for retina in (level.retina for level in model.levels):
        view = retina.view(photos)
        read = retina.geometry if model.has_policy else retina.smooth_geometry
        for surface in view.surfaces:
            of_glimpse += gmacs(partial(surface.patches, centre_12, read))[0]
    return of_glance, of_glimpse


def gmacs(work: Callable[[], Any]) -> tuple[float, float]:
    """GMACs of all that is done, and of the cores in it.

    Attention is done by plain matrix products meanwhile: torch's counter knows none of the fused
    kernels that a processor would take instead, and would count them as free.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            as_networks(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    cores = [
        sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.endswith(".core")
    ]
    return counter.get_total_flops() / 2e9, sum(cores) / 2e9


def typical_size(dataset: Dataset, data: DataConfig) -> tuple[int, int]:
    """(height, width) of the photo of a split whose area, as the model gets it, is nearest to the
    mean: what is done on whole photos costs as their areas do. (Medians of heights and of widths
    would make a square of portraits and landscapes.)"""
    sizes, counts = np.unique(dataset.sizes, axis=0, return_counts=True)
    reduced = np.array(
        [reduced_size(h, w, data.short_side, data.photo_size) for h, w in sizes.tolist()]
    )
    areas = reduced.prod(axis=1)
    height, width = reduced[np.abs(areas - np.average(areas, weights=counts)).argmin()].tolist()
    return height, width


def stored_size(config: Config) -> tuple[int, int] | None:
    """(height, width) of the photos that a model gets: as configured, or of a typical photo of the
    training split; None where the data set is not on this machine."""
    if config.data.photo_size is not None:
        return config.data.photo_size
    folder = dataset_folder(config.data.dataset)
    if not (folder / "dataset.yaml").is_file():
        return None
    return typical_size(open_dataset(config.data, "train"), config.data)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)

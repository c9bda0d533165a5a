"""Small models of every variant, and photos for them."""

from __future__ import annotations

import torch

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.ops.patches import Photos

BACKBONE = "test_efficientnet"  # a hundred thousand parameters
SMALL = dict(
    patch_size=4,
    num_patches=2,
    what_size=16,
    where_size=8,
    feature_size=16,
    core_size=16,
    map_channels=8,
    num_glimpses=3,
)
GLANCE = dict(glance=(16, 24))

VARIANTS = {
    "dense": {},
    "dense_rnn_core": dict(core="rnn"),
    "dense_gru_core": dict(core="gru"),
    "dense_sum_core": dict(core="sum"),
    "dense_transformer_core": dict(core="transformer"),
    "conv": dict(retina="conv"),
    "fraction": dict(patch_unit="fraction", patch_width=0.3),
    "stack_rnn_own": dict(stack="rnn", num_levels=3, first_location="learned"),
    "stack_rnn_shared": dict(stack="rnn", num_levels=3, stack_location="shared"),
    "stack_rnn_categorical": dict(stack="rnn", num_levels=2, policy="categorical", **GLANCE),
    "stack_rnn_shared_categorical": dict(
        stack="rnn", num_levels=2, stack_location="shared", policy="categorical", **GLANCE
    ),
    "stack_conv": dict(stack="conv", num_levels=3),
    "stack_conv_map_only": dict(stack="conv", num_levels=2, levels=(1,), retina="conv"),
    "backbone": dict(retina="backbone", backbone=BACKBONE, patch_size=16, num_glimpses=2),
    "backbone_mean": dict(
        retina="backbone", backbone=BACKBONE, patch_size=16, num_glimpses=2, combine="mean"
    ),
    "backbone_glance": dict(
        retina="backbone", backbone=BACKBONE, patch_size=16, num_glimpses=2, glance=(64, 64),
        regions=(2, 2), policy="categorical", first_location="learned",
    ),
    "stack_backbone": dict(stack="backbone", backbone=BACKBONE, num_levels=3),
    "soft": dict(attention="soft", start_size=2, **GLANCE),
    "soft_stack_conv": dict(attention="soft", stack="conv", num_levels=2, **GLANCE),
    "glance_core": dict(first_location="learned", **GLANCE),
    "glance_location": dict(first_location="learned", glance_starts="location", **GLANCE),
    "glance_stack_rnn": dict(stack="rnn", num_levels=2, **GLANCE),
    "gaussian_map": dict(policy_reads="map", first_location="learned", **GLANCE),
    "categorical": dict(policy="categorical", first_location="learned", **GLANCE),
    "zoom": dict(policy="categorical", first_location="learned", num_zooms=2, **GLANCE),
    "glance_of_the_policy": dict(
        policy="categorical", first_location="learned", policy_trains_glance=True, **GLANCE
    ),
    "cells_of_the_state": dict(policy="categorical", regions=(4, 5)),
    "learned_stop": dict(learned_stop=True, first_location="centre"),
}  # fmt: skip

HARD = {name for name, values in VARIANTS.items() if values.get("attention") != "soft"}


def config_of(name: str, **changes) -> ModelConfig:
    return ModelConfig(**{**SMALL, **VARIANTS[name], **changes})


def make(name: str, seed: int = 0, num_classes: int = 3, channels: int = 3, **changes) -> RAM:
    torch.manual_seed(seed)
    return build_model(
        config_of(name, **changes),
        num_classes=num_classes,
        channels=channels,
        mean=(0.4,) * channels,
        std=(0.25,) * channels,
    )


def pixels(batch: int = 3, height: int = 40, width: int = 52, channels: int = 3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def batch_of(sizes: list[tuple[int, int]], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return photos of these (height, width) in a batch padded with zeros, and their sizes."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for index, (h, w) in enumerate(sizes):
        images[index, :, :h, :w] = pixels(1, h, w, seed=seed + index)[0]
    return images, torch.tensor(sizes)


def forward(model: RAM, images: torch.Tensor, sizes: torch.Tensor | None = None, **how):
    return model(photos_of(model, images, sizes), **how)


def photos_of(model: RAM, images: torch.Tensor, sizes: torch.Tensor | None = None) -> Photos:
    return model.photos(images, sizes)


def spread_the_policy(model: RAM) -> None:
    """Give the policies large random weights, because initially they are nearly uniform."""
    with torch.no_grad():
        for level in model.levels:
            for name, parameter in (level.attention or torch.nn.Module()).named_parameters():
                if name.endswith("weight"):
                    parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(7))

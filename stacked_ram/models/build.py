"""From a configuration to a model: which rooms are put together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.attention.hard import CategoricalPolicy, GaussianPolicy
from stacked_ram.models.attention.soft import SoftAttention
from stacked_ram.models.core import CORES
from stacked_ram.models.glance import Glance
from stacked_ram.models.ram import RAM, Level
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.maps import BackboneMaps, ConvMaps
from stacked_ram.models.retina.retina import Retina
from stacked_ram.models.retina.what import BackboneWhat, ConvWhat, DenseWhat
from stacked_ram.ops.geometry import GlimpseGeometry


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    load_weights: bool = True,
) -> RAM:
    """The model that a configuration describes.

    mean, std: of the data, C values in 0..1 units. A backbone with weights brings its own.
    load_weights: False where a checkpoint's weights are loaded next.
    Raises UserError if the backbone or its weights cannot be had.
    """
    weights = config.weights if load_weights else "none"
    backbone = None
    if config.retina == "backbone":
        backbone = Backbone(config.backbone, weights, frozen=config.freeze_backbone)
    glance = None
    if config.glance is not None:
        glance = Glance(
            config.glance,
            config.regions,
            channels=channels,
            feature_size=config.feature_size,
            backbone=backbone,
            stride=config.glance_stride,
            starts_core=config.glance_starts == "core",
        )
    levels = [
        build_level(config, index, channels, backbone, glance, weights)
        for index in range(config.num_levels if config.stack == "rnn" else 1)
    ]
    pretrained = backbone or levels[0].retina.maps
    if config.weights != "none" and isinstance(pretrained, Backbone | BackboneMaps):
        mean, std = pretrained.mean[:channels], pretrained.std[:channels]
    return RAM(
        config,
        levels,
        glance,
        num_classes=num_classes,
        mean=tuple(mean),
        std=tuple(std),
        backbone=backbone,
    )


def build_level(
    config: ModelConfig,
    index: int,
    channels: int,
    backbone: Backbone | None,
    glance: Glance | None,
    weights: str,
) -> Level:
    retina = build_retina(config, index, channels, backbone, weights)
    top = index == config.num_levels - 1 or config.stack != "rnn"
    below = 0 if index == 0 else config.core_size
    core = CORES[config.core](config.feature_size + below, config.core_size)
    moves = top or config.stack_location == "own"
    return Level(retina, core, build_attention(config, glance) if moves else None)


def build_retina(
    config: ModelConfig, index: int, channels: int, backbone: Backbone | None, weights: str
) -> Retina:
    # stack rnn: level s sees the photo pooled by 2^s, so its patches are 2^s times wider
    distance = 2**index * (config.start_size if config.attention == "soft" else 1)
    geometry = GlimpseGeometry(
        patch_size=config.patch_size,
        num_patches=config.num_patches,
        glimpse_scale=config.glimpse_scale,
        patch_unit=config.patch_unit,
        patch_width=config.patch_width * distance,
        snap=config.attention == "hard",
    )
    maps = build_maps(config, channels, weights)
    return Retina(
        geometry,
        [build_what(config, width, backbone) for width in (maps.channels if maps else [channels])],
        maps=maps,
        where_size=config.where_size,
        feature_size=config.feature_size,
    )


def build_maps(config: ModelConfig, channels: int, weights: str) -> ConvMaps | BackboneMaps | None:
    levels = config.levels or tuple(range(config.num_levels))
    if config.stack == "conv":
        return ConvMaps(
            channels=channels,
            num_levels=config.num_levels,
            map_channels=config.map_channels,
            kernel_size=config.kernel_size,
            levels=levels,
        )
    if config.stack == "backbone":
        return BackboneMaps(
            config.backbone,
            weights,
            frozen=config.freeze_backbone,
            num_levels=config.num_levels,
            levels=levels,
            channels=channels,
        )
    return None


def build_what(config: ModelConfig, channels: int, backbone: Backbone | None) -> nn.Module:
    if config.retina == "backbone":
        return BackboneWhat(backbone, num_patches=config.num_patches, combine=config.combine)
    kind = DenseWhat if config.retina == "dense" else ConvWhat
    return kind(
        channels=channels,
        num_patches=config.num_patches,
        patch_size=config.patch_size,
        out_features=config.what_size,
    )


def build_attention(config: ModelConfig, glance: Glance | None) -> nn.Module:
    state, regions = config.core_size, config.regions
    region_features = glance.region_features if config.reads_map else None
    if config.attention == "soft":
        return SoftAttention(state, region_features=region_features, regions=regions)
    if config.policy == "categorical":
        return CategoricalPolicy(state, region_features=region_features, regions=regions)
    return GaussianPolicy(state, config.std, region_features=region_features, regions=regions)

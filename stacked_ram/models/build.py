"""Build a model from a configuration: make the parts that it names, and put them together."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stacked_ram.config.model import PARTS, ModelConfig
from stacked_ram.models.attention.hard import CategoricalPolicy, GaussianPolicy
from stacked_ram.models.attention.soft import SoftAttention
from stacked_ram.models.core import CORES
from stacked_ram.models.glance import Glance
from stacked_ram.models.level import Level
from stacked_ram.models.protocols import Attention, Core, Retina
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.maps import BackboneMaps, ConvMaps
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.models.retina.what import BackboneWhat, ConvWhat, DenseWhat, What
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.runtime.errors import UserError


def build_model(
    config: ModelConfig,
    *,
    num_classes: int,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    load_weights: bool = True,
    multi_label: bool = False,
) -> RAM:
    """Build an untrained model: `build_model(config, num_classes=5)(images_BCHW)` gives a Trace.

    Args:
        channels: of the photos (C), 3 or 1.
        mean, std: of the photos' values, C of each, in 0..1 units; None: 0.5 each. A backbone with
            weights brings its own.
        load_weights: False leaves a backbone without the weights that the configuration names.
        multi_label: whether a photo may have several classes, or none.

    Raises UserError if the backbone, its weights or a part of one's own are not available.
    """
    mean = (0.5,) * channels if mean is None else mean
    std = (0.5,) * channels if std is None else std
    weights = config.weights if load_weights else "none"
    backbone = None
    if config.retina == "backbone":
        patch = (config.patch_size, config.patch_size)
        only = config.glance is None or config.glance_stride is not None or config.glance == patch
        backbone = Backbone(
            config.backbone, weights, frozen=config.freeze_backbone, size=patch if only else None
        )
        backbone.check_size("patch_size", patch)
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
    pretrained = backbone or getattr(levels[0].retina, "maps", None)
    if config.weights != "none" and isinstance(pretrained, Backbone | BackboneMaps):
        mean, std = pretrained.mean[:channels], pretrained.std[:channels]
    model = RAM(
        levels=levels,
        glance=glance,
        glance_starts=config.glance_starts,
        glance_dropout=config.glance_dropout,
        policy_trains_glance=config.policy_trains_glance,
        num_classes=num_classes,
        num_glimpses=config.num_glimpses,
        first_location=config.first_location,
        dropout=config.dropout,
        learned_stop=config.learned_stop,
        mean=mean,
        std=std,
        multi_label=multi_label,
    )
    model.config = config
    return model


def build_level(
    config: ModelConfig,
    index: int,
    channels: int,
    backbone: Backbone | None,
    glance: Glance | None,
    weights: str,
) -> Level:
    """Build level number `index` of the stack; without stack rnn there is only number 0."""
    retina = build_retina(config, index, channels, backbone, weights)
    top = index == config.num_levels - 1 or config.stack != "rnn"
    features = config.feature_size + (0 if index == 0 else config.core_size)
    sizes = {"in_features": features, "out_features": config.core_size}
    core: Core
    if config.core in CORES:
        core = CORES[config.core](**sizes)
    else:
        core = import_part("core", config.core, config.core_options, **sizes)
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
        snap=config.snap and config.attention != "soft",
    )
    if config.retina not in PARTS["retina"]:
        return import_part(
            "retina", config.retina, config.retina_options,
            channels=channels, geometry=geometry, feature_size=config.feature_size,
        )  # fmt: skip
    maps = build_maps(config, channels, weights)
    return PatchRetina(
        geometry,
        [build_what(config, width, backbone) for width in (maps.channels if maps else [channels])],
        maps=maps,
        where_size=config.where_size,
        feature_size=config.feature_size,
        num_zooms=config.num_zooms,
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


def build_what(config: ModelConfig, channels: int, backbone: Backbone | None) -> What:
    if backbone is not None:  # retina: backbone
        return BackboneWhat(backbone, num_patches=config.num_patches, combine=config.combine)
    sizes = {
        "channels": channels,
        "num_patches": config.num_patches,
        "patch_size": config.patch_size,
        "out_features": config.what_size,
    }
    if config.retina == "dense":
        return DenseWhat(**sizes)
    return ConvWhat(**sizes, widths=config.conv_widths)


def build_attention(config: ModelConfig, glance: Glance | None) -> Attention:
    state, regions = config.core_size, config.regions
    region_features = None
    if glance is not None and config.reads_map:
        region_features = glance.region_features
    if config.attention not in PARTS["attention"]:
        return import_part(
            "attention", config.attention, config.attention_options,
            state_features=state, region_features=region_features, regions=regions,
        )  # fmt: skip
    if config.attention == "soft":
        assert region_features is not None  # the config requires a glance
        return SoftAttention(state, region_features=region_features, regions=regions)
    if config.policy == "categorical":
        return CategoricalPolicy(
            state, region_features=region_features, regions=regions,
            num_zooms=config.num_zooms, inhibition=config.inhibition,
        )  # fmt: skip
    return GaussianPolicy(
        state, config.std, std_end=config.std_end, region_features=region_features, regions=regions
    )


def import_part(field: str, path: str, options: Mapping[str, Any], **arguments: Any) -> Any:
    """Build a part of one's own: call the class at an import path with these arguments and options.

    Only subclasses of `nn.Module` are called, so that no configuration can run any function.
    Raises UserError, which names the field.
    """
    module, name = path.split(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UserError(
            f"{field}: {path}: cannot import {module} ({error}); install it, or put its folder on"
            " PYTHONPATH"
        ) from error
    except AttributeError:
        raise UserError(f"{field}: {path}: module {module} has no {name}") from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"{field}: {path}: is not a class of torch.nn.Module")
    try:
        part = kind(**arguments, **options)
    except TypeError as error:
        raise UserError(
            f"{field}: {path}: {error}; it is called with {', '.join(arguments)} and the"
            f" {field}_options"
        ) from error
    needed = "differentiable" if field == "attention" else "out_features"
    if not hasattr(part, needed):
        raise UserError(f"{field}: {path}: has no `{needed}` (stacked_ram/models/protocols.py)")
    return part

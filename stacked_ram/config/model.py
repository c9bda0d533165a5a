"""The section `model` of a configuration: how it looks, remembers and decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from stacked_ram.config.fields import (
    BelowOne,
    NotNegative,
    Pixels,
    Positive,
    PositiveFloat,
    Steps,
    UpTo100,
    convert_fields,
    shown,
)
from stacked_ram.runtime.errors import check, nearest

PARTS = {
    "retina": ("dense", "conv", "backbone"),
    "core": ("lstm", "gru", "rnn", "sum", "transformer"),
    "attention": ("hard", "soft"),
}

CONV_WIDTHS = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How it looks, remembers and decides."""

    # The retina
    retina: str = "dense"
    """What turns a glimpse into a feature: `dense` (the paper's linear layers), `conv` (a small
    convolutional network), `backbone` (a timm network), or an import path, package.module:Class
    (models/protocols.py says what the class must do)."""
    retina_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for a retina of your own."""
    patch_size: Pixels = 8
    """Height and width of a patch as the network gets it, in pixels."""
    num_patches: UpTo100 = 1
    """Co-centred patches in a glimpse."""
    glimpse_scale: PositiveFloat = 2.0
    """How many times wider each patch of a glimpse is than the one before."""
    patch_unit: Literal["pixels", "fraction"] = "pixels"
    """Unit of patch_width: source pixels for each pixel of the patch, or a fraction of the
    photo's shorter side (formerly `share`)."""
    patch_width: PositiveFloat = 1.0
    """Width of the first patch: with `pixels`, 1 is native resolution and 2 half of it; with
    `fraction`, 0.5 covers half of the photo's shorter side."""
    snap: bool = True
    """Read patches at whole pixels, where their cells are whole pixels wide: the averages are exact
    and several times faster. False: at any position, as soft attention always does and estimator
    pathwise must, whose gradient comes from there."""
    what_size: Positive = 128
    """Width of the layer over the patches: the dense retina's first, the conv retina's last."""
    conv_widths: tuple[Positive, ...] = CONV_WIDTHS
    """Channels of the conv retina's layers. Large patches want more of them: (16, 32, 64, 128)."""
    where_size: Positive = 128
    """Width of the first layer over the location."""
    feature_size: Positive = 256
    """Width of the glimpse feature."""
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model name (retina or stack `backbone`)."""
    weights: str = "none"
    """Backbone weights: `none`, `pretrained` (timm's own), `package:NAME` (a pip package that
    carries them), or the path of a weights file. Batch-norm statistics that come with them stay."""
    freeze_backbone: bool = False
    """Keep the backbone's weights as loaded."""
    combine: Literal["concat", "mean"] = "concat"
    """How the backbone retina joins the features of the K patches."""
    # The stack
    stack: Literal["none", "rnn", "conv", "backbone"] = "none"
    """Levels of looking: none; `rnn`, a recurrent layer and a location a level; `conv`, one
    location on the photo and on the feature maps made from it; `backbone`, the same on the maps
    of a timm backbone."""
    num_levels: UpTo100 = 1
    """Levels of the stack (S)."""
    stack_location: Literal["own", "shared"] = "own"
    """stack rnn: whether each level chooses its own location."""
    levels: tuple[NotNegative, ...] | None = None
    """stack conv, backbone: which levels are looked at (0 is the photo). None: all."""
    kernel_size: Positive = 3
    """stack conv: kernel of the convolution between levels."""
    map_channels: Positive = 32
    """stack conv: channels of the feature maps."""
    # The core
    core: str = "lstm"
    """What integrates the glimpse features over the steps: `lstm`, `gru`, `rnn`, `sum` (of what
    each glimpse says, in any order), `transformer`, or an import path."""
    core_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for a core of your own."""
    core_size: Positive = 256
    """Width of the core's state."""
    dropout: BelowOne = 0.0
    """Dropout before the classifier."""
    # Attention
    num_glimpses: Steps = 6
    """Steps (T)."""
    attention: str = "hard"
    """How the next location is chosen: `hard` (sampled from a policy; REINFORCE), `soft` (the
    expected centre of softly weighted regions; back-propagation), or an import path."""
    attention_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for an attention of your own."""
    policy: Literal["gaussian", "categorical"] = "gaussian"
    """Hard attention: a Gaussian around a mean, or one of the cells of a grid: those of the
    glance's map or, without a glance, computed from the core's state alone."""
    std: PositiveFloat = 0.15
    """Standard deviation of the Gaussian policy, in units of location (the photo is 2 wide)."""
    std_end: PositiveFloat | None = None
    """Standard deviation at the end of training, reached on a line. None: it stays."""
    first_location: Literal["random", "centre", "learned"] = "random"
    """Where the first glimpse looks (evaluation with `random` looks at the centre first)."""
    glance: tuple[Pixels, Pixels] | None = None
    """Height and width of a low-resolution look at the whole photo before the first glimpse.
    None: no glance."""
    glance_stride: Positive | None = None
    """Backbone: the glance stops at the last map in which a cell is this many pixels of it wide:
    16 is a finer map than that of the whole backbone (32), for less work. None: all of it."""
    glance_starts: Literal["core", "location"] = "core"
    """What the glance starts: the core's state (and with it the first location), or the first
    location alone."""
    glance_dropout: BelowOne = 0.0
    """Fraction of the photos of a training batch whose glance the core forgets, so that
    glimpses learn to tell the class by themselves: a glance that tells the training photos apart
    leaves them nothing to learn."""
    policy_trains_glance: bool = False
    """Let the policy's gradient train the glance's map too, which otherwise only the classification
    does. Helps where finding things is harder than recognising them."""
    regions: tuple[Positive, Positive] = (2, 2)
    """Rows and columns of the regions (soft attention) or cells (categorical policy, or a
    Gaussian policy that reads the glance's map)."""
    policy_reads: Literal["state", "map"] = "state"
    """What a Gaussian policy reads: the core's state alone, or the glance's map with it."""
    num_zooms: UpTo100 = 1
    """Categorical policy: widths that it chooses from with each location, each glimpse_scale times
    wider than the one before. 1: every glimpse is as wide."""
    inhibition: NotNegative = 0
    """Categorical policy: a cell that was looked at, and those within this many cells of it, are
    not looked at again (inhibition of return) while there are others. 0: only the cell itself."""
    start_size: Positive = 1
    """Soft attention: resolution of the first patch; 1 high, 2 medium, 4 low."""
    learned_stop: bool = False
    """Train a stopping head that says after each glimpse whether to go on looking."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check()

    def _check(self) -> None:
        """Refuse values that cannot go together. Raises UserError."""
        for name, known in PARTS.items():
            value = getattr(self, name)
            own = re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", value) is not None
            check(
                own or value in known,
                f"{name}: {shown(value)} is none of {', '.join(known)}, nor an import path such as"
                f" my_package.my_module:MyClass{nearest(value, known)}",
            )
            check(
                own or not getattr(self, f"{name}_options"),
                f"{name}_options: belong to an import path; {name} `{value}` has none",
            )
        check(
            self.retina == "conv" or self.conv_widths == CONV_WIDTHS,
            f"conv_widths: retina {self.retina} has none; set retina conv, or leave them out",
        )
        check(len(self.conv_widths) > 0, "conv_widths: give the channels of at least one layer")
        check(
            ":" not in self.retina or self.stack in ("none", "rnn"),
            f"retina: with stack {self.stack}, which looks at feature maps, use dense or conv",
        )
        check(
            self.stack == "none" or self.num_levels > 1,
            f"num_levels: a stack ({self.stack}) has at least 2 levels",
        )
        check(
            self.stack != "none" or self.num_levels == 1,
            f"num_levels: {self.num_levels} levels need stack: rnn, conv or backbone",
        )
        if self.levels is not None:
            check(
                self.stack in ("conv", "backbone"), "levels: only stack conv and backbone have them"
            )
            check(
                len(self.levels) > 0 and max(self.levels) < self.num_levels,
                f"levels: {self.levels} are not among 0 to {self.num_levels - 1}",
            )
            check(
                list(self.levels) == sorted(set(self.levels)),
                f"levels: {self.levels} are not in ascending order, each once",
            )
        check(
            self.glance_stride is None or (self.glance is not None and self.retina == "backbone"),
            "glance_stride: belongs to a glance through the backbone; set glance and retina:"
            " backbone, or leave it out",
        )
        check(
            not (self.stack in ("conv", "backbone") and self.retina == "backbone"),
            f"retina backbone looks at RGB patches; with stack {self.stack}, which looks at "
            "feature maps, use retina dense or conv",
        )
        check(
            not (self.stack == "rnn" and self.attention == "soft"),
            "attention soft has one location a step; with stack rnn use attention hard",
        )
        check(
            self.attention != "soft" or self.glance is not None,
            "attention soft weighs the regions of a context image; set glance: (height, width)",
        )
        check(
            not (self.policy_reads == "map" and self.glance is None),
            "policy_reads map: there is no map without a glance; set glance",
        )
        check(
            self.num_zooms == 1 or (self.attention == "hard" and self.policy == "categorical"),
            "num_zooms: only a policy that chooses among cells chooses a width with them; set"
            " attention hard and policy categorical",
        )
        check(
            self.num_zooms == 1 or (self.stack in ("none", "rnn") and ":" not in self.retina),
            "num_zooms: belongs to retina dense, conv or backbone, with stack none or rnn",
        )
        check(
            self.num_zooms == 1 or self.glimpse_scale != 1,
            "num_zooms: with glimpse_scale 1 all widths are equal; set another",
        )
        check(
            self.inhibition == 0 or (self.attention == "hard" and self.policy == "categorical"),
            "inhibition: belongs to a policy over cells; set attention hard, policy categorical",
        )
        check(
            self.start_size == 1 or (self.attention == "soft" and self.patch_unit == "pixels"),
            "start_size: belongs to attention soft with patch_unit pixels; otherwise set"
            " patch_width",
        )
        check(
            self.attention != "soft"
            or not (self.policy == "categorical" or self.policy_reads == "map"),
            "attention soft has no policy; leave out policy and policy_reads",
        )
        check(
            self.glance_starts == "core"
            or (
                self.glance is not None
                and self.attention != "soft"
                and self.first_location == "learned"
            ),
            "glance_starts location: the glance would start nothing; it needs glance, attention"
            " hard and first_location learned",
        )
        check(
            self.glance_dropout == 0 or (self.glance is not None and self.glance_starts == "core"),
            "glance_dropout: the core has no glance to forget; set glance, with glance_starts core",
        )

        check(
            not self.policy_trains_glance
            or (self.glance is not None and self.reads_map and self.attention != "soft"),
            "policy_trains_glance: no policy reads a map; set glance, attention hard, and policy"
            " categorical or policy_reads map",
        )
        check(
            not (self.policy_trains_glance and self.freeze_backbone and self.retina == "backbone"),
            "policy_trains_glance: the glance goes through the backbone, whose weights are frozen;"
            " leave one of the two out",
        )

    @property
    def needs_whole_photo(self) -> bool:
        """Whether it makes maps of all of a photo's pixels, which have to be in memory then."""
        return self.stack in ("conv", "backbone")

    @property
    def reads_map(self) -> bool:
        """Whether the attention reads the glance's feature map, not the core's state alone."""
        if self.attention == "soft" or self.policy_reads == "map":
            return True
        return self.glance is not None and (self.policy == "categorical" or ":" in self.attention)

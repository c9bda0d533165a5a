"""The configuration of a run: dataclasses checked when built.

A YAML file (config_files.py) has three sections, `data`, `model` and `training`; every field is
also a flag of `main.py train` under its own name (`--num-glimpses 6`). Field names are unique over
the sections. This module imports nothing heavy: the command line's help is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stacked_ram.config.checks import check_data, check_model, check_together, check_training


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is looked at."""

    dataset: str = "datasets/demo"
    """Folder that prepare_data.py wrote."""
    short_side: int | None = None
    """Reduce each photo on loading so that its shorter side is this many pixels, its shape kept;
    photos are never enlarged. None: as stored."""
    photo_size: tuple[int, int] | None = None
    """Resize every photo to this (height, width), whatever its shape. None: its own shape."""
    train_on: Literal["train", "train+valid"] = "train"
    """Splits that are trained on; `train+valid` for a last run, once every choice is made."""
    fold: int | None = None
    """Which fold of a data set prepared with --folds is the validation split."""
    limit_photos: int | None = None
    """Use at most this many photos of each split (a quick try)."""
    clutter: Literal["fresh", "fixed"] = "fresh"
    """Digits and scenes: compose the training canvases anew every epoch, or once."""
    shift: int = 0
    """Digits that are not put on a canvas: move each training digit by up to this many pixels."""
    flip: bool = False
    """Mirror training photos left to right, half of the time."""
    crop_area: tuple[float, float] = (1.0, 1.0)
    """Crop training photos to a random share of their area between these two; (1, 1): no crop."""
    colour_jitter: float = 0.0
    """Strength of random brightness, contrast, saturation and hue of training photos, 0 to 1."""
    rotate: float = 0.0
    """Rotate training photos, or digits before they are put on a canvas, by up to this many
    degrees."""
    rand_augment: int = 0
    """Magnitude of RandAugment on training photos, 0 (off) to 30."""
    random_erasing: float = 0.0
    """Probability of erasing a random rectangle of a training photo."""
    mixup: float = 0.0
    """Alpha of MixUp (needs photo_size); 0: off."""
    cutmix: float = 0.0
    """Alpha of CutMix (needs photo_size); 0: off."""
    balanced_sampler: bool = False
    """Draw every class equally often."""
    workers: int = 2
    """Processes that read and augment photos; 0: in the training process."""
    cache: Literal["none", "disk", "memory"] = "disk"
    """Where decoded photos are kept between epochs: a memory-mapped file beside the data set,
    the training process, or nowhere. With it, what a frozen backbone finds in the glance, where
    no augmentation changes the photos, and what a test found the plain backbone to reach."""
    cache_limit: float = 20.0
    """Largest size of that cache, and of the kept glances, in GB; a data set that does not fit is
    decoded every epoch."""

    def __post_init__(self) -> None:
        check_data(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How it looks, remembers and decides."""

    # The retina
    retina: Literal["dense", "conv", "backbone"] = "dense"
    """What turns a glimpse into a feature: the paper's linear layers, a small convolutional
    network, or a timm backbone."""
    patch_size: int = 8
    """Height and width of a patch as the network gets it, in pixels."""
    num_patches: int = 1
    """Co-centred patches in a glimpse."""
    glimpse_scale: float = 2.0
    """How many times wider each patch of a glimpse is than the one before."""
    patch_unit: Literal["pixels", "share"] = "pixels"
    """Unit of patch_width: source pixels for each pixel of the patch, or a share of the photo's
    shorter side."""
    patch_width: float = 1.0
    """Width of the first patch: with `pixels`, 1 is native resolution and 2 half of it; with
    `share`, 0.5 covers half of the photo's shorter side."""
    what_size: int = 128
    """Width of the dense retina's first layer over the patches."""
    where_size: int = 128
    """Width of the first layer over the location."""
    feature_size: int = 256
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
    num_levels: int = 1
    """Levels of the stack (S)."""
    stack_location: Literal["own", "shared"] = "own"
    """stack rnn: whether each level chooses its own location."""
    levels: tuple[int, ...] | None = None
    """stack conv, backbone: which levels are looked at (0 is the photo). None: all."""
    kernel_size: int = 3
    """stack conv: kernel of the convolution between levels."""
    map_channels: int = 32
    """stack conv: channels of the feature maps."""
    # The core
    core: Literal["lstm", "gru", "rnn", "transformer"] = "lstm"
    """What integrates the glimpse features over the steps."""
    core_size: int = 256
    """Width of the core's state."""
    dropout: float = 0.0
    """Dropout before the classifier."""
    # Attention
    num_glimpses: int = 6
    """Steps (T)."""
    attention: Literal["hard", "soft"] = "hard"
    """How the next location is chosen: sampled from a policy (REINFORCE), or the expected centre
    of softly weighted regions (back-propagation)."""
    policy: Literal["gaussian", "categorical"] = "gaussian"
    """Hard attention: a Gaussian around a mean, or one of the cells of a grid: those of the
    glance's map or, without a glance, told from the core's state alone."""
    std: float = 0.15
    """Standard deviation of the Gaussian policy, in units of location (the photo is 2 wide)."""
    std_end: float | None = None
    """Standard deviation at the end of training, reached on a line. None: it stays."""
    first_location: Literal["random", "centre", "learned"] = "random"
    """Where the first glimpse looks (evaluation with `random` looks at the centre first)."""
    glance: tuple[int, int] | None = None
    """Height and width of a low-resolution look at the whole photo before the first glimpse.
    None: no glance."""
    glance_stride: int | None = None
    """Backbone: the glance stops at the last map in which a cell is this many pixels of it wide:
    16 is a finer map than that of the whole backbone (32), for less work. None: all of it."""
    glance_starts: Literal["core", "location"] = "core"
    """What the glance starts: the core's state (and with it the first location), or the first
    location alone."""
    glance_dropout: float = 0.0
    """Share of the photos of a training batch of which the core forgets the glance, so that
    glimpses learn to tell the class by themselves: a glance that tells the training photos apart
    leaves them nothing to learn."""
    regions: tuple[int, int] = (2, 2)
    """Rows and columns of the regions (soft attention) or cells (categorical policy, or a
    Gaussian policy that reads the glance's map)."""
    policy_reads: Literal["state", "map"] = "state"
    """What a Gaussian policy reads: the core's state alone, or the glance's map with it."""
    start_size: int = 1
    """Soft attention: resolution of the first patch; 1 high, 2 medium, 4 low."""
    learned_stop: bool = False
    """Train a stopping head that says after each glimpse whether to go on looking."""

    def __post_init__(self) -> None:
        check_model(self)

    @property
    def needs_whole_photo(self) -> bool:
        """Whether it makes maps of all of a photo's pixels, which have to be in memory then."""
        return self.stack in ("conv", "backbone")

    @property
    def reads_map(self) -> bool:
        """Whether the attention reads the glance's feature map, not the core's state alone."""
        by_cells = self.policy == "categorical" and self.glance is not None
        return self.attention == "soft" or by_cells or self.policy_reads == "map"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How it learns."""

    epochs: int = 50
    """Passes over the training photos."""
    batch_size: int = 128
    """Photos in a batch, on each device."""
    seed: int = 0
    """Fixes everything that is random."""
    # Optimiser and schedule
    optimizer: str = "adamw"
    """Any optimiser of timm's factory: adamw, sgd, adam, lamb, ..."""
    learning_rate: float = 1e-3
    """Highest learning rate of everything but the backbone."""
    backbone_learning_rate: float | None = None
    """Highest learning rate of the backbone. None: a tenth of learning_rate."""
    weight_decay: float = 1e-4
    """Weight decay (not of biases and norms)."""
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises to its highest."""
    clip_norm: float | None = 5.0
    """Clip the norm of all gradients to this. None: no clipping."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step of the optimiser."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights and evaluate that. None: off."""
    label_smoothing: float = 0.0
    """Label smoothing of the classification loss."""
    class_weights: bool = False
    """Weight the classification loss by the inverse of the classes' shares."""
    # Losses
    step_losses: Literal["all", "last"] = "all"
    """Classification loss after every step, or after the last."""
    step_weights: tuple[float, ...] | None = None
    """Weights of those losses: of the glance's (where one starts the core), then of each
    glimpse's. None: all alike."""
    baseline_weight: float = 1.0
    """Weight of the baseline's regression loss."""
    policy_weight: float = 1.0
    """Weight of the policy gradient."""
    estimator: Literal["reinforce", "leave_one_out", "self_critical", "ppo", "pathwise"] = (
        "reinforce"
    )
    """How the policy learns: REINFORCE with a learned baseline; leave-one-out over the rollouts;
    self-critical (the policy's mean is the baseline); PPO; or the pathwise gradient through the
    crops, without sampling."""
    reward: Literal["correct", "drop"] = "correct"
    """1 if the last prediction is right; or the drop in cross-entropy from step to step."""
    rollouts: int = 1
    """Sampled scan paths a photo in training (M)."""
    entropy_bonus: float = 0.0
    """Weight of the policy's entropy."""
    normalise_advantages: bool = False
    """Scale the advantages of a batch to a standard deviation of 1."""
    pretrain_epochs: int = 0
    """Epochs at the very start in which the visual network alone learns, to tell the class from
    every combination of high, medium and low resolution patches (needs retina backbone and a
    glance that starts the core)."""
    random_glimpses: float = 0.0
    """Epochs at the start (after pretrain_epochs) in which all glimpses look at random places and
    no policy learns."""
    ppo_epochs: int = 3
    """PPO: passes over each batch's rollouts."""
    ppo_clip: float = 0.2
    """PPO: how far the probability ratio may move from 1."""
    gae_lambda: float = 0.95
    """PPO: lambda of the generalised advantage estimate."""
    # Running
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Precision of the matrix products."""
    compile: bool = False
    """Compile the model with torch.compile; with cuda_graph its losses too."""
    cuda_graph: bool = False
    """Record the whole step on a CUDA GPU once and replay it with one launch (photos of one
    size, one process). Elsewhere it changes nothing."""
    channels_last: bool = False
    """Keep the backbone's tensors channels-last."""
    tf32: bool = True
    """Allow TF32 matrix products on GPUs that have them."""
    deterministic: bool = False
    """Use deterministic algorithms only (a GPU gets slower; a CPU run always is)."""
    activation_checkpointing: bool = False
    """Recompute each step's activations in the backward pass, to save memory."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What to do about a loss that is not finite: stop and say where, or skip the batch (with
    accumulate, its group)."""
    metric: Literal["accuracy", "loss"] = "accuracy"
    """Validation metric by which the best checkpoint is chosen."""
    patience: int | None = None
    """Stop after this many epochs without a better validation metric. None: never."""
    save_every: float = 10.0
    """Minutes between checkpoints inside an epoch; one is always written after each epoch."""
    pictures_every: int = 5
    """Epochs between pictures of scan paths in TensorBoard; 0: none."""

    def __post_init__(self) -> None:
        check_training(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run needs to be repeated."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_together(self.data, self.model, self.training)

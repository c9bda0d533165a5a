"""The section `training` of a configuration: how it learns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from stacked_ram.config.fields import (
    BelowOne,
    Fraction,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    convert_fields,
    shown,
)
from stacked_ram.runtime.errors import check, nearest

ESTIMATORS = ("reinforce", "leave_one_out", "self_critical", "ppo", "pathwise")
IMPORT_PATH = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How it learns."""

    epochs: Positive = 50
    """Passes over the training photos."""
    batch_size: Positive = 128
    """Photos in a batch, on each device."""
    seed: NotNegative = 0
    """Fixes everything that is random."""
    init_from: str | None = None
    """Run folder or file of weights to start from: every tensor whose name and shape are the same
    is taken. The classes may be others; the classifier then starts anew."""
    # Optimiser and schedule
    optimizer: str = "adamw"
    """Any optimiser of timm's factory: adamw, sgd, adam, lamb, ..."""
    learning_rate: PositiveFloat = 1e-3
    """Highest learning rate of everything but the backbone."""
    backbone_learning_rate: NotNegativeFloat | None = None
    """Highest learning rate of the backbone. None: a tenth of learning_rate."""
    weight_decay: NotNegativeFloat = 1e-4
    """Weight decay (not of biases and norms)."""
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_epochs: NotNegativeFloat = 1.0
    """Epochs in which the learning rate rises to its highest."""
    clip_norm: PositiveFloat | None = 5.0
    """Clip the norm of all gradients to this. None: no clipping."""
    accumulation_steps: Positive = 1
    """Batches whose gradients are added up before a step of the optimiser (formerly
    `accumulate`)."""
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = None
    """Keep an exponential moving average of the weights and evaluate that. None: off."""
    label_smoothing: BelowOne = 0.0
    """Label smoothing of the classification loss."""
    class_weights: bool = False
    """Weight the classification loss by the inverse of the classes' frequencies. With several
    labels: weight the photos that have a class by how many others there are for each of them."""
    # Losses
    loss: Literal["auto", "bce", "asymmetric"] = "auto"
    """Classification loss. auto: cross-entropy; where photos may have several labels, binary
    cross-entropy (bce). asymmetric (Ridnik et al., 2021) is for many labels, of which a photo has
    few."""
    step_losses: Literal["all", "last"] = "all"
    """Classification loss after every step, or after the last."""
    step_weights: tuple[NotNegativeFloat, ...] | None = None
    """Weights of those losses: of the glance's (where one starts the core), then of each
    glimpse's. None: all alike."""
    baseline_weight: NotNegativeFloat = 1.0
    """Weight of the baseline's regression loss."""
    policy_weight: NotNegativeFloat = 1.0
    """Weight of the policy gradient."""
    estimator: str = "reinforce"
    """How the policy learns: `reinforce` with a learned baseline; `leave_one_out` over the
    rollouts; `self_critical` (the policy's mean is the baseline); `ppo`; `pathwise`, the gradient
    through the crops, without sampling; or the
    import path of a function of your own, package.module:function (training/estimators.py says what
    it must do)."""
    reward: Literal["correct", "drop"] = "correct"
    """1 if the last prediction is right (with several labels: its F1 at probabilities of 0.5); or
    the drop in cross-entropy from step to step."""
    glimpse_cost: NotNegativeFloat = 0.0
    """With model.learned_stop: how much a further glimpse must lower the cross-entropy (in nats) to
    be worth taking. The head learns to stop where it does not, and the policy to look where it
    can stop soon. 0: the head learns to say whether the prediction is right."""
    rollouts: Positive = 1
    """Sampled scan paths a photo in training (M)."""
    entropy_bonus: NotNegativeFloat = 0.0
    """Weight of the policy's entropy."""
    normalise_advantages: bool = False
    """Scale the advantages of a batch to a standard deviation of 1."""
    pretrain_epochs: NotNegative = 0
    """Epochs at the very start in which the visual network alone learns, to tell the class from
    every combination of high, medium and low resolution patches (needs retina backbone and a
    glance that starts the core)."""
    random_glimpses: NotNegativeFloat = 0.0
    """Epochs at the start (after pretrain_epochs) in which all glimpses look at random places and
    no policy learns."""
    ppo_epochs: Positive = 3
    """PPO: passes over each batch's rollouts."""
    ppo_clip: PositiveFloat = 0.2
    """PPO: how far the probability ratio may move from 1."""
    gae_lambda: Fraction = 0.95
    """PPO: lambda of the generalised advantage estimate."""
    # Running
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    """Precision of the matrix products; auto: bf16 where this machine is faster with it, otherwise
    float32."""
    compile: bool = False
    """Compile the model with torch.compile; with cuda_graph its losses too."""
    cuda_graph: bool = False
    """Capture the whole step as a CUDA graph and replay it with one launch (photos of one size, one
    process). Without a CUDA GPU it changes nothing."""
    channels_last: bool | Literal["auto"] = False
    """Keep the backbone's tensors channels-last; auto: on a CPU, and in reduced
    precision."""
    tf32: bool = True
    """Allow TF32 matrix products on GPUs that have them."""
    deterministic: bool = False
    """Use deterministic algorithms only (a GPU gets slower; a CPU run always is)."""
    activation_checkpointing: bool = False
    """Recompute each step's activations in the backward pass, to save memory (formerly
    `checkpoint_steps`)."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What to do about a loss that is not finite: stop and say where, or skip the batch (with
    accumulation_steps, its group)."""
    metric: Literal["accuracy", "loss"] = "accuracy"
    """Validation metric by which the best checkpoint is chosen; accuracy is the mean average
    precision (mAP) with several labels."""
    patience: Positive | None = None
    """Stop after this many epochs without a better validation metric. None: never."""
    save_every: NotNegativeFloat = 10.0
    """Minutes between checkpoints inside an epoch; one is always written after each epoch."""
    pictures_every: NotNegative = 5
    """Epochs between pictures of scan paths (in TensorBoard, or where --log says); 0: none."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check()

    def _check(self) -> None:
        """Refuse values that cannot go together. Raises UserError."""
        check(
            self.estimator in ESTIMATORS or IMPORT_PATH.fullmatch(self.estimator) is not None,
            f"estimator: {shown(self.estimator)} is not {', '.join(ESTIMATORS)} or an import path"
            f" such as my_module:my_estimator{nearest(self.estimator, ESTIMATORS)}",
        )
        check(
            self.estimator != "ppo" or self.accumulation_steps == 1,
            "accumulation_steps: estimator ppo steps several times on one batch; leave it at 1",
        )
        if self.step_weights is not None:
            check(
                self.step_losses == "all",
                "step_weights: step_losses last has only one loss",
            )
            check(
                sum(self.step_weights) > 0,
                f"step_weights: {self.step_weights}: at least one must be above 0",
            )
        check(
            self.estimator != "leave_one_out" or self.rollouts > 1,
            "estimator leave_one_out compares the rollouts of a photo: set rollouts to 2 or more",
        )
        obstacles = {
            "estimator ppo (several steps a batch)": self.estimator == "ppo",
            "accumulation_steps (several batches a step)": self.accumulation_steps > 1,
            "precision fp16 (its scaler waits; use bf16)": self.precision == "fp16",
            "not_finite skip (it waits for the loss)": self.not_finite == "skip",
            "activation_checkpointing (it keeps random states)": self.activation_checkpointing,
        }
        for name, present in obstacles.items():
            check(not (self.cuda_graph and present), f"cuda_graph: does not work with {name}")
        check(
            self.estimator != "pathwise" or self.rollouts == 1,
            "estimator pathwise samples nothing: rollouts would be copies; set rollouts to 1",
        )

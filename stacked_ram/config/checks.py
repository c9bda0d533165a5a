"""What a configuration may say: values out of range, and parts that cannot go together.

Each check is made when the section is built, and names the fields that it is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacked_ram.runtime.errors import check

if TYPE_CHECKING:
    from stacked_ram.config.schema import DataConfig, ModelConfig, TrainingConfig


def check_data(data: DataConfig) -> None:
    """What is looked at. Raises UserError."""
    low, high = data.crop_area
    check(0 < low <= high <= 1, f"crop_area: {data.crop_area} is not 0 < low <= high <= 1")
    check(
        data.photo_size is None or data.short_side is None,
        "photo_size and short_side: give one of them, not both",
    )
    check(
        data.photo_size is not None or not (data.mixup or data.cutmix),
        "mixup, cutmix: blending two photos needs photos of one size; set photo_size",
    )
    for name in ("short_side", "limit_photos"):
        value = getattr(data, name)
        check(value is None or value > 0, f"{name}: {value} is not above 0")
    for name in ("colour_jitter", "random_erasing"):
        value = getattr(data, name)
        check(0 <= value <= 1, f"{name}: {value} is not between 0 and 1")
    for name in ("workers", "shift", "rotate", "mixup", "cutmix"):
        check(getattr(data, name) >= 0, f"{name}: {getattr(data, name)} is below 0")
    check(0 <= data.rand_augment <= 30, f"rand_augment: {data.rand_augment} is not in 0 to 30")
    check(
        data.photo_size is None or min(data.photo_size) >= 1,
        f"photo_size: {data.photo_size} is not (height, width), each at least 1",
    )


def check_model(model: ModelConfig) -> None:
    """How it looks: each value, and which parts go together. Raises UserError."""
    for name in ("patch_size", "num_patches", "num_glimpses", "num_levels", "core_size",
                 "feature_size", "what_size", "where_size", "kernel_size", "map_channels",
                 "start_size"):  # fmt: skip
        check(getattr(model, name) >= 1, f"{name}: {getattr(model, name)} is below 1")
    check(model.glimpse_scale > 0, f"glimpse_scale: {model.glimpse_scale} is not above 0")
    check(model.patch_width > 0, f"patch_width: {model.patch_width} is not above 0")
    check(0 <= model.dropout < 1, f"dropout: {model.dropout} is not in [0, 1)")
    check(model.std > 0, f"std: {model.std} is not above 0")
    check(model.std_end is None or model.std_end > 0, f"std_end: {model.std_end} is not above 0")
    check(
        model.stack == "none" or model.num_levels > 1,
        f"num_levels: a stack ({model.stack}) has at least 2 levels",
    )
    check(
        model.stack != "none" or model.num_levels == 1,
        f"num_levels: {model.num_levels} levels need stack: rnn, conv or backbone",
    )
    if model.levels is not None:
        check(model.stack in ("conv", "backbone"), "levels: only stack conv and backbone have them")
        check(
            len(model.levels) > 0 and all(0 <= one < model.num_levels for one in model.levels),
            f"levels: {model.levels} are not among 0 to {model.num_levels - 1}",
        )
        check(
            list(model.levels) == sorted(set(model.levels)),
            f"levels: {model.levels} are not in ascending order, each once",
        )
    check(min(model.regions) >= 1, f"regions: {model.regions}: rows and columns are at least 1")
    check(
        model.glance is None or min(model.glance) >= 1,
        f"glance: {model.glance} is not (height, width), each at least 1",
    )
    check(
        model.glance_stride is None or (model.glance is not None and model.retina == "backbone"),
        "glance_stride: belongs to a glance through the backbone; set glance and retina:"
        " backbone, or leave it out",
    )
    check(
        not (model.stack in ("conv", "backbone") and model.retina == "backbone"),
        f"retina backbone looks at RGB patches; with stack {model.stack}, which looks at "
        "feature maps, use retina dense or conv",
    )
    check(
        not (model.stack == "rnn" and model.attention == "soft"),
        "attention soft has one location a step; with stack rnn use attention hard",
    )
    check(
        model.attention == "hard" or model.glance is not None,
        "attention soft weighs the regions of a context image; set glance: (height, width)",
    )
    check(
        not (model.policy_reads == "map" and model.glance is None),
        "policy_reads map: there is no map without a glance; set glance",
    )
    check(
        model.start_size == 1 or (model.attention == "soft" and model.patch_unit == "pixels"),
        "start_size: belongs to attention soft with patch_unit pixels; otherwise set patch_width",
    )
    check(
        model.attention == "hard"
        or not (model.policy == "categorical" or model.policy_reads == "map"),
        "attention soft has no policy; leave out policy and policy_reads",
    )
    check(
        model.glance_starts == "core"
        or (
            model.glance is not None
            and model.attention == "hard"
            and model.first_location == "learned"
        ),
        "glance_starts location: the glance would start nothing; it needs glance, attention"
        " hard and first_location learned",
    )
    check(
        0 <= model.glance_dropout < 1,
        f"glance_dropout: {model.glance_dropout} is not a share, at least 0 and below 1",
    )
    check(
        model.glance_dropout == 0 or (model.glance is not None and model.glance_starts == "core"),
        "glance_dropout: the core has no glance to forget; set glance, with glance_starts core",
    )


def check_training(training: TrainingConfig) -> None:
    """How it learns. Raises UserError."""
    for name in ("epochs", "batch_size", "accumulate", "rollouts", "ppo_epochs"):
        check(getattr(training, name) >= 1, f"{name}: {getattr(training, name)} is below 1")
    for name in ("weight_decay", "baseline_weight", "policy_weight", "entropy_bonus",
                 "warmup_epochs", "random_glimpses", "pretrain_epochs"):  # fmt: skip
        check(getattr(training, name) >= 0, f"{name}: {getattr(training, name)} is below 0")
    check(training.learning_rate > 0, f"learning_rate: {training.learning_rate} is not above 0")
    check(0 <= training.label_smoothing < 1, "label_smoothing: not in [0, 1)")
    check(0 <= training.gae_lambda <= 1, f"gae_lambda: {training.gae_lambda} is not in [0, 1]")
    check(
        training.estimator != "ppo" or training.accumulate == 1,
        "accumulate: estimator ppo steps several times on one batch; leave accumulate at 1",
    )
    check(training.ppo_clip > 0, f"ppo_clip: {training.ppo_clip} is not above 0")
    check(
        training.clip_norm is None or training.clip_norm > 0,
        f"clip_norm: {training.clip_norm} is not above 0; None: no clipping",
    )
    check(
        training.patience is None or training.patience >= 1,
        f"patience: {training.patience} is below 1; None: never",
    )
    check(
        training.ema_decay is None or 0 < training.ema_decay < 1,
        f"ema_decay: {training.ema_decay} is not in (0, 1)",
    )
    if training.step_weights is not None:
        check(training.step_losses == "all", "step_weights: with step_losses last there is one")
        check(
            min(training.step_weights, default=0) >= 0 and sum(training.step_weights) > 0,
            f"step_weights: {training.step_weights}: none is below 0, one at least above",
        )
    check(
        training.estimator != "leave_one_out" or training.rollouts > 1,
        "estimator leave_one_out compares the rollouts of a photo: set rollouts to 2 or more",
    )
    hindrances = {
        "estimator ppo (several steps a batch)": training.estimator == "ppo",
        "accumulate (several batches a step)": training.accumulate > 1,
        "precision fp16 (its scaler waits; use bf16)": training.precision == "fp16",
        "not_finite skip (it waits for the loss)": training.not_finite == "skip",
        "activation_checkpointing (it keeps random states)": training.activation_checkpointing,
    }
    for name, there in hindrances.items():
        check(not (training.cuda_graph and there), f"cuda_graph: cannot go with {name}")
    check(
        training.estimator != "pathwise" or training.rollouts == 1,
        "estimator pathwise samples nothing: rollouts would be copies; set rollouts to 1",
    )


def check_together(data: DataConfig, model: ModelConfig, training: TrainingConfig) -> None:
    """What one section asks of another. Raises UserError."""
    for name, there in {
        "patience": training.patience is not None,
        "schedule plateau": training.schedule == "plateau",
    }.items():
        check(
            data.train_on == "train" or not there,
            f"{name}: goes by the validation split, of which train_on {data.train_on} leaves"
            " nothing; use train_on train, or leave it out",
        )
    check(
        model.attention == "hard" or training.estimator == "reinforce",
        f"estimator {training.estimator}: attention soft samples nothing; leave it out",
    )
    check(
        model.attention == "hard" or training.rollouts == 1,
        "attention soft samples nothing: rollouts would be copies; set rollouts to 1",
    )
    check(
        not (training.cuda_graph and model.stack == "backbone"),
        "cuda_graph: stack backbone sorts the photos of a batch by size, for which the host waits;"
        " leave it off",
    )
    if training.step_weights is not None:
        glance = model.glance is not None and model.glance_starts == "core"
        steps = model.num_glimpses + glance
        check(
            len(training.step_weights) == steps,
            f"step_weights: {len(training.step_weights)} for {steps} losses: of"
            f"{' the glance and' * glance} {model.num_glimpses} glimpses",
        )
    check(
        training.pretrain_epochs == 0
        or (
            model.retina == "backbone"
            and model.glance is not None
            and model.glance_starts == "core"
            and model.glance_stride is None
            and model.stack == "none"
        ),
        "pretrain_epochs: it trains the network that glance and patches share; it needs retina"
        " backbone, and a glance of the whole backbone (no glance_stride) that starts the core",
    )
    check(
        model.glance_dropout == 0 or training.estimator not in ("ppo", "self_critical"),
        f"glance_dropout: estimator {training.estimator} looks at each photo twice, with other"
        " photos' glances forgotten; use another estimator, or leave it out",
    )
    check(
        training.entropy_bonus == 0 or model.policy == "categorical",
        "entropy_bonus: the entropy of a Gaussian of given std cannot change; use policy"
        " categorical, or a larger std",
    )
    check(
        training.estimator != "pathwise" or model.policy == "gaussian",
        "estimator pathwise follows the gradient of a location; policy categorical has none",
    )
    check(
        not (training.estimator in ("pathwise", "ppo") and model.num_glimpses == 1
             and model.first_location != "learned"),
        f"estimator {training.estimator}: the only glimpse is not the policy's; set"
        " first_location learned, or num_glimpses to 2 or more",
    )  # fmt: skip

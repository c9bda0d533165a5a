"""The configuration of a run: dataclasses checked when built.

A YAML file (yaml.py) has three sections, `data`, `model` and `training`; every field is also a
flag of `main.py train` under its own name (`--num-glimpses 6`). Field names are unique over the
sections. This room imports nothing heavy: the command line's help is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stacked_ram.config.data import DataConfig
from stacked_ram.config.model import ModelConfig
from stacked_ram.config.training import TrainingConfig
from stacked_ram.runtime.errors import check


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run needs to be repeated."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Refuse what one section asks and another does not give. Raises UserError."""
        data, model, training = self.data, self.model, self.training
        for name, used in {
            "patience": training.patience is not None,
            "schedule plateau": training.schedule == "plateau",
        }.items():
            check(
                data.train_on == "train" or not used,
                f"{name}: needs a validation split, and train_on {data.train_on} leaves none; use"
                " train_on train, or leave it out",
            )
        check(
            model.attention != "soft" or training.estimator == "reinforce",
            f"estimator {training.estimator}: attention soft samples nothing; leave it out",
        )
        check(
            model.attention != "soft" or training.rollouts == 1,
            "attention soft samples nothing: rollouts would be copies; set rollouts to 1",
        )
        check(
            not (training.cuda_graph and model.stack == "backbone"),
            "cuda_graph: stack backbone sorts the photos of a batch by size, for which the host"
            " waits; leave it off",
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
            training.glimpse_cost == 0 or model.learned_stop,
            "glimpse_cost: only a model that learns to stop can save a glimpse; set learned_stop",
        )
        check(
            training.glimpse_cost == 0 or training.reward == "drop" or model.attention == "soft",
            "glimpse_cost: is in units of the cross-entropy; set reward drop",
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
            training.estimator != "pathwise" or not model.snap,
            "estimator pathwise reads patches at any position, in training and after it: set snap"
            " false (--no-snap)",
        )
        check(
            not (training.estimator in ("pathwise", "ppo") and model.num_glimpses == 1
                 and model.first_location != "learned"),
            f"estimator {training.estimator}: the only glimpse is not the policy's; set"
            " first_location learned, or num_glimpses to 2 or more",
        )  # fmt: skip

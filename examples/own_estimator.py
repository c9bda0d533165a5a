"""An estimator of your own: python examples/own_estimator.py

REINFORCE whose baseline is the mean return of the batch, without a learned one. In a configuration:
estimator: own_estimator:batch_mean, with the folder of this file on PYTHONPATH.
"""

from collections.abc import Iterator

from own_training_loop import main
from torch import Tensor

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.ops.patches import Photos
from stacked_ram.training.losses import Losses, policy_loss, returns, total_loss


def batch_mean(
    model: RAM,
    photos: Photos,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """What it must do is written in stacked_ram/training/estimators.py."""
    trace = model(photos, rollouts=config.rollouts, sample=True)
    returns_RT = returns(trace, targets, config.reward)
    policy = policy_loss(trace, returns_RT - returns_RT.mean(0))
    yield total_loss(trace, targets, config, class_weights_N, returns_RT, policy)


if __name__ == "__main__":
    main(estimator=batch_mean, rollouts=2)

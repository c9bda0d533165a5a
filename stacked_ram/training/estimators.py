"""The estimators: how the policy learns from the scan paths that it drew on a batch of photos.

    for losses in estimators.losses(model, images, targets, estimator="leave_one_out", rollouts=2):
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()

Notable features
- one function a name (`reinforce`, `leave_one_out`, `self_critical`, `ppo`, `pathwise`), each
  readable from top to bottom; what they share is in losses.py
- an estimator of your own is a function with the same arguments (`Estimator`), given as an object
  or by its import path (examples/own_estimator.py)

    B photos   R rows = B * M rollouts, photo-major   T steps   N classes
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.losses import (
    Losses,
    generalised_advantages,
    leave_one_out_advantages,
    normalised,
    policy_loss,
    ppo_loss,
    returns,
    total_loss,
)
from stacked_ram.training.pretraining import combination_losses


class Estimator(Protocol):
    """What an estimator does: photos and targets in, losses out.

    It is a generator (or returns an iterator). The caller differentiates `Losses.total` and steps
    the optimiser before it asks for the next; most yield once. One that yields several times for a
    batch, as PPO does, marks all but the last with `more=True`.

    model: in training mode; called as `model(photos, rollouts=config.rollouts, sample=True)`, it
    gives a Trace of R rows. targets: classes (B) or soft targets (B x N), one row a photo; B x N
    with several labels.
    config: `rollouts`, `reward`, the weights of the losses. class_weights_N: of the classification
    loss. `losses.total_loss` joins the parts.
    """

    def __call__(
        self,
        model: RAM,
        photos: PhotoBatch,
        targets: Tensor,
        config: TrainingConfig,
        class_weights_N: Tensor | None,
    ) -> Iterator[Losses]: ...


def losses(
    model: RAM,
    images: Tensor | PhotoBatch,
    targets: Tensor,
    config: TrainingConfig | None = None,
    *,
    estimator: str | Estimator | None = None,
    location_source: str = "policy",
    class_weights_N: Tensor | None = None,
    **fields: Any,
) -> Iterator[Losses]:
    """The losses of one batch: one for each step of the optimiser (several with PPO only).

    Args:
        model: in training mode.
        images: B x C x H x W, uint8 (0 to 255) or floating point (0 to 1), or what
            `model.photos` made of them.
        targets: classes (B, int64) or soft targets (B x N), one row a photo; of a model with
            `multi_label`, B x N floats: 1 for each class that the photo has.
        config: all settings; None: the defaults.
        estimator: a name, or an estimator of your own. None: the config's.
        location_source: `policy`; `random` for a warm-up in which no policy learns;
            `combinations` to pretrain the visual network alone (pretraining.py).
        class_weights_N: weights of the classes in the classification loss.
        fields: of TrainingConfig, to be changed: `rollouts=4`, `entropy_bonus=0.01`.

    A model without a policy (soft attention) needs no estimator and is trained by the
    classification loss. Raises UserError for an unknown estimator or a value out of range.
    """
    if isinstance(estimator, str):
        fields["estimator"] = estimator
    config = config or TrainingConfig()
    if fields:
        config = dataclasses.replace(config, **fields)
    photos = model.photos(images) if isinstance(images, Tensor) else images
    if location_source == "combinations":
        return combination_losses(model, photos, targets, config, class_weights_N)
    if location_source != "policy" or not model.has_policy:
        return supervised(
            model, photos, targets, config, class_weights_N, location_source=location_source
        )
    estimate = estimator if callable(estimator) else find_estimator(config.estimator)
    return estimate(model, photos, targets, config, class_weights_N)


def supervised(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
    *,
    location_source: str = "policy",
) -> Iterator[Losses]:
    """The classification loss alone: no policy learns."""
    trace = model(photos, rollouts=config.rollouts, location_source=location_source, sample=True)
    yield total_loss(trace, targets, config, class_weights_N)


def reinforce(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """REINFORCE with a learned baseline (Williams, 1992; Mnih et al., 2014, equation 4):
    advantage = return - baseline."""
    trace = model(photos, rollouts=config.rollouts, sample=True)
    returns_RT = returns(trace, targets, config.reward, config.glimpse_cost)
    advantages_RT = returns_RT - trace.baselines_BT.detach()
    if config.normalise_advantages:
        advantages_RT = normalised(advantages_RT, trace)
    policy = policy_loss(trace, advantages_RT)
    yield total_loss(trace, targets, config, class_weights_N, returns_RT, policy)


def leave_one_out(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """Advantage = return - mean return of the photo's other rollouts (Kool et al., 2019)."""
    trace = model(photos, rollouts=config.rollouts, sample=True)
    returns_RT = returns(trace, targets, config.reward, config.glimpse_cost)
    advantages_RT = leave_one_out_advantages(returns_RT, config.rollouts)
    if config.normalise_advantages:
        advantages_RT = normalised(advantages_RT, trace)
    policy = policy_loss(trace, advantages_RT)
    yield total_loss(trace, targets, config, class_weights_N, returns_RT, policy)


def self_critical(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """Advantage = return - return of the path that the model takes at evaluation (Rennie et al.,
    2017, section 3.2). That pass leaves batch-norm statistics as they are."""
    trace = model(photos, rollouts=config.rollouts, sample=True)
    returns_RT = returns(trace, targets, config.reward, config.glimpse_cost)
    model.eval()
    with torch.no_grad():
        greedy = model(photos)
    model.train()
    greedy_returns_BT = returns(greedy, targets, config.reward, config.glimpse_cost)
    advantages_RT = returns_RT - greedy_returns_BT.repeat_interleave(config.rollouts, 0)
    if config.normalise_advantages:
        advantages_RT = normalised(advantages_RT, trace)
    policy = policy_loss(trace, advantages_RT)
    yield total_loss(trace, targets, config, class_weights_N, returns_RT, policy)


def ppo(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """Draw scan paths once, then learn from them `ppo_epochs` times (Schulman et al., 2017)."""
    with torch.no_grad():
        drawn = model(photos, rollouts=config.rollouts, sample=True)
    # Older torch would reuse the weights that were cast without a gradient in the passes below.
    torch.clear_autocast_cache()
    returns_RT = returns(drawn, targets, config.reward, config.glimpse_cost)
    advantages_RT = generalised_advantages(drawn, returns_RT, config.gae_lambda)
    if config.normalise_advantages:
        advantages_RT = normalised(advantages_RT, drawn)
    for epoch in range(1, config.ppo_epochs + 1):
        trace = model(photos, rollouts=config.rollouts, locations_BTS2=drawn.samples_BTS2)
        policy = ppo_loss(trace, drawn.log_probs_BTS, advantages_RT, config.ppo_clip)
        found = total_loss(trace, targets, config, class_weights_N, returns_RT, policy)
        log_ratio = (trace.log_probs_BTS - drawn.log_probs_BTS).detach()[:, trace.chosen]
        found.parts["approximate_kl"] = (log_ratio.exp() - 1 - log_ratio).mean()
        found.more = epoch < config.ppo_epochs
        yield found


def pathwise(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """No sampling: the gradient of the classification loss reaches the location through the
    crops."""
    trace = model(photos, rollouts=config.rollouts, sample=False, smooth=True)
    yield total_loss(trace, targets, config, class_weights_N)


ESTIMATORS: dict[str, Estimator] = {
    "reinforce": reinforce,
    "leave_one_out": leave_one_out,
    "self_critical": self_critical,
    "ppo": ppo,
    "pathwise": pathwise,
}


def find_estimator(name: str) -> Estimator:
    """The estimator of a name, or the function at an import path, `my_module:my_estimator`.

    Raises UserError if there is none.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    module, _, function = name.partition(":")
    try:
        found: Callable = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UserError(
            f"estimator: {name}: cannot import {module} ({error}); install it, or put its folder"
            " on PYTHONPATH"
        ) from error
    except AttributeError:
        raise UserError(f"estimator: {name}: module {module} has no {function}") from None
    if not callable(found):
        raise UserError(f"estimator: {name}: is not a function")
    return found

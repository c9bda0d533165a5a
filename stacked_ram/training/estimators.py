"""The estimators: how a batch of photos becomes the losses of an optimiser's step.

One switch, `estimator`: `reinforce`, `leave_one_out`, `self_critical`, `ppo`, `pathwise`.
Each can be read below from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.models.trace import Trace
from stacked_ram.ops.patches import Photos
from stacked_ram.training import losses
from stacked_ram.training.pretraining import combination_logits


@dataclass
class Losses:
    total: Tensor
    """What is differentiated."""
    parts: dict[str, Tensor]
    """Detached scalars by name, for the log."""
    logits_RN: Tensor
    """Last class scores of every row, photo-major."""
    trace: Trace | None = None
    """None where no glimpses were taken (pretraining)."""


def training_losses(
    model: RAM,
    photos: Photos,
    targets: Tensor,
    config: TrainingConfig,
    *,
    location_source: str = "policy",
    class_weights_N: Tensor | None = None,
) -> Iterator[Losses]:
    """The losses of one batch, one for each step of the optimiser (several for PPO only).

    targets: classes (B) or soft targets (B x N), one row a photo. location_source: `random` for
    the warm-up, in which no policy learns; `combinations` for the visual network alone
    (pretraining.py).
    The caller differentiates and steps before it asks for the next.
    """
    if location_source == "combinations":
        yield pretraining_pass(model, photos, targets, config, class_weights_N)
        return
    rollouts = config.rollouts
    targets = targets.repeat_interleave(rollouts, 0)
    hard = model.config.attention == "hard" and location_source == "policy"
    if hard and config.estimator == "ppo":
        yield from ppo_passes(model, photos, targets, config, class_weights_N)
        return

    smooth = hard and config.estimator == "pathwise"
    trace = model(
        photos, rollouts=rollouts, location_source=location_source, sample=not smooth, smooth=smooth
    )
    if not hard or smooth or not any(trace.chosen_T):
        yield total(trace, targets, config, class_weights_N)
        return

    returns_BT = losses.returns(trace, targets, config.reward)
    if config.estimator == "reinforce":
        advantages_BT = returns_BT - trace.baselines_BT.detach()
    elif config.estimator == "leave_one_out":
        advantages_BT = losses.leave_one_out(returns_BT, rollouts)
    else:  # self-critical
        greedy = evaluated(model, photos)
        gained_BT = losses.returns(greedy, targets[::rollouts], config.reward)
        advantages_BT = returns_BT - gained_BT.repeat_interleave(rollouts, 0)
    if config.normalise_advantages:
        advantages_BT = losses.normalised(advantages_BT, trace)
    policy = losses.policy_loss(trace, advantages_BT)
    yield total(trace, targets, config, class_weights_N, returns_BT, policy)


@torch.no_grad()
def evaluated(model: RAM, photos: Photos) -> Trace:
    """What the model does at evaluation, the baseline of self-critical learning (Rennie et al.,
    2017, section 3.2). The batch-norm statistics stay as they are."""
    model.eval()
    trace = model(photos)
    model.train()
    return trace


def ppo_passes(
    model: RAM,
    photos: Photos,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Iterator[Losses]:
    """Draw scan paths once, then learn from them several times (Schulman et al., 2017)."""
    with torch.no_grad():
        drawn = model(photos, rollouts=config.rollouts, sample=True)
    # Older torch would give the passes below what was cast of the weights without a gradient.
    torch.clear_autocast_cache()
    returns_BT = losses.returns(drawn, targets, config.reward)
    advantages_BT = losses.generalised_advantages(drawn, returns_BT, config.gae_lambda)
    if config.normalise_advantages:
        advantages_BT = losses.normalised(advantages_BT, drawn)
    for _ in range(config.ppo_epochs):
        trace = model(photos, rollouts=config.rollouts, locations_BTS2=drawn.samples_BTS2)
        policy = losses.ppo_loss(trace, drawn.log_probs_BTS, advantages_BT, config.ppo_clip)
        result = total(trace, targets, config, class_weights_N, returns_BT, policy)
        log_ratio = (trace.log_probs_BTS - drawn.log_probs_BTS).detach()
        result.parts["approximate_kl"] = (log_ratio.exp() - 1 - log_ratio).mean()
        yield result


def pretraining_pass(
    model: RAM,
    photos: Photos,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
) -> Losses:
    """The class from every combination of resolutions: the mean of their cross-entropies."""
    logits_RUN = combination_logits(model, photos)
    loss = functional.cross_entropy(
        logits_RUN.flatten(0, 1),
        targets.repeat_interleave(logits_RUN.shape[1], 0),
        weight=class_weights_N,
        label_smoothing=config.label_smoothing,
    )
    return Losses(loss, {"pretraining": loss.detach()}, logits_RUN[:, -1].detach())


def total(
    trace: Trace,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
    returns_BT: Tensor | None = None,
    policy: Tensor | None = None,
) -> Losses:
    """The weighted sum of the parts, and what is worth watching beside them."""
    classification = losses.classification_loss(trace, targets, config, class_weights_N)
    whole = classification
    parts = {"classification": classification}
    if policy is not None:
        baseline = losses.baseline_loss(trace, returns_BT)
        policy_entropy = losses.entropy(trace)
        whole = (
            whole
            + config.baseline_weight * baseline
            + config.policy_weight * policy
            - config.entropy_bonus * policy_entropy
        )
        parts |= {
            "baseline": baseline,
            "policy": policy,
            "entropy": policy_entropy,
            "reward": returns_BT[:, trace.chosen].mean(),
            "explained_variance": losses.explained_variance(trace, returns_BT),
        }
    if trace.stop_logits_BT is not None:
        parts["stop"] = losses.stop_loss(trace, targets)
        whole = whole + parts["stop"]
    parts = {name: part.detach() for name, part in parts.items()}
    return Losses(whole, parts, trace.logits_BTN[:, -1].detach(), trace)

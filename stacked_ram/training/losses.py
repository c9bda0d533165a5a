"""The losses: what a trace is trained on. They read a trace and nothing else.

    B rows = photos x M rollouts, photo-major   T steps   S levels   N classes

All means are over rows; sums over the steps and levels that the policy chose. No loss waits for
the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.trace import Trace


def classification_loss(
    trace: Trace, targets: Tensor, config: TrainingConfig, class_weights_N: Tensor | None = None
) -> Tensor:
    """Cross-entropy after every step (and the glance), averaged by `step_weights`, or after the
    last step.

    targets: classes of the rows (B) or soft targets (B x N).
    """
    logits_BTN = trace.logits_BTN[:, -1:]
    if config.step_losses == "all":
        logits_BTN = trace.logits_BTN
        if trace.glance_logits_BN is not None:
            logits_BTN = torch.cat([trace.glance_logits_BN.unsqueeze(1), logits_BTN], 1)

    def loss(logits_XN: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_XN, targets, weight=class_weights_N, label_smoothing=config.label_smoothing
        )

    if config.step_weights is None:
        return loss(logits_BTN.flatten(0, 1), targets.repeat_interleave(logits_BTN.shape[1], 0))
    weighted = [
        weight * loss(logits_BN, targets)
        for weight, logits_BN in zip(config.step_weights, logits_BTN.unbind(1), strict=True)
    ]
    return torch.stack(weighted).sum() / sum(config.step_weights)


def returns(trace: Trace, targets: Tensor, reward: str) -> Tensor:
    """What was gained from each step on, B x T, without a gradient.

    `correct`: 1 if the last prediction is right, for every step. `drop`: how much the
    cross-entropy fell from before the step (after the glance; at even odds, without one) to the
    end.
    """
    logits_BTN = trace.logits_BTN.detach()
    if reward == "correct":
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        correct_B = (logits_BTN[:, -1].argmax(1) == labels).float()
        return correct_B.unsqueeze(1).expand(-1, logits_BTN.shape[1])
    after_BT = cross_entropies(logits_BTN, targets)
    if trace.glance_logits_BN is not None:
        start_B1 = cross_entropies(trace.glance_logits_BN.detach().unsqueeze(1), targets)
    else:
        start_B1 = torch.full_like(after_BT[:, :1], float(logits_BTN.shape[2])).log()
    before_BT = torch.cat([start_B1, after_BT[:, :-1]], 1)
    return before_BT - after_BT[:, -1:]


def cross_entropies(logits_BTN: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row after each step, B x T."""
    rows, steps, _ = logits_BTN.shape
    each = functional.cross_entropy(
        logits_BTN.flatten(0, 1), targets.repeat_interleave(steps, 0), reduction="none"
    )
    return each.view(rows, steps)


def baseline_loss(trace: Trace, returns_BT: Tensor) -> Tensor:
    """Squared error of the baseline at the steps that the policy chose. Trains nothing else."""
    errors_BT = trace.baselines_BT[:, trace.chosen] - returns_BT[:, trace.chosen]
    return errors_BT.square().sum() / max(errors_BT.numel(), 1)


def policy_loss(trace: Trace, advantages_BT: Tensor) -> Tensor:
    """REINFORCE (Williams, 1992): minus log-probability times advantage, summed over steps.

    Steps that the policy did not choose have no term.
    """
    advantages = advantages_BT[:, trace.chosen].detach().unsqueeze(2)
    return -(trace.log_probs_BTS[:, trace.chosen] * advantages).sum() / len(advantages_BT)


def ppo_loss(trace: Trace, old_log_probs_BTS: Tensor, advantages_BT: Tensor, clip: float) -> Tensor:
    """The clipped surrogate (Schulman et al., 2017, equation 7), summed over steps."""
    chosen = trace.chosen
    ratio_BTS = (trace.log_probs_BTS[:, chosen] - old_log_probs_BTS[:, chosen]).exp()
    advantages = advantages_BT[:, chosen].detach().unsqueeze(2)
    surrogate = torch.minimum(
        ratio_BTS * advantages, ratio_BTS.clamp(1 - clip, 1 + clip) * advantages
    )
    return -surrogate.sum() / len(advantages_BT)


def entropy(trace: Trace) -> Tensor:
    """Entropy of what the policy chose at a step (of all levels together), mean over steps."""
    entropies_BTS = trace.entropies_BTS[:, trace.chosen]
    return entropies_BTS.sum() / max(entropies_BTS[..., 0].numel(), 1)


def stop_loss(trace: Trace, targets: Tensor) -> Tensor:
    """Learned stop: cross-entropy of "this prediction is right already" after each step."""
    labels = targets.argmax(1) if targets.ndim == 2 else targets
    right_BT = (trace.logits_BTN.detach().argmax(2) == labels.unsqueeze(1)).float()
    return functional.binary_cross_entropy_with_logits(trace.stop_logits_BT, right_BT)


def leave_one_out(returns_BT: Tensor, rollouts: int) -> Tensor:
    """Return minus the mean return of the photo's other rollouts (Kool et al., 2019)."""
    returns_PMT = returns_BT.unflatten(0, (-1, rollouts))
    others_PMT = (returns_PMT.sum(1, keepdim=True) - returns_PMT) / (rollouts - 1)
    return (returns_PMT - others_PMT).flatten(0, 1)


def generalised_advantages(trace: Trace, returns_BT: Tensor, lam: float) -> Tensor:
    """GAE (Schulman et al., 2016) with no discount: B x T.

    The rewards are the differences of the returns; the value after the last step is 0.
    """
    values_BT = trace.baselines_BT.detach()
    rewards_BT = returns_BT - torch.cat([returns_BT[:, 1:], torch.zeros_like(returns_BT[:, :1])], 1)
    advantage_B = torch.zeros_like(values_BT[:, 0])
    advantages = []
    for step in reversed(range(values_BT.shape[1])):
        after_B = values_BT[:, step + 1] if step + 1 < values_BT.shape[1] else 0.0
        surprise_B = rewards_BT[:, step] + after_B - values_BT[:, step]
        advantage_B = surprise_B + lam * advantage_B
        advantages.append(advantage_B)
    return torch.stack(advantages[::-1], 1)


def normalised(advantages_BT: Tensor, trace: Trace) -> Tensor:
    """Shifted and scaled so that those of chosen steps have mean 0 and standard deviation 1."""
    chosen = advantages_BT[:, trace.chosen]
    if chosen.numel() < 2:
        return advantages_BT
    return (advantages_BT - chosen.mean()) / (chosen.std() + 1e-6)


def explained_variance(trace: Trace, returns_BT: Tensor) -> Tensor:
    """1 - Var(return - baseline) / Var(return) over the chosen steps; 0 tells nothing, 1 all."""
    wanted = returns_BT[:, trace.chosen]
    told = trace.baselines_BT.detach()[:, trace.chosen]
    if wanted.numel() < 2:
        return torch.zeros((), device=returns_BT.device)
    return 1 - (wanted - told).var() / wanted.var().clamp(min=1e-8)

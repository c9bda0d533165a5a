"""The losses: what a trace is trained on. They read a trace and nothing else.

    P photos   B rows = P x M rollouts, photo-major   T steps   S levels   N classes

All means are over rows; sums are over the steps and levels whose location the policy chose.
Targets are classes (int64) or soft targets (x N), one row a photo or one a row of the trace; with
several labels (`Trace.multi_label`) x N, each from 0 to 1. No loss makes the host wait for the
device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.decisions import photo_f1
from stacked_ram.models.trace import Trace

ASYMMETRIC_GAMMA = 4
ASYMMETRIC_MARGIN = 0.05


@dataclass
class Losses:
    """What one pass over a batch gives to the optimiser and to the log."""

    total: Tensor
    """The scalar to differentiate."""
    parts: dict[str, Tensor]
    """Detached scalars by name, for the log."""
    logits_RN: Tensor
    """Last class scores of each row, photo-major, detached."""
    trace: Trace | None = None
    """None if no glimpses were taken (pretraining)."""
    more: bool = False
    """Whether another pass over the same batch follows (PPO)."""


def total_loss(
    trace: Trace,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None = None,
    returns_BT: Tensor | None = None,
    policy: Tensor | None = None,
) -> Losses:
    """The weighted sum of all losses of a trace, and the parts to log.

    returns_BT, policy: the returns and the policy's loss; None if no policy learns.
    """
    targets = per_row(targets, trace)
    classification = classification_loss(trace, targets, config, class_weights_N)
    total = classification
    parts = {"classification": classification}
    if policy is not None and returns_BT is not None and any(trace.chosen_T):
        baseline = baseline_loss(trace, returns_BT)
        policy_entropy = entropy(trace)
        total = (
            total
            + config.baseline_weight * baseline
            + config.policy_weight * policy
            - config.entropy_bonus * policy_entropy
        )
        parts |= {
            "baseline": baseline,
            "policy": policy,
            "entropy": policy_entropy,
            "reward": returns_BT[:, trace.chosen].mean(),
            "explained_variance": explained_variance(trace, returns_BT),
        }
    if trace.stop_logits_BT is not None:
        parts["stop"] = stop_loss(trace, targets, config.glimpse_cost)
        total = total + parts["stop"]
    parts = {name: part.detach() for name, part in parts.items()}
    return Losses(total, parts, trace.logits_BTN[:, -1].detach(), trace)


def per_row(targets: Tensor, trace: Trace) -> Tensor:
    """Targets of photos repeated for each of their rollouts; those of rows as they are."""
    return targets.repeat_interleave(len(trace.logits_BTN) // len(targets), 0)


def classification_loss(
    trace: Trace, targets: Tensor, config: TrainingConfig, class_weights_N: Tensor | None = None
) -> Tensor:
    """Cross-entropy (with several labels: of `multi_label_loss`) after every step (and the glance),
    averaged by `step_weights`, or after the last step."""
    targets = per_row(targets, trace)
    logits_BTN = trace.logits_BTN[:, -1:]
    if config.step_losses == "all":
        logits_BTN = trace.logits_BTN
        if trace.glance_logits_BN is not None:
            logits_BTN = torch.cat([trace.glance_logits_BN.unsqueeze(1), logits_BTN], 1)

    def loss(logits_XN: Tensor, targets: Tensor) -> Tensor:
        return class_loss(logits_XN, targets, config, class_weights_N, trace.multi_label)

    if config.step_weights is None:
        return loss(logits_BTN.flatten(0, 1), targets.repeat_interleave(logits_BTN.shape[1], 0))
    weighted = [
        weight * loss(logits_BN, targets)
        for weight, logits_BN in zip(config.step_weights, logits_BTN.unbind(1), strict=True)
    ]
    return torch.stack(weighted).sum() / sum(config.step_weights)


def class_loss(
    logits_XN: Tensor,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None,
    multi_label: bool,
) -> Tensor:
    """The mean classification loss of class scores; targets: a row for each."""
    if multi_label:
        return multi_label_loss(logits_XN, targets, config, class_weights_N).mean()
    return functional.cross_entropy(
        logits_XN, targets, weight=class_weights_N, label_smoothing=config.label_smoothing
    )


def multi_label_loss(
    logits_XN: Tensor, targets_XN: Tensor, config: TrainingConfig, weights_N: Tensor | None = None
) -> Tensor:
    """The loss of each row, summed over the classes.

    `bce`: minus the log-likelihood of the labels. `asymmetric` (Ridnik et al., 2021, equation 7,
    with their gamma+ 0, gamma- 4 and margin 0.05): classes that a photo does not have count the
    less, the less likely they already are, and not at all below the margin. weights_N: of the
    classes that a photo has, in `bce`.
    """
    smoothing = config.label_smoothing
    targets_XN = targets_XN * (1 - smoothing) + smoothing / 2
    if config.loss != "asymmetric":
        return functional.binary_cross_entropy_with_logits(
            logits_XN, targets_XN, pos_weight=weights_N, reduction="none"
        ).sum(1)
    shifted_XN = (logits_XN.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
    absent_XN = shifted_XN**ASYMMETRIC_GAMMA * torch.log1p(-shifted_XN)
    present_XN = functional.logsigmoid(logits_XN)
    return -(targets_XN * present_XN + (1 - targets_XN) * absent_XN).sum(1)


def returns(trace: Trace, targets: Tensor, reward: str, glimpse_cost: float = 0.0) -> Tensor:
    """The return from each step on, B x T, without a gradient.

    `correct`: 1 if the last prediction is right, at every step; with several labels its
    `photo_f1`. `drop`: the fall of the cross-entropy (with several labels: of the binary ones' sum
    over the classes) from before the step to the end. (Before the first step it is that of the
    glance, or of equal probabilities without a glance.) With a glimpse_cost the end is where the
    stopping head stops, on average, and each further glimpse costs so much.
    """
    targets = per_row(targets, trace)
    logits_BTN = trace.logits_BTN.detach()
    if reward == "correct" and trace.multi_label:
        right_B1 = photo_f1(logits_BTN[:, -1:] >= 0, targets.unsqueeze(1))
        return right_B1.expand(-1, logits_BTN.shape[1])
    if reward == "correct":
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        correct_B = (logits_BTN[:, -1].argmax(1) == labels).float()
        return correct_B.unsqueeze(1).expand(-1, logits_BTN.shape[1])
    entropies = entropies_of(trace)
    after_BT = entropies(logits_BTN, targets)
    if trace.glance_logits_BN is not None:
        start_B1 = entropies(trace.glance_logits_BN.detach().unsqueeze(1), targets)
    elif trace.multi_label:
        start_B1 = torch.full_like(after_BT[:, :1], logits_BTN.shape[2] * math.log(2))
    else:
        start_B1 = torch.full_like(after_BT[:, :1], float(logits_BTN.shape[2])).log()
    before_BT = torch.cat([start_B1, after_BT[:, :-1]], 1)
    if glimpse_cost > 0:
        return before_BT - expected_ends(trace, after_BT, glimpse_cost).detach()
    return before_BT - after_BT[:, -1:]


def entropies_of(trace: Trace) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropies that fit how many labels a photo has."""
    return binary_cross_entropies if trace.multi_label else cross_entropies


def cross_entropies(logits_BTN: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row after each step, B x T."""
    rows, steps, _ = logits_BTN.shape
    each = functional.cross_entropy(
        logits_BTN.flatten(0, 1), targets.repeat_interleave(steps, 0), reduction="none"
    )
    return each.view(rows, steps)


def binary_cross_entropies(logits_BTN: Tensor, targets_BN: Tensor) -> Tensor:
    """The sum over the classes of the binary cross-entropies after each step, B x T: minus the
    log-likelihood of the photo's labels."""
    targets_BTN = targets_BN.unsqueeze(1).expand_as(logits_BTN)
    each_BTN = functional.binary_cross_entropy_with_logits(
        logits_BTN, targets_BTN, reduction="none"
    )
    return each_BTN.sum(2)


def baseline_loss(trace: Trace, returns_BT: Tensor) -> Tensor:
    """Squared error of the baseline at the steps that the policy chose; it trains the baseline
    alone."""
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


def stop_loss(trace: Trace, targets: Tensor, glimpse_cost: float = 0.0) -> Tensor:
    """Learned stop: cross-entropy of "this prediction is right already" after each step (with
    several labels, of its `photo_f1`); or, with a glimpse_cost, the cross-entropy where the head
    stops, and what the glimpses cost until then."""
    assert trace.stop_logits_BT is not None
    targets = per_row(targets, trace)
    if glimpse_cost > 0:
        after_BT = entropies_of(trace)(trace.logits_BTN.detach(), targets)
        return expected_ends(trace, after_BT, glimpse_cost)[:, 0].mean()
    if trace.multi_label:
        right_BT = photo_f1(trace.logits_BTN.detach() >= 0, targets.unsqueeze(1))
    else:
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        right_BT = (trace.logits_BTN.detach().argmax(2) == labels.unsqueeze(1)).float()
    return functional.binary_cross_entropy_with_logits(trace.stop_logits_BT, right_BT)


def expected_ends(trace: Trace, after_BT: Tensor, glimpse_cost: float) -> Tensor:
    """What is to be expected at the end after each glimpse, B x T: the cross-entropy where the head
    stops, plus glimpse_cost for each glimpse until then.

    after_BT: the cross-entropy after each glimpse. With s_t the probability of stopping after
    glimpse t: E_T = after_T, E_t = s_t after_t + (1 - s_t) (glimpse_cost + E_(t+1)). No stop is
    drawn, so it has no variance.
    """
    assert trace.stop_logits_BT is not None
    stops_BT = trace.stop_logits_BT.sigmoid()
    ends = [after_BT[:, -1]]
    for step in reversed(range(after_BT.shape[1] - 1)):
        go_on_B = glimpse_cost + ends[-1]
        ends.append(go_on_B + stops_BT[:, step] * (after_BT[:, step] - go_on_B))
    return torch.stack(ends[::-1], 1)


def leave_one_out_advantages(returns_BT: Tensor, rollouts: int) -> Tensor:
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
        td_error_B = rewards_BT[:, step] + after_B - values_BT[:, step]
        advantage_B = td_error_B + lam * advantage_B
        advantages.append(advantage_B)
    return torch.stack(advantages[::-1], 1)


def normalised(advantages_BT: Tensor, trace: Trace) -> Tensor:
    """Advantages shifted and scaled: over the chosen steps, mean 0 and standard deviation 1."""
    chosen = advantages_BT[:, trace.chosen]
    if chosen.numel() < 2:
        return advantages_BT
    return (advantages_BT - chosen.mean()) / (chosen.std() + 1e-6)


def explained_variance(trace: Trace, returns_BT: Tensor) -> Tensor:
    """1 - Var(return - baseline) / Var(return) over the chosen steps: 1 is a perfect baseline, 0 no
    better than a constant."""
    returns_BT = returns_BT[:, trace.chosen]
    baselines_BT = trace.baselines_BT.detach()[:, trace.chosen]
    if returns_BT.numel() < 2:
        return torch.zeros((), device=returns_BT.device)
    return 1 - (returns_BT - baselines_BT).var() / returns_BT.var().clamp(min=1e-8)

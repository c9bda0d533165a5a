"""The losses against simple loops in float64, and the estimators against exact gradients."""

from __future__ import annotations

import math

import pytest
import torch

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.attention.hard import GaussianPolicy
from stacked_ram.models.trace import Trace
from stacked_ram.training import losses

B, T, S, N, M = 6, 4, 2, 5, 3


def trace_of(chosen=(False, True, True, True), glance=False, seed=0, **values) -> Trace:
    """Return a trace of random float64 numbers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    fields = dict(
        logits_BTN=random(B, T, N),
        locations_BTS2=random(B, T, S, 2),
        samples_BTS2=random(B, T, S, 2),
        means_BTS2=random(B, T, S, 2),
        log_probs_BTS=random(B, T, S),
        entropies_BTS=random(B, T, S),
        baselines_BT=random(B, T),
        first_chosen=chosen.index(True) if any(chosen) else len(chosen),
        boxes_BTSK4=random(B, T, S, 1, 4),
        read_B=random(B),
        rollouts=M,
        glance_logits_BN=random(B, N) if glance else None,
        stop_logits_BT=random(B, T),
    )
    return Trace(**{**fields, **values})


LABELS = torch.tensor([0, 0, 0, 3, 3, 3])


def cross_entropy(logits, label, smoothing=0.0):
    scores = logits.tolist()
    log_p = [x - math.log(sum(math.exp(y) for y in scores)) for x in scores]
    spread = smoothing / len(log_p)
    return -sum(
        ((1 - smoothing) * (i == int(label)) + spread) * value for i, value in enumerate(log_p)
    )


@pytest.mark.parametrize("glance", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_loss(glance, smoothing):
    trace = trace_of(glance=glance)
    settings = TrainingConfig(step_losses="all", label_smoothing=smoothing)
    each = [
        cross_entropy(trace.logits_BTN[b, t], LABELS[b], smoothing)
        for b in range(B)
        for t in range(T)
    ]
    if glance:
        each += [cross_entropy(trace.glance_logits_BN[b], LABELS[b], smoothing) for b in range(B)]
    found = losses.classification_loss(trace, LABELS, settings)
    assert found.item() == pytest.approx(sum(each) / len(each))

    settings = TrainingConfig(step_losses="last", label_smoothing=smoothing)
    last = [cross_entropy(trace.logits_BTN[b, -1], LABELS[b], smoothing) for b in range(B)]
    found = losses.classification_loss(trace, LABELS, settings)
    assert found.item() == pytest.approx(sum(last) / B)


@pytest.mark.parametrize("glance", [False, True])
def test_steps_have_the_given_weights(glance):
    trace, classes = trace_of(glance=glance), torch.rand(N, dtype=torch.float64) + 0.5
    weights = (0.5, 0.0, 1.0, 2.0, 4.0)[: T + glance]
    steps = [trace.logits_BTN[:, t] for t in range(T)]
    steps = [trace.glance_logits_BN, *steps] if glance else steps
    expected = sum(
        weight
        * losses.classification_loss(
            trace_of(seed=1, logits_BTN=logits[:, None]), LABELS, TrainingConfig(), classes
        )
        for weight, logits in zip(weights, steps, strict=True)
    ) / sum(weights)
    found = losses.classification_loss(trace, LABELS, TrainingConfig(step_weights=weights), classes)
    assert found.item() == pytest.approx(expected.item())
    alike = TrainingConfig(step_weights=(3.0,) * len(weights))
    assert losses.classification_loss(trace, LABELS, alike, classes).item() == pytest.approx(
        losses.classification_loss(trace, LABELS, TrainingConfig(), classes).item()
    )


def test_class_weights_and_soft_targets():
    trace, settings = trace_of(), TrainingConfig(step_losses="last")
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    each = [float(weights[y]) * cross_entropy(trace.logits_BTN[b, -1], y)
            for b, y in enumerate(LABELS)]  # fmt: skip
    found = losses.classification_loss(trace, LABELS, settings, weights)
    assert found.item() == pytest.approx(sum(each) / float(weights[LABELS].sum()))

    soft = torch.zeros(B, N, dtype=torch.float64)
    soft[:, 1], soft[:, 2] = 0.3, 0.7
    each = [
        0.3 * cross_entropy(trace.logits_BTN[b, t], 1)
        + 0.7 * cross_entropy(trace.logits_BTN[b, t], 2)
        for b in range(B)
        for t in range(T)
    ]
    found = losses.classification_loss(trace, soft, TrainingConfig())
    assert found.item() == pytest.approx(sum(each) / len(each))
    right = losses.returns(trace, soft, "correct")[:, 0]
    assert right.tolist() == (trace.logits_BTN[:, -1].argmax(1) == 2).float().tolist()


@pytest.mark.parametrize("glance", [False, True])
def test_returns_are_the_sum_of_the_rewards_to_come(glance):
    trace = trace_of(glance=glance)
    drop = losses.returns(trace, LABELS, "drop")
    correct = losses.returns(trace, LABELS, "correct")
    assert not drop.requires_grad and not correct.requires_grad
    for b in range(B):
        before = [cross_entropy(trace.glance_logits_BN[b], LABELS[b]) if glance else math.log(N)]
        after = [cross_entropy(trace.logits_BTN[b, t], LABELS[b]) for t in range(T)]
        before += after[:-1]
        for t in range(T):
            rewards = [before[u] - after[u] for u in range(t, T)]
            assert drop[b, t].item() == pytest.approx(sum(rewards))
            right = trace.logits_BTN[b, -1].argmax() == LABELS[b]
            assert correct[b, t].item() == float(right)


def test_policy_loss_sums_over_chosen_steps():
    trace = trace_of()
    advantages = torch.randn(B, T, dtype=torch.float64).requires_grad_()
    expected = (
        -sum(
            trace.log_probs_BTS[b, t, s].item() * advantages[b, t].item()
            for b in range(B)
            for t in (1, 2, 3)
            for s in range(S)
        )
        / B
    )
    loss = losses.policy_loss(trace, advantages)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert advantages.grad is None, "advantages are detached"
    assert (trace.log_probs_BTS.grad[:, 0] == 0).all(), "step 0 was not chosen"
    assert (trace.log_probs_BTS.grad[:, 1:] != 0).all()


def test_baseline_loss_and_entropy_count_chosen_steps():
    trace = trace_of()
    wanted = torch.randn(B, T, dtype=torch.float64)
    expected = sum(
        (trace.baselines_BT[b, t].item() - wanted[b, t].item()) ** 2
        for b in range(B)
        for t in (1, 2, 3)
    ) / (B * 3)
    assert losses.baseline_loss(trace, wanted).item() == pytest.approx(expected)
    expected = sum(trace.entropies_BTS[b, t].sum().item() for b in range(B) for t in (1, 2, 3)) / (
        B * 3
    )
    assert losses.entropy(trace).item() == pytest.approx(expected)
    nothing = trace_of(chosen=(False,) * T)
    assert losses.baseline_loss(nothing, wanted).item() == 0
    assert losses.policy_loss(nothing, wanted).item() == 0
    assert losses.entropy(nothing).item() == 0


@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_ppo_loss_against_a_simple_loop(clip):
    trace = trace_of()
    old = trace.log_probs_BTS.detach() + 0.3 * torch.randn(B, T, S, dtype=torch.float64)
    advantages = torch.randn(B, T, dtype=torch.float64)
    total, gradient = 0.0, torch.zeros(B, T, S, dtype=torch.float64)
    for b in range(B):
        for t in (1, 2, 3):
            for s in range(S):
                ratio = math.exp((trace.log_probs_BTS[b, t, s] - old[b, t, s]).item())
                a = float(advantages[b, t])
                clipped = min(max(ratio, 1 - clip), 1 + clip)
                total -= min(ratio * a, clipped * a) / B
                if ratio * a <= clipped * a:  # not clipped: d ratio / d log p = ratio
                    gradient[b, t, s] = -ratio * a / B
    loss = losses.ppo_loss(trace, old, advantages, clip)
    assert loss.item() == pytest.approx(total)
    loss.backward()
    torch.testing.assert_close(trace.log_probs_BTS.grad, gradient)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("reward", ["correct", "drop"])
def test_generalised_advantages_against_a_simple_loop(lam, reward):
    trace = trace_of()
    returns = losses.returns(trace, LABELS, reward).double()
    found = losses.generalised_advantages(trace, returns, lam)
    for b in range(B):
        value = [float(v) for v in trace.baselines_BT[b]] + [0.0]
        gain = [float(r) for r in returns[b]] + [0.0]
        surprise = [gain[t] - gain[t + 1] + value[t + 1] - value[t] for t in range(T)]
        for t in range(T):
            expected = sum(lam ** (u - t) * surprise[u] for u in range(t, T))
            assert found[b, t].item() == pytest.approx(expected, abs=1e-6)
    if lam == 1:
        torch.testing.assert_close(found, returns - trace.baselines_BT.detach())


def test_leave_one_out_against_a_simple_loop():
    returns = torch.randn(B, T, dtype=torch.float64)
    found = losses.leave_one_out_advantages(returns, M)
    for b in range(B):
        photo = b // M
        others = [r for r in range(photo * M, photo * M + M) if r != b]
        for t in range(T):
            expected = returns[b, t] - sum(returns[r, t] for r in others) / (M - 1)
            assert found[b, t].item() == pytest.approx(expected.item())


def test_normalised_advantages_and_explained_variance():
    trace = trace_of()
    advantages = 5 + 3 * torch.randn(B, T, dtype=torch.float64)
    advantages[:, 0] = 1000  # not chosen: has no weight
    chosen = losses.normalised(advantages, trace)[:, 1:]
    assert chosen.mean().item() == pytest.approx(0, abs=1e-6)
    assert chosen.std().item() == pytest.approx(1, abs=1e-5)

    returns = trace.baselines_BT.detach()
    assert losses.explained_variance(trace, returns).item() == pytest.approx(1)
    flat = trace_of(baselines_BT=torch.full((B, T), 2.0, dtype=torch.float64))
    assert losses.explained_variance(flat, advantages).item() == pytest.approx(0)
    half = trace_of(baselines_BT=(returns / 2).clone())  # what is left has a quarter of it
    assert losses.explained_variance(half, returns).item() == pytest.approx(0.75)

    one = trace_of(
        chosen=(False, True), logits_BTN=torch.zeros(1, 2, N), baselines_BT=torch.ones(1, 2)
    )
    alone = torch.tensor([[5.0, 3.0]])
    assert torch.equal(losses.normalised(alone, one), alone), "one number has no deviation"
    assert losses.explained_variance(one, alone).item() == 0
    two = trace_of(chosen=(True, True), baselines_BT=torch.zeros(1, 2))
    assert losses.normalised(alone, two)[0].tolist() == pytest.approx([0.7071, -0.7071], abs=1e-4)
    assert losses.explained_variance(two, alone).item() == pytest.approx(0)
    same = torch.full((1, 2), 3.0)
    assert losses.normalised(same, two).tolist() == [[0.0, 0.0]]
    assert losses.explained_variance(two, same).item() == 1


def test_the_total_and_its_parts_with_a_policy_and_without():
    trace = trace_of(stop_logits_BT=None)
    settings = TrainingConfig(baseline_weight=0.3, policy_weight=0.7, entropy_bonus=0.1)
    drop = losses.returns(trace, LABELS, "drop")
    found = losses.total_loss(trace, LABELS, settings, None, drop, drop.mean())
    by_hand = 0.3 * found.parts["baseline"] + 0.7 * drop.mean() - 0.1 * found.parts["entropy"]
    assert found.total.item() == pytest.approx((found.parts["classification"] + by_hand).item())
    assert set(found.parts) == {
        "classification", "baseline", "policy", "entropy", "reward", "explained_variance"
    }  # fmt: skip
    assert found.parts["reward"].item() == pytest.approx(drop[:, 1:].mean().item())
    assert found.logits_RN.tolist() == trace.logits_BTN[:, -1].tolist()
    assert not found.logits_RN.requires_grad and not found.more and found.trace is trace
    for returns, policy in [(None, None), (drop, None), (None, drop.mean())]:
        alone = losses.total_loss(trace, LABELS, settings, None, returns, policy)
        assert set(alone.parts) == {"classification"}
        assert alone.total.item() == alone.parts["classification"].item()
    nothing = trace_of(chosen=(False,) * T, stop_logits_BT=None)
    fixed = losses.total_loss(nothing, LABELS, settings, None, drop, drop.mean())
    assert set(fixed.parts) == {"classification"}


def test_targets_are_those_of_photos_or_of_rows():
    trace, settings = trace_of(), TrainingConfig()
    by_photo, by_row = (
        losses.total_loss(trace, labels, settings).total.item() for labels in (LABELS[::M], LABELS)
    )
    assert by_photo == by_row
    for reward in ("correct", "drop"):
        assert torch.equal(
            losses.returns(trace, LABELS[::M], reward), losses.returns(trace, LABELS, reward)
        )
    assert losses.stop_loss(trace, LABELS[::M]).item() == losses.stop_loss(trace, LABELS).item()
    soft = torch.nn.functional.one_hot(LABELS, N).double()
    assert losses.stop_loss(trace, soft).item() == losses.stop_loss(trace, LABELS).item()
    assert losses.returns(trace, soft, "drop")[:, 0].tolist() == pytest.approx(
        losses.returns(trace, LABELS, "drop")[:, 0].tolist()
    )


def test_the_target_of_the_stop_loss_is_whether_the_prediction_is_right():
    trace = trace_of()
    each = []
    for b in range(B):
        for t in range(T):
            p = 1 / (1 + math.exp(-float(trace.stop_logits_BT[b, t])))
            right = trace.logits_BTN[b, t].argmax() == LABELS[b]
            each.append(-math.log(p if right else 1 - p))
    loss = losses.stop_loss(trace, LABELS)
    assert loss.item() == pytest.approx(sum(each) / len(each))
    loss.backward()
    assert trace.logits_BTN.grad is None


@pytest.mark.parametrize("glance", [False, True])
def test_with_a_cost_the_loss_and_the_returns_are_expectations_over_where_the_head_stops(glance):
    trace, cost = trace_of(glance=glance), 0.3
    losses.stop_loss(trace, LABELS, cost).backward()
    assert trace.logits_BTN.grad is None and trace.stop_logits_BT.grad[:, :-1].abs().min() > 0
    ends = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        stop = [1 / (1 + math.exp(-float(score))) for score in trace.stop_logits_BT[b]]
        stop[-1] = 1.0
        after = [cross_entropy(trace.logits_BTN[b, t], LABELS[b]) for t in range(T)]
        for begin in range(T):
            left = 1.0  # the probability of not having stopped
            for t in range(begin, T):
                ends[b, begin] += left * stop[t] * (after[t] + cost * (t - begin))
                left *= 1 - stop[t]
    found = losses.stop_loss(trace, LABELS, cost).item()
    assert found == pytest.approx(ends[:, 0].mean().item())
    returns = losses.returns(trace, LABELS, "drop", cost)
    assert not returns.requires_grad
    before = losses.returns(trace, LABELS, "drop") + torch.tensor(
        [[cross_entropy(trace.logits_BTN[b, -1], LABELS[b])] for b in range(B)]
    )
    torch.testing.assert_close(returns, before - ends, atol=1e-6, rtol=0)


# ------------------------------------------------------------------ the Gaussian's exact gradient


def grid(mean: torch.Tensor, std: float, cells: int = 241) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples on a fine grid over 7 standard deviations, and their probabilities."""
    line = torch.linspace(-7, 7, cells, dtype=torch.float64) * std
    x, y = torch.meshgrid(mean[0] + line, mean[1] + line, indexing="ij")
    samples = torch.stack([x.flatten(), y.flatten()], 1)
    squares = ((samples - mean) / std).square().sum(1)
    return samples, (-0.5 * squares).softmax(0)


def gradient_of(policy, state, samples, probability, reward) -> list[torch.Tensor]:
    """Return the expected gradient of losses.policy_loss, summed over the grid."""
    policy.zero_grad()
    choice = policy(state.expand(len(samples), -1), None, sample=False, given_R2=samples)
    rows = len(samples)
    trace = trace_of(
        chosen=(True,),
        log_probs_BTS=(choice.log_prob_B * probability * rows).view(-1, 1, 1),
        logits_BTN=torch.zeros(rows, 1, 2),
    )
    losses.policy_loss(trace, reward(choice.location_B2).view(-1, 1)).backward()
    return [parameter.grad.clone() for parameter in policy.parameters()]


def double_policy(std: float) -> GaussianPolicy:
    torch.manual_seed(1)
    policy = GaussianPolicy(4, std).double()
    torch.nn.init.normal_(policy.layers[-1].weight, std=0.1)
    return policy


def test_gaussian_policy_gradient_equals_the_closed_form():
    """For the reward -|l - a|^2 the expected reward is -|mean - a|^2 - 2 std^2."""
    std, aim = 0.1, torch.tensor([0.3, -0.2], dtype=torch.float64)
    policy, state = double_policy(std), torch.randn(1, 4, dtype=torch.float64)
    mean = policy(state, None, sample=False).mean_B2
    (mean - aim).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in policy.parameters()]
    samples, probability = grid(mean.detach()[0], std)
    found = gradient_of(policy, state, samples, probability, lambda at: -(at - aim).square().sum(1))
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_exact_where_samples_are_clamped():
    """Near the edge locations are clamped; log-probabilities are of the samples before that."""
    std, state = 0.4, torch.randn(1, 4, dtype=torch.float64)
    policy = double_policy(std)
    with torch.no_grad():
        policy.layers[-1].bias.copy_(torch.tensor([1.2, -0.4]))

    def reward(at):
        return torch.sin(3 * at[:, 0]) + at[:, 0] * at[:, 1]

    def expected(mean):  # by quadrature, differentiable in the mean
        samples, probability = grid(torch.zeros(2, dtype=torch.float64), std, cells=601)
        return (probability * reward((mean + samples).clamp(-1, 1))).sum()

    mean = policy(state, None, sample=False).mean_B2[0]
    assert mean[0] > 0.7
    (-expected(mean)).backward()
    wanted = [parameter.grad.clone() for parameter in policy.parameters()]
    samples, probability = grid(mean.detach(), std, cells=201)
    found = gradient_of(policy, state, samples, probability, reward)
    for actual, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, exact, atol=2e-3, rtol=5e-3)
    clamped = gradient_of(policy, state, samples.clamp(-1, 1), probability, reward)
    assert not torch.allclose(clamped[-1], wanted[-1], rtol=0.05), "what the test is against"


def test_golden_losses():
    """Values of this code; a change of these numbers needs a reason."""
    trace = trace_of(glance=True)
    settings = TrainingConfig()
    drop = losses.returns(trace, LABELS, "drop")
    found = {
        "classification": losses.classification_loss(trace, LABELS, settings),
        "baseline": losses.baseline_loss(trace, drop),
        "policy": losses.policy_loss(trace, losses.leave_one_out_advantages(drop, M)),
        "advantage": losses.generalised_advantages(trace, drop, 0.95).mean(),
        "entropy": losses.entropy(trace),
        "stop": losses.stop_loss(trace, LABELS),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {
            "classification": 2.123663,
            "baseline": 3.001342,
            "policy": -0.061411,
            "advantage": 0.008807,
            "entropy": 0.352526,
            "stop": 0.913342,
        },
        abs=1e-5,
    )

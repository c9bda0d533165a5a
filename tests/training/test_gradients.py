"""Where gradients go: which loss trains which part, for every variant of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from variants import HARD, VARIANTS, forward, make, pixels, spread_the_policy

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.training import losses

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_hard_variant = pytest.mark.parametrize("name", sorted(HARD))


def reached(model, loss: torch.Tensor) -> set[str]:
    """Return the names of the parameters with a gradient of this loss."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def awake(model) -> None:
    """Replace zero parameters, which initially block the gradient of some branches."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)


def parts_of(model, *prefixes: str) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    return {name for name in names if name.startswith(prefixes)}


@every_variant
def test_each_loss_trains_what_it_should_and_nothing_else(name):
    model = make(name, seed=2)
    awake(model)
    spread_the_policy(model)
    torch.manual_seed(0)
    trace = forward(model, pixels(6), rollouts=2)
    targets = torch.arange(12) % 3
    settings = TrainingConfig()

    everything = {key for key, _ in model.named_parameters()}
    attention = {key for key in everything if ".attention." in key}
    of_policy = set(attention)
    if name == "glance_location":  # the only loss that trains the first location
        of_policy |= parts_of(model, "glance.", "first_out.")
    of_both = parts_of(model, "glance.network.") if name == "glance_of_the_policy" else set()
    of_baseline, of_stop = parts_of(model, "baseline."), parts_of(model, "stop.")

    by_class = reached(model, losses.classification_loss(trace, targets, settings))
    if name not in HARD:
        assert by_class == everything
        assert not trace.log_probs_BTS.requires_grad
        return
    assert by_class == everything - of_policy - of_baseline - of_stop

    trace = forward(model, pixels(6), rollouts=2)
    advantages = torch.randn(trace.baselines_BT.shape)
    policy = losses.policy_loss(trace, advantages + trace.baselines_BT)
    assert reached(model, policy) == of_policy | of_both

    trace = forward(model, pixels(6), rollouts=2)
    baseline = losses.baseline_loss(trace, losses.returns(trace, targets, "drop"))
    assert reached(model, baseline) == of_baseline

    if of_stop:
        trace = forward(model, pixels(6))
        assert reached(model, losses.stop_loss(trace, targets[:6])) == of_stop


def test_the_first_location_is_random_in_training_with_every_estimator():
    model = make("dense", first_location="random")
    assert model.config.first_location == "random"
    for how in (dict(sample=True), dict(sample=False, smooth=True)):
        assert forward(model, pixels(6), **how).locations_BTS2[:, 0].std() > 0.1
    assert not forward(model, pixels(6), sample=False).locations_BTS2[:, 0].any()


@every_hard_variant
def test_the_sampled_location_is_detached_and_the_pathwise_one_is_not(name):
    model = make(name)
    trace = forward(model, pixels(), rollouts=2)
    assert not trace.samples_BTS2.requires_grad
    assert not trace.locations_BTS2.requires_grad
    assert trace.means_BTS2.requires_grad or model.config.policy == "categorical"
    assert trace.log_probs_BTS.requires_grad


@pytest.mark.parametrize("name", ["dense", "conv", "stack_rnn_own", "stack_conv", "gaussian_map",
                                  "glance_location", "backbone"])  # fmt: skip
def test_the_pathwise_gradient_reaches_the_policy_through_the_patches(name):
    model = make(name, seed=2)
    awake(model)
    trace = forward(model, pixels(6), sample=False, smooth=True)
    loss = losses.classification_loss(trace, torch.arange(6) % 3, TrainingConfig())
    everything = {key for key, _ in model.named_parameters()}
    assert reached(model, loss) == everything - parts_of(model, "baseline.")


@every_hard_variant
def test_no_policy_term_for_locations_that_the_policy_did_not_choose(name):
    """With random or forced first locations, in the warm-up and in controls, log-probabilities are
    0 without a gradient; and the policy is not queried after the last glimpse."""
    model = make(name) if name == "glance_location" else make(name, first_location="random")
    queries = []
    for level in model.levels:
        if level.attention is not None:
            level.attention.register_forward_hook(lambda *_: queries.append(1))
    trace = forward(model, pixels(), rollouts=2)
    policies = sum(level.attention is not None for level in model.levels)
    model_steps = trace.chosen_T
    assert len(queries) == policies * sum(model_steps)
    assert len(trace.chosen_T) == model.config.num_glimpses == trace.log_probs_BTS.shape[1]
    for step, chosen in enumerate(trace.chosen_T):
        assert (trace.log_probs_BTS[:, step].abs().sum() > 0) == chosen
    for control in ("random", "centre"):
        trace = forward(model, pixels(), location_source=control)
        assert not any(trace.chosen_T)
        assert (trace.log_probs_BTS == 0).all() and not trace.log_probs_BTS.requires_grad
    assert len(queries) == policies * sum(model_steps), "a control does not query the policy"


def test_a_frozen_backbone_does_not_change():
    for name in ("backbone", "backbone_glance", "stack_backbone"):
        model = make(name, freeze_backbone=True)
        parts = [model.backbone] if name != "stack_backbone" else [model.levels[0].retina.maps]
        before = {key: value.clone() for part in parts for key, value in part.state_dict().items()}
        model.train()
        trace = forward(model, pixels())
        trace.logits_BTN.sum().backward()
        after = {key: value for part in parts for key, value in part.state_dict().items()}
        assert any("running_mean" in key for key in before)
        assert all(torch.equal(before[key], after[key]) for key in before), name
        network = model.backbone or model.levels[0].retina.maps.network
        assert all(parameter.grad is None for parameter in network.parameters())
        assert model.classifier.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["conv", "stack_conv", "stack_rnn_own", "backbone"])
def test_recomputed_steps_change_nothing(name):
    """With activation_checkpointing, gradients and statistics are the same."""
    after = []
    for recompute in (False, True):
        model = make(name, seed=4)
        model.activation_checkpointing = recompute
        torch.manual_seed(9)
        trace = forward(model, pixels(4), rollouts=2)
        losses.classification_loss(trace, torch.arange(8) % 3, TrainingConfig()).backward()
        gradients = [
            parameter.grad for parameter in model.parameters() if parameter.grad is not None
        ]
        after.append([*gradients, *model.buffers()])
    for first, other in zip(*after, strict=True):
        torch.testing.assert_close(first, other, atol=1e-5, rtol=1e-5)

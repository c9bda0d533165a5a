"""The estimators: their exact expected gradients, summed over all possible scan paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from variants import make, photos_of, pixels, spread_the_policy

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.retina.norms import batch_norms
from stacked_ram.models.retina.what import ConvWhat
from stacked_ram.runtime.errors import UserError
from stacked_ram.training import estimators, losses

LABELS = torch.tensor([0, 1, 2, 0])
GRID = dict(policy="categorical", regions=(2, 2), glance=(16, 24), first_location="learned")


class Replay:
    """A model with given samples: a scan path for each row."""

    def __init__(self, model, paths_RT2: torch.Tensor):
        self.model, self.paths = model, paths_RT2.unsqueeze(2)
        self.has_policy = model.has_policy

    def __call__(self, photos, *, rollouts=1, location_source="policy", sample=None, smooth=False,
                 locations_BTS2=None):  # fmt: skip
        if sample:
            locations_BTS2 = self.paths
        return self.model(
            photos,
            rollouts=rollouts,
            location_source=location_source,
            sample=sample,
            smooth=smooth,
            locations_BTS2=locations_BTS2,
        )

    def eval(self):
        self.model.eval()

    def train(self):
        pass  # batch norm as in evaluation, so that a row does not depend on the others


@pytest.fixture(scope="module")
def problem():
    """A photo, two glimpses, four cells: twelve scan paths, with their exact probabilities."""
    model = make("dense", seed=3, num_glimpses=2, **GRID).eval()
    spread_the_policy(model)
    images = pixels(1)
    images[..., :20, :26], images[..., 20:, 26:] = 255, 0  # locations give different logits
    centres = model.levels[0].attention.centres_R2
    paths = torch.stack([centres[list(two)] for two in itertools.permutations(range(4), 2)])

    def forward():
        return model(photos_of(model, images), rollouts=12, locations_BTS2=paths.unsqueeze(2))

    with torch.no_grad():  # and different rewards
        model.classifier.weight.mul_(30)
        model.classifier.bias.sub_(forward().logits_BTN[:, -1].mean(0))
    trace = forward()
    label = trace.logits_BTN[:, -1].argmax(1)[:1]
    return model, images, label, paths, trace


def attention_gradient(model) -> torch.Tensor:
    parameters = model.levels[0].attention.parameters()
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def exact_gradient(model, images, label, paths, reward) -> torch.Tensor:
    """Return the gradient of minus the expected return, summed over all scan paths. A step's drop
    rewards all choices before it, so the return from the first step has the whole gradient."""
    trace = model(photos_of(model, images), rollouts=12, locations_BTS2=paths.unsqueeze(2))
    returns = losses.returns(trace, label.expand(12), reward)[:, 0]
    probability = trace.log_probs_BTS.sum((1, 2)).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert returns.std() > 0.05, "locations must have different rewards"
    model.zero_grad()
    (-(probability * returns).sum()).backward()
    return attention_gradient(model)


def estimate(model, images, label, paths_RT2, settings) -> torch.Tensor:
    """Return the gradient of a training pass with these scan paths."""
    model.eval()
    passes = estimators.losses(Replay(model, paths_RT2), photos_of(model, images), label, settings)
    total = next(passes).total
    model.zero_grad()
    total.backward()
    return attention_gradient(model)


@pytest.mark.parametrize("reward", ["correct", "drop"])
@pytest.mark.parametrize("estimator", ["reinforce", "self_critical", "ppo", "leave_one_out"])
def test_the_expected_estimate_is_the_exact_gradient(problem, estimator, reward):
    model, images, label, paths, trace = problem
    rollouts = 2 if estimator == "leave_one_out" else 1
    settings = TrainingConfig(
        estimator=estimator, reward=reward, rollouts=rollouts, gae_lambda=1.0, policy_weight=1.0
    )
    probability = trace.log_probs_BTS.sum((1, 2)).exp().detach()
    wanted = exact_gradient(model, images, label, paths, reward)
    found = torch.zeros_like(wanted)
    for drawn in itertools.product(range(12), repeat=rollouts):
        weight = probability[list(drawn)].prod()
        found += weight * estimate(model, images, label, paths[list(drawn)], settings)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_many_samples_agree_with_the_exact_gradient(problem):
    """The same with the model's own samples."""
    model, images, label, paths, _ = problem
    wanted = exact_gradient(model, images, label, paths, "drop")
    model.generator = torch.Generator().manual_seed(0)
    settings = TrainingConfig(estimator="leave_one_out", reward="drop", rollouts=20_000)
    model.eval()
    drawing = model.forward
    model.forward = lambda *args, sample=None, **how: drawing(*args, sample=True, **how)
    try:
        total = next(estimators.losses(model, photos_of(model, images), label, settings)).total
    finally:
        del model.forward
        model.generator = None
    model.zero_grad()
    total.backward()
    found = attention_gradient(model)
    assert (found - wanted).norm() < 0.1 * wanted.norm()


# ------------------------------------------------------------------ the passes of a step


def passes_of(model, settings, location_source="policy"):
    return estimators.losses(
        model, photos_of(model, pixels(4)), LABELS, settings, location_source=location_source
    )


def test_ppo_trains_several_times_on_the_same_scan_paths():
    model = make("dense", std=0.9)  # many samples are outside the photo
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    settings = TrainingConfig(estimator="ppo", ppo_epochs=4, rollouts=3, reward="drop")
    paths, divergence, log_probs, more = [], [], [], []
    for step in passes_of(model, settings):
        optimizer.zero_grad()
        step.total.backward()
        optimizer.step()
        paths.append(step.trace.samples_BTS2.detach())
        log_probs.append(step.trace.log_probs_BTS.detach())
        divergence.append(step.parts["approximate_kl"].item())
        more.append(step.more)
    assert more == [True, True, True, False]
    assert all(torch.equal(path, paths[0]) for path in paths)
    assert (paths[0].abs() > 1).any()
    assert divergence[0] == pytest.approx(0, abs=1e-7), "the first ratio is 1"
    assert divergence[-1] > divergence[0]
    log_ratio = (log_probs[-1] - log_probs[0])[:, step.trace.chosen]
    expected = (log_ratio.exp() - 1 - log_ratio).mean().item()
    assert divergence[-1] == pytest.approx(expected), "of the steps that the policy chose"


def test_ppo_with_one_pass_is_reinforce():
    """At a ratio of 1 the clipped surrogate has the gradient of REINFORCE."""
    gradients = []
    for estimator in ("ppo", "reinforce"):
        model = make("dense")
        model.generator = torch.Generator().manual_seed(4)
        settings = TrainingConfig(estimator=estimator, gae_lambda=1.0, reward="drop")
        next(iter(passes_of(model, settings))).total.backward()
        gradients.append(attention_gradient(model))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_self_critical_does_not_change_the_statistics_or_the_mode():
    model = make("conv")
    modes = []
    for module in model.modules():
        if isinstance(module, ConvWhat):
            module.register_forward_hook(
                lambda network, *_: modes.extend(
                    norm.training for norm in batch_norms(network.convolutions)
                )
            )
    next(iter(passes_of(model, TrainingConfig(estimator="self_critical"))))
    norms = [norm for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    glimpses = model.config.num_glimpses
    assert {int(norm.num_batches_tracked) for norm in norms} == {glimpses}
    assert modes.count(False) == modes.count(True) == glimpses * len(norms)
    assert model.training


@pytest.mark.parametrize("estimator", ["reinforce", "leave_one_out", "self_critical", "ppo",
                                       "pathwise"])  # fmt: skip
def test_no_policy_learns_from_random_glimpses(estimator):
    model = make("dense")
    settings = TrainingConfig(estimator=estimator, rollouts=1 if estimator == "pathwise" else 2)
    steps = list(passes_of(model, settings, location_source="random"))
    assert len(steps) == 1
    assert set(steps[0].parts) == {"classification"}
    steps[0].total.backward()
    assert all(parameter.grad is None for parameter in model.levels[0].attention.parameters())


def test_the_total_is_the_weighted_sum_of_the_losses():
    settings = TrainingConfig(
        baseline_weight=0.3, policy_weight=0.7, entropy_bonus=0.1, reward="drop", rollouts=2
    )
    model = make("dense", learned_stop=True, **GRID)
    step = next(iter(passes_of(model, settings)))
    parts = step.parts
    assert not any(part.requires_grad for part in parts.values())
    expected = (
        parts["classification"] + 0.3 * parts["baseline"] + 0.7 * parts["policy"]
        - 0.1 * parts["entropy"] + parts["stop"]
    )  # fmt: skip
    torch.testing.assert_close(step.total.detach(), expected)
    assert step.trace.rollouts == 2


@pytest.mark.parametrize("wanted", [False, True], ids=["as they are", "normalised"])
@pytest.mark.parametrize("estimator", ["reinforce", "leave_one_out", "self_critical", "ppo"])
def test_the_policy_learns_from_the_advantages_normalised_on_request(estimator, wanted):
    settings = TrainingConfig(
        estimator=estimator, rollouts=2, normalise_advantages=wanted, reward="drop"
    )
    model = make("dense", std=0.9).eval()
    passes = estimators.losses(
        Replay(model, torch.rand(8, 3, 2) * 2 - 1), photos_of(model, pixels(4)), LABELS, settings
    )
    step = next(passes)
    trace = step.trace
    returns = losses.returns(trace, LABELS, "drop")
    if estimator == "leave_one_out":
        advantages = returns - returns.view(4, 2, -1).flip(1).flatten(0, 1)
    elif estimator == "self_critical":
        greedy = losses.returns(model(photos_of(model, pixels(4))), LABELS, "drop")
        advantages = returns - greedy.repeat_interleave(2, 0)
    elif estimator == "reinforce":
        advantages = returns - trace.baselines_BT
    else:
        advantages = losses.generalised_advantages(trace, returns, settings.gae_lambda)
    if wanted:
        advantages = losses.normalised(advantages, trace)
    if estimator == "ppo":
        expected = losses.ppo_loss(trace, trace.log_probs_BTS.detach(), advantages, 0.2)
    else:
        expected = losses.policy_loss(trace, advantages)
    assert step.parts["policy"].item() == pytest.approx(expected.item(), abs=1e-5)
    step.total.backward()
    assert attention_gradient(model).abs().max() > 0


def test_pathwise_draws_nothing_and_reaches_the_policy_through_the_patches():
    model = make("dense", snap=False, first_location="learned")
    (step,) = passes_of(model, TrainingConfig(estimator="pathwise"))
    assert torch.equal(step.trace.samples_BTS2, step.trace.means_BTS2)
    assert set(step.parts) == {"classification"}
    step.total.backward()
    assert attention_gradient(model).abs().max() > 0


def test_settings_are_a_config_or_keywords_and_photos_may_be_pixels():
    model = make("dense").eval()
    found = []
    for how in (
        dict(estimator="leave_one_out", rollouts=3),
        dict(config=TrainingConfig(estimator="leave_one_out", rollouts=2), rollouts=3),
        dict(config=TrainingConfig(estimator="leave_one_out", rollouts=3)),
        dict(config=TrainingConfig(rollouts=3), estimator=estimators.leave_one_out),
    ):
        model.generator = torch.Generator().manual_seed(0)
        (step,) = estimators.losses(model, pixels(4), LABELS, **how)
        assert step.trace.rollouts == 3 and not step.more
        found.append(step.total.item())
    assert len(set(found)) == 1
    (step,) = estimators.losses(model, pixels(4), LABELS)
    assert step.trace.rollouts == 1 and "baseline" in step.parts


def test_a_model_without_a_policy_learns_from_the_classification_alone():
    model = make("soft")
    (step,) = passes_of(model, TrainingConfig(estimator="leave_one_out", rollouts=2))
    assert set(step.parts) == {"classification"}
    step.total.backward()
    assert attention_gradient(model).abs().max() > 0


def test_an_estimator_is_found_by_its_name_or_import_path():
    assert estimators.find_estimator("ppo") is estimators.ppo
    assert estimators.find_estimator("math:floor") is math.floor
    for name, says in [
        ("no_such_module:one", "cannot import no_such_module"),
        ("math:nothing", "module math has no nothing"),
        ("math:pi", "math:pi: is not a function"),
    ]:
        with pytest.raises(UserError, match=says):
            estimators.find_estimator(name)


def test_golden_run():
    """Five steps of the paper's model; a change of these numbers needs a reason."""
    model = make("dense", core="rnn")
    model.generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    totals = []
    for _ in range(5):
        step = next(iter(passes_of(model, TrainingConfig())))
        optimizer.zero_grad()
        step.total.backward()
        optimizer.step()
        totals.append(step.total.item())
    assert totals == pytest.approx([0.15172, 0.44149, 1.21336, 0.89261, 1.34359], abs=2e-3)


def test_pathwise_reads_the_same_patches_in_training_and_after_it():
    model = make("dense", snap=False)
    photos = model.photos(pixels(6))
    locations = torch.rand(6, model.num_glimpses, 1, 2) * 2 - 1
    how = {"locations_BTS2": locations, "sample": False, "keep_patches": True}
    trained = model(photos, smooth=True, **how)
    evaluated = model.eval()(photos, **how)
    assert torch.equal(trained.patches_BTSKCPP, evaluated.patches_BTSKCPP)

"""Policies against slow float64 references."""

from __future__ import annotations

import math

import pytest
import torch

from stacked_ram.models.attention.base import Context, RegionScorer, region_centres
from stacked_ram.models.attention.hard import CategoricalPolicy, GaussianPolicy


def context(rows=3, regions=4, features=5) -> Context:
    return Context(torch.randn(rows, regions, features))


def scores_by_loop(scorer: RegionScorer, regions_BRD, state_BD) -> torch.Tensor:
    """score_r = w . tanh(V region_r + H state), region by region."""
    weights = {key: value.double() for key, value in scorer.state_dict().items()}
    scores = torch.zeros(regions_BRD.shape[:2], dtype=torch.float64)
    for b, regions in enumerate(regions_BRD.double()):
        for r, region in enumerate(regions):
            hidden = weights["region.weight"] @ region + weights["region.bias"]
            hidden = hidden + weights["state.weight"] @ state_BD[b].double()
            scores[b, r] = (weights["score.weight"] @ hidden.tanh()).item()
    return scores


def test_region_centres_are_those_of_equal_tiles_row_by_row():
    assert region_centres((2, 2)).tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    assert region_centres((1, 1)).tolist() == [[0.0, 0.0]]
    wide = region_centres((1, 4))
    assert wide[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75] and (wide[:, 1] == 0).all()


@pytest.mark.parametrize("std", [0.05, 0.7])
def test_gaussian_log_probability_is_of_the_sample_before_the_clamp(std):
    torch.manual_seed(0)
    policy = GaussianPolicy(4, std)
    torch.nn.init.normal_(policy.layers[-1].weight, std=0.5)
    state = torch.randn(200, 4)
    choice = policy(state, None, sample=True, generator=torch.Generator().manual_seed(1))
    for row in range(0, 200, 7):
        wanted = entropy = 0.0
        for axis in range(2):
            z = (choice.sample_B2[row, axis].item() - choice.mean_B2[row, axis].item()) / std
            wanted += -0.5 * z * z - math.log(std) - 0.5 * math.log(2 * math.pi)
            entropy += 0.5 * math.log(2 * math.pi * math.e * std * std)
        assert choice.log_prob_B[row].item() == pytest.approx(wanted, abs=1e-3)
        assert choice.entropy_B[row].item() == pytest.approx(entropy, abs=1e-4)
    assert torch.equal(choice.location_B2, choice.sample_B2.clamp(-1, 1))
    if std == 0.7:
        assert (choice.sample_B2.abs() > 1).any()
    drawn = (choice.sample_B2 - choice.mean_B2) / std
    assert drawn.mean().abs() < 0.15 and abs(drawn.std().item() - 1) < 0.15
    assert not choice.sample_B2.requires_grad


def test_gaussian_starts_near_the_centre_with_its_std():
    torch.manual_seed(0)
    policy = GaussianPolicy(256, 0.2)
    mean = policy(torch.randn(100, 256), None, sample=False).mean_B2
    assert mean.abs().max() < 0.15
    assert torch.equal(policy(torch.ones(3, 256), None, sample=False).location_B2,
                       policy(torch.ones(3, 256), None, sample=False).mean_B2)  # fmt: skip


def test_gaussian_that_reads_the_map_takes_the_expected_centre():
    torch.manual_seed(0)
    policy = GaussianPolicy(6, 0.2, region_features=5, regions=(2, 2))
    inputs, state = context(), torch.randn(3, 6)
    choice = policy(state, inputs, sample=False)
    scores = scores_by_loop(policy.scorer, inputs.regions_BRD, state)
    for b in range(3):
        weights = scores[b].exp() / scores[b].exp().sum()
        wanted = sum(w * c for w, c in zip(weights, region_centres((2, 2)).double(), strict=True))
        torch.testing.assert_close(choice.mean_B2[b].double(), wanted, atol=1e-5, rtol=1e-4)


def test_categorical_against_a_loop():
    torch.manual_seed(0)
    policy = CategoricalPolicy(6, region_features=5, regions=(2, 2))
    torch.nn.init.normal_(policy.scorer.score.weight)
    inputs, state = context(), torch.randn(3, 6)
    visited = torch.tensor([[False] * 4, [True, False, False, True], [True] * 4])
    centres, nowhere = region_centres((2, 2)), torch.tensor([0.1, 0.1])
    earlier = [torch.where(visited[:, r, None], centres[r], nowhere) for r in range(4)]
    scores = scores_by_loop(policy.scorer, inputs.regions_BRD, state)
    choice = policy(state, inputs, sample=True, earlier=earlier,
                    generator=torch.Generator().manual_seed(2))  # fmt: skip
    for b in range(3):
        open_cells = [r for r in range(4) if not visited[b, r] or visited[b].all()]
        total = sum(math.exp(scores[b, r]) for r in open_cells)
        p = [math.exp(scores[b, r]) / total if r in open_cells else 0.0 for r in range(4)]
        assert choice.weights_BR[b].tolist() == pytest.approx(p, abs=1e-5)
        cell = policy.cell_of(choice.location_B2)[b].item()
        assert choice.log_prob_B[b].item() == pytest.approx(math.log(p[cell]), abs=1e-4)
        entropy = -sum(q * math.log(q) for q in p if q > 0)
        assert choice.entropy_B[b].item() == pytest.approx(entropy, abs=1e-5)
    best = policy(state, inputs, sample=False, earlier=earlier)
    assert torch.equal(best.location_B2, policy.centres_R2[choice.weights_BR.argmax(1)])


def test_cells_near_one_that_was_looked_at_are_not_drawn_while_there_are_others():
    policy = CategoricalPolicy(6, region_features=5, regions=(4, 5), inhibition=1)
    repeated = Context(torch.randn(1, 20, 5).expand(500, -1, -1))
    state, earlier = torch.randn(1, 6).expand(500, -1), []
    for _ in range(2):
        earlier.append(policy(state, repeated, sample=True, earlier=earlier).location_B2)
    cells = torch.stack([policy.cell_of(each) for each in earlier])
    apart = torch.stack([cells.div(5, rounding_mode="floor"), cells % 5]).diff(dim=1).abs()
    assert (apart.amax(0) >= 2).all() and len(cells[0].unique()) > 10
    everywhere = [policy.centres_R2[cell].expand(500, 2) for cell in (6, 8, 10, 16, 18)]
    assert policy.visited(everywhere).all()
    last = policy(state, repeated, sample=True, earlier=everywhere)
    assert last.log_prob_B.isfinite().all() and len(policy.cell_of(last.location_B2).unique()) > 10


def test_categorical_gradients_are_finite_where_cells_are_masked():
    policy = CategoricalPolicy(6, region_features=5, regions=(2, 2))
    earlier = [centre.expand(3, 2) for centre in policy.centres_R2[:3]]
    choice = policy(torch.randn(3, 6), context(), sample=True, earlier=earlier)
    (choice.log_prob_B.sum() + choice.entropy_B.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in policy.parameters())
    assert (choice.location_B2 == policy.centres_R2[3]).all()


def test_samples_follow_the_probabilities():
    torch.manual_seed(0)
    policy = CategoricalPolicy(6, region_features=5, regions=(2, 2))
    torch.nn.init.normal_(policy.scorer.score.weight)
    repeated = Context(torch.randn(1, 4, 5).expand(20_000, -1, -1))
    choice = policy(torch.randn(1, 6).expand(20_000, -1), repeated, sample=True)
    counts = policy.cell_of(choice.location_B2).bincount(minlength=4) / 20_000
    torch.testing.assert_close(counts, choice.weights_BR[0], atol=0.015, rtol=0)


@pytest.mark.parametrize("regions", [(1, 1), (2, 3), (5, 4)])
def test_cells_of_centres_and_edges(regions):
    policy = CategoricalPolicy(2, region_features=2, regions=regions)
    cells = torch.arange(regions[0] * regions[1])
    assert torch.equal(policy.cell_of(policy.centres_R2), cells)
    assert policy.cell_of(torch.tensor([[-1.0, -1.0]])).item() == 0
    assert policy.cell_of(torch.tensor([[1.0, 1.0]])).item() == len(cells) - 1
    assert policy.cell_of(torch.tensor([[1.0, -1.0]])).item() == regions[1] - 1
    visited = policy.visited([policy.centres_R2])
    assert torch.equal(visited, torch.eye(len(cells), dtype=bool))
    assert not policy.visited(
        [policy.centres_R2 + 0.05]
    ).any()  # a location near a centre does not count

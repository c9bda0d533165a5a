"""Soft attention and its gradient against a slow float64 reference."""

from __future__ import annotations

import torch
from test_hard import context, scores_by_loop

from stacked_ram.models.attention.base import Context, region_centres
from stacked_ram.models.attention.soft import SoftAttention

EARLIER = [torch.zeros(3, 2)]  # after the first glimpse


def attention(seed=0) -> SoftAttention:
    torch.manual_seed(seed)
    return SoftAttention(6, region_features=5, regions=(2, 2))


def test_the_first_step_scores_only_the_regions():
    soft, inputs = attention(), context()
    first = soft(torch.randn(3, 6), inputs)
    other = soft(torch.randn(3, 6), inputs)
    assert torch.equal(first.weights_BR, other.weights_BR), "the state has no influence yet"
    kernel = soft.first.weight.double().flatten()
    for b in range(3):
        scores = torch.stack([kernel @ region for region in inputs.regions_BRD[b].double()])
        torch.testing.assert_close(first.weights_BR[b].double(), scores.softmax(0), atol=1e-5,
                                   rtol=1e-4)  # fmt: skip


def test_later_steps_depend_on_the_state():
    soft, inputs, state = attention(), context(), torch.randn(3, 6)
    choice = soft(state, inputs, earlier=EARLIER)
    scores = scores_by_loop(soft.scorer, inputs.regions_BRD, state)
    centres = region_centres((2, 2)).double()
    for b in range(3):
        weights = scores[b].exp() / scores[b].exp().sum()
        location = sum(w * c for w, c in zip(weights, centres, strict=True))
        attended = sum(w * f for w, f in zip(weights, inputs.regions_BRD[b].double(), strict=True))
        for found, wanted in (
            (choice.weights_BR, weights),
            (choice.location_B2, location),
            (choice.attended_BD, attended),
        ):
            torch.testing.assert_close(found[b].double(), wanted, atol=1e-5, rtol=1e-4)
    assert (choice.log_prob_B == 0).all() and (choice.entropy_B == 0).all()


def test_gradients_agree_with_finite_differences():
    """Gradients of the location and the attended features with respect to state and regions."""
    soft, rng = attention().double(), torch.Generator().manual_seed(3)
    scorer = soft.scorer
    state = torch.randn(2, 6, dtype=torch.float64, generator=rng, requires_grad=True)
    regions = torch.randn(2, 4, 5, dtype=torch.float64, generator=rng, requires_grad=True)

    def outcome(state, regions):
        choice = soft(state, Context(regions), earlier=EARLIER)
        return (choice.location_B2.sum(1) + choice.attended_BD.sum(1)).sum()

    found = torch.autograd.grad(outcome(state, regions), (state, regions))

    def exact(state, regions):
        hidden = (scorer.region(regions) + scorer.state(state).unsqueeze(1)).tanh()
        weights = scorer.score(hidden).squeeze(-1).softmax(1)
        location = weights @ region_centres((2, 2)).double()
        return location.sum() + (weights.unsqueeze(1) @ regions).sum()

    step = 1e-5
    for which, gradient in enumerate(found):
        for place in range(0, gradient.numel(), 3):
            values = [state.detach().clone(), regions.detach().clone()]
            values[which].view(-1)[place] += step
            above = exact(*values)
            values[which].view(-1)[place] -= 2 * step
            slope = (above - exact(*values)) / (2 * step)
            assert abs(slope.item() - gradient.reshape(-1)[place].item()) < 1e-4

"""Losses, rewards and estimators where a photo may have several labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import tiny_config

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.batch import Batch
from stacked_ram.data.mixup import MixUpCutMix
from stacked_ram.models.build import build_model
from stacked_ram.models.trace import Trace
from stacked_ram.training import estimators
from stacked_ram.training.losses import classification_loss, multi_label_loss, returns, stop_loss

TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def trace_of(logits_BTN: torch.Tensor, **more: torch.Tensor) -> Trace:
    rows, steps, _ = logits_BTN.shape
    nothing = torch.zeros(rows, steps, 1)
    places = torch.zeros(rows, steps, 1, 2)
    return Trace(
        logits_BTN, places, places, places, nothing, nothing, nothing[..., 0], 0, None, None,
        multi_label=True, **more,
    )  # fmt: skip


def test_the_loss_is_minus_the_log_likelihood_of_the_labels():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    has = TARGETS.bool()
    by_hand = -torch.where(has, logits.sigmoid(), 1 - logits.sigmoid()).log().sum(1)
    found = multi_label_loss(logits, TARGETS, TrainingConfig())
    assert torch.allclose(found, by_hand, atol=1e-6)
    weighted = multi_label_loss(logits, TARGETS, TrainingConfig(), torch.tensor([3.0, 1.0, 1.0]))
    first = -logits[0, 0].sigmoid().log()
    assert torch.allclose(weighted - by_hand, torch.tensor([2 * first, 0.0]), atol=1e-6)
    smooth = multi_label_loss(logits, TARGETS, TrainingConfig(label_smoothing=0.2))
    same = multi_label_loss(logits, 0.8 * TARGETS + 0.1, TrainingConfig())
    assert torch.allclose(smooth, same)


def test_the_asymmetric_loss_is_that_of_the_paper():
    # Ridnik et al., 2021, equations 4 to 7, with gamma+ 0, gamma- 4, margin 0.05
    probability = torch.tensor([[0.3, 0.8, 0.04]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    found = multi_label_loss(probability.logit(), targets, TrainingConfig(loss="asymmetric"))
    shifted = 0.8 - 0.05
    by_hand = -math.log(0.3) - shifted**4 * math.log(1 - shifted)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_rewards():
    # three steps on two photos; the second has no label
    logits = torch.tensor(
        [[[-1.0, -1, -1], [1, -1, -1], [1, 1, 1]], [[1.0, 1, 1], [-1, 1, -1], [-2, -2, -2]]]
    )
    correct = returns(trace_of(logits), TARGETS, "correct")
    # two of three said are right, and both that the photo has: F1 = 2 * 2 / (3 + 2)
    assert torch.allclose(correct, torch.tensor([[0.8] * 3, [1.0] * 3]))
    drop = returns(trace_of(logits), TARGETS, "drop")
    end = torch.nn.functional.softplus(torch.tensor([-1.0, -1, 1])).sum().item()
    # a logit of 1 for -1 is worth 1 nat where it is right, and costs 1 where it is wrong
    assert drop[0].tolist() == pytest.approx([3 * math.log(2) - end, 1, 0], abs=1e-5)
    glance = returns(trace_of(logits, glance_logits_BN=logits[:, 0]), TARGETS, "drop")
    assert glance[0, 0].item() == pytest.approx(glance[0, 1].item(), abs=1e-6)
    sure = trace_of(logits, stop_logits_BT=torch.zeros(2, 3))
    assert stop_loss(sure, TARGETS).item() == pytest.approx(math.log(2))
    # after the first step the head stops with probability 1/2, so a fourth of the photos go on
    # to the third
    after = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, TARGETS[:, None].expand(2, 3, 3), reduction="none"
    ).sum(2)
    expected = 0.5 * after[:, 0] + 0.25 * (after[:, 1] + 0.3) + 0.25 * (after[:, 2] + 0.6)
    assert stop_loss(sure, TARGETS, 0.3).item() == pytest.approx(expected.mean().item())
    # the photo's F1 is what the head should say: 0.8 of the first at the end
    said = trace_of(logits[:1, 2:], stop_logits_BT=torch.tensor([[2.0]]))
    by_hand = -0.8 * math.log(1 / (1 + math.exp(-2))) - 0.2 * math.log(1 / (1 + math.exp(2)))
    assert stop_loss(said, TARGETS[:1]).item() == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "fields",
    [
        {"estimator": "reinforce", "reward": "correct"},
        {"estimator": "leave_one_out", "rollouts": 2, "loss": "asymmetric"},
        {"estimator": "self_critical"},
        {"estimator": "ppo", "ppo_epochs": 2},
        {"estimator": "pathwise", "snap": False},
        {"attention": "soft", "glance": (8, 8), "regions": (2, 2)},
    ],
)
def test_every_estimator_learns_what_is_on_a_photo(fields):
    config = replace_fields(tiny_config("nowhere"), {"reward": "drop", "patch_size": 6} | fields)
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=3, multi_label=True).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    targets = torch.tensor([[number >> bit & 1 for bit in range(3)] for number in range(8)]).float()
    # a class tints the whole photo
    images = (0.2 + 0.6 * targets)[:, :, None, None].expand(8, 3, 12, 12).contiguous()
    found = []
    for _ in range(20):
        for losses in estimators.losses(model, images, targets, config.training):
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
        found.append(losses.parts["classification"].item())
    assert math.isfinite(found[-1]) and found[-1] < 0.6 * found[0]


def test_soft_labels_of_mixup_are_learned():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    batch = Batch(pixels, torch.full((4, 2), 8), labels, torch.zeros(4, 4), torch.arange(4))
    blended = MixUpCutMix(0.4, 0.0, 3)(batch, 0, 0)
    fraction = blended.targets_BN[0, 0]  # of photo 0, which has the class; photo 3 has it not
    assert 0 < fraction < 1
    mixed = fraction * labels[0] + (1 - fraction) * labels[3]
    assert torch.allclose(blended.targets_BN[0], mixed)
    logits = torch.zeros(4, 1, 3)
    loss = classification_loss(trace_of(logits), blended.targets_BN, TrainingConfig())
    assert loss.item() == pytest.approx(3 * math.log(2), rel=1e-5)


def test_probabilities_and_how_sure_they_are():
    model = build_model(ModelConfig(), num_classes=3, multi_label=True)
    beliefs = model.beliefs(torch.tensor([[0.0, 2.0, -2.0]]))
    assert np.allclose(beliefs, [[0.5, 0.8808, 0.1192]], atol=1e-4)
    model.thresholds = (0.25, 0.5, 0.5)
    # a third of the way from 0.25 to 1; the others are farther from their thresholds
    assert model.sureness(beliefs).item() == pytest.approx(1 / 3, abs=1e-4)

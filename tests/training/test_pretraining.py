"""Pretraining of the visual network on every combination of resolutions."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional
from variants import make, photos_of, pixels

from stacked_ram.config.schema import Config, ModelConfig, TrainingConfig
from stacked_ram.runtime.errors import UserError
from stacked_ram.training import estimators
from stacked_ram.training.pretraining import combination_logits, combinations

SOFT = dict(attention="soft", policy="gaussian")


def test_every_combination_exists_once():
    found = {tuple((row > 0).tolist()) for row in combinations(torch.zeros(1))}
    assert found == set(itertools.product((False, True), repeat=3)) - {(False,) * 3}
    assert combinations(torch.zeros(1)).sum(1).tolist() == pytest.approx([1.0] * 7)
    assert (combinations(torch.zeros(1))[-1] > 0).all()


def test_each_combination_is_classified_from_its_own_patches():
    """Reference: the mean feature of the patches, the glance's projection, a single step."""
    model = make("backbone_glance", **SOFT).eval()
    photos = photos_of(model, pixels(2))
    model.generator = torch.Generator().manual_seed(5)
    found = combination_logits(model, photos)
    assert found.shape == (2, 7, 3)
    places = torch.rand(2, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1
    for row, photo in itertools.product(range(7), range(2)):
        members = (combinations(torch.zeros(1))[row] > 0).nonzero()[:, 0].tolist()
        features = []
        for resolution in members:
            geometry = dataclasses.replace(
                model.levels[0].retina.geometry, num_patches=1, patch_width=2.0**resolution
            )
            patch = photos.patches(places, geometry)[photo, 0]
            features.append(model.backbone(patch[None])[0])
        vector = model.glance.project(torch.stack(features).mean(0)[None]).relu()
        core = model.levels[0].core
        out, _ = core(vector, core.start(1, vector))
        torch.testing.assert_close(
            model.classifier(out)[0], found[photo, row], atol=1e-4, rtol=1e-4
        )


def test_it_trains_the_visual_network_but_not_the_attention():
    model = make("backbone_glance", **SOFT)
    settings = TrainingConfig(label_smoothing=0.1)
    targets = torch.tensor([0, 1, 2])
    model.generator = torch.Generator().manual_seed(1)
    (step,) = estimators.losses(
        model, photos_of(model, pixels()), targets, settings, location_source="combinations"
    )
    step.total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    visual = {name for name in trained if "backbone" in name}
    assert visual == {name for name, _ in model.named_parameters() if "backbone" in name}
    assert trained - visual == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("glance.project", "levels.0.core", "classifier"))
    }
    assert set(step.parts) == {"pretraining"} and step.trace is None
    assert step.logits_RN.shape == (3, 3)


def test_the_loss_is_the_mean_over_the_combinations():
    model = make("backbone_glance", **SOFT).eval()
    photos, targets = photos_of(model, pixels()), torch.tensor([2, 0, 1])
    model.generator = torch.Generator().manual_seed(1)
    logits = combination_logits(model, photos)
    model.generator.manual_seed(1)
    (step,) = estimators.losses(
        model, photos, targets, TrainingConfig(), location_source="combinations"
    )
    each = [functional.cross_entropy(logits[:, row], targets) for row in range(7)]
    assert step.total.item() == pytest.approx(sum(each).item() / 7, abs=1e-5)


def test_it_needs_a_network_for_both_glance_and_patches():
    with pytest.raises(UserError, match="pretrain_epochs"):
        Config(model=ModelConfig(), training=TrainingConfig(pretrain_epochs=1))
    backbone = dict(retina="backbone", backbone="test_resnet", glance=(64, 64))
    Config(model=ModelConfig(**backbone), training=TrainingConfig(pretrain_epochs=1))
    with pytest.raises(UserError, match=r"pretrain_epochs.*no glance_stride"):
        Config(
            model=ModelConfig(**backbone, glance_stride=16),
            training=TrainingConfig(pretrain_epochs=1),
        )

"""The cost of a photo, compared with counting by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from variants import VARIANTS, make

from stacked_ram.config.schema import DataConfig
from stacked_ram.evaluation.cost import count_parameters, photo_cost, typical_size
from stacked_ram.evaluation.linear_probe import image_gmacs

# of the small models: patch 4, 2 patches, 3 channels, what 16, where 8, feature 16, state 16
FEATURE = 2 * 3 * 4 * 4 * 16 + 2 * 8 + (16 + 8) * 16
CORES = {"lstm": 4 * 16 * 32, "gru": 3 * 16 * 32, "rnn": 16 * 32}
POLICY = 16 * 128 + 128 * 2


@pytest.mark.parametrize("core", CORES)
def test_every_multiplication_of_the_papers_model_is_counted(core):
    model = make("dense", core=core, first_location="learned")
    cost = photo_cost(model, 40, 52)
    classifier, baseline = 16 * 3, 16
    glimpse = FEATURE + CORES[core] + POLICY + classifier + baseline
    assert cost.per_glimpse * 1e9 == pytest.approx(glimpse)
    assert cost.core * 1e9 == pytest.approx(CORES[core])
    assert cost.before == 0
    assert cost.total == pytest.approx(3 * cost.per_glimpse)
    assert model.training, "unchanged"


def test_attention_over_glimpses_is_counted():
    """Fused kernels would not be counted."""
    model = make("dense", core="transformer", num_glimpses=1, first_location="learned")
    products = 16 * 16 + 2 * (16 * 48 + 16 * 16 + 2 * 16 * 32 + 2 * 16)
    assert photo_cost(model, 40, 52).core * 1e9 == pytest.approx(products)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_total_is_the_sum_of_its_parts(name):
    model = make(name)
    cost = photo_cost(model, 40, 52)
    steps = model.config.num_glimpses
    assert cost.total == pytest.approx(cost.before + steps * cost.per_glimpse)
    maps_or_glance = model.glance is not None or model.config.stack in ("conv", "backbone")
    assert (cost.before > 0) == maps_or_glance
    assert 0 < cost.core < cost.per_glimpse


def test_frozen_parameters_are_counted_separately():
    model = make("backbone", freeze_backbone=True)
    everything, trained = count_parameters(model)
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert everything - trained == backbone > 0


def test_resizing_is_counted_separately():
    small, large = (photo_cost(make("glance_core"), side, side) for side in (40, 200))
    assert large.total == pytest.approx(small.total)
    assert large.reading > small.reading > 0


def test_a_typical_photo_is_a_photo_of_the_set():
    """The medians of height and width give nearly a square, which hardly any photo is."""
    sizes = np.array([(300, 200)] * 3 + [(200, 300)] * 3 + [(250, 240)])
    photos = SimpleNamespace(sizes=sizes)
    assert typical_size(photos, DataConfig()) in {(200, 300), (300, 200)}
    assert typical_size(photos, DataConfig(short_side=100)) in {(100, 150), (150, 100)}
    assert typical_size(photos, DataConfig(photo_size=(50, 60))) == (50, 60)


def test_attention_in_the_fine_tuned_backbone_is_counted_as_in_the_model():
    class Attends(nn.Module):
        def forward(self, images_BCRR):
            tokens_BTD = images_BCRR.flatten(1).unflatten(1, (-1, 8))
            return functional.scaled_dot_product_attention(tokens_BTD, tokens_BTD, tokens_BTD)

    tokens = 3 * 16 * 16 // 8
    cost = image_gmacs(Attends(), 16, torch.device("cpu"))
    assert cost * 1e9 == pytest.approx(2 * tokens * tokens * 8)

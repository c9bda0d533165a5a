"""What a photo costs, against counting by hand."""

from __future__ import annotations

import pytest
from variants import VARIANTS, make

from stacked_ram.cost import count_parameters, photo_cost

# of the small models: patch 4, 2 patches, 3 channels, what 16, where 8, feature 16, state 16
FEATURE = 2 * 3 * 4 * 4 * 16 + 2 * 8 + (16 + 8) * 16
CORES = {"lstm": 4 * 16 * 32, "gru": 3 * 16 * 32, "rnn": 16 * 32}
POLICY = 16 * 128 + 128 * 2


@pytest.mark.parametrize("core", CORES)
def test_every_product_of_the_papers_model_is_counted(core):
    model = make("dense", core=core, first_location="learned")
    cost = photo_cost(model, 40, 52)
    classifier, baseline = 16 * 3, 16
    glimpse = FEATURE + CORES[core] + POLICY + classifier + baseline
    assert cost.per_glimpse * 1e9 == pytest.approx(glimpse)
    assert cost.core * 1e9 == pytest.approx(CORES[core])
    assert cost.before == 0
    assert cost.total == pytest.approx(3 * cost.per_glimpse)
    assert model.training, "as it was"


def test_attention_over_glimpses_is_counted():
    """Fused kernels would count as nothing."""
    model = make("dense", core="transformer", num_glimpses=1, first_location="learned")
    products = 16 * 16 + 2 * (16 * 48 + 16 * 16 + 2 * 16 * 32 + 2 * 16)
    assert photo_cost(model, 40, 52).core * 1e9 == pytest.approx(products)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_whole_is_the_sum_of_its_parts(name):
    model = make(name)
    cost = photo_cost(model, 40, 52)
    steps = model.config.num_glimpses
    assert cost.total == pytest.approx(cost.before + steps * cost.per_glimpse)
    maps_or_glance = model.glance is not None or model.config.stack in ("conv", "backbone")
    assert (cost.before > 0) == maps_or_glance
    assert 0 < cost.core < cost.per_glimpse


def test_frozen_parameters_are_told_apart():
    model = make("backbone", freeze_backbone=True)
    everything, trained = count_parameters(model)
    backbone = sum(one.numel() for one in model.backbone.parameters())
    assert everything - trained == backbone > 0


def test_bringing_pixels_to_size_stands_by_itself():
    small, large = (photo_cost(make("glance_core"), side, side) for side in (40, 200))
    assert large.total == pytest.approx(small.total)
    assert large.reading > small.reading > 0

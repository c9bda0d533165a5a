"""A forced glimpse changes one place and nothing else; a hidden one is not there."""

from __future__ import annotations

import pytest
import torch
from variants import batch_of, make, pixels, spread_the_policy

from stacked_ram.evaluation.cost import gmacs
from stacked_ram.evaluation.what_if import features, grid_of, take, what_if
from stacked_ram.models.attention.base import region_centres

KINDS = (
    "dense_transformer_core", "stack_rnn_own", "stack_rnn_shared_categorical", "stack_conv", "soft",
    "glance_location", "categorical",
)  # fmt: skip


def moving(name: str, **changes):
    model = make(name, **changes).eval()
    spread_the_policy(model)
    return model


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_the_models_own_places_give_its_own_belief(name):
    model = moving(name)
    photos = model.photos(*batch_of([(40, 52), (30, 64)]))
    trace = model(photos)
    found = what_if(model, photos, (2, 3))
    torch.testing.assert_close(found.own_BKN[:, 1:], trace.logits_BTN)
    torch.testing.assert_close(found.locations_BTS2, trace.locations_BTS2)
    torch.testing.assert_close(found.boxes_BTSK4, trace.boxes_BTSK4)
    state = model.start(photos)
    own = features(model, state.views, trace.locations_BTS2)
    end = take(model, state, trace.locations_BTS2, own)
    torch.testing.assert_close(model.scores(end.outputs[-1]), trace.logits_BTN[:, -1])


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_each_value_is_that_of_a_pass_with_one_glimpse_moved(name):
    model = moving(name)
    photos = model.photos(*batch_of([(40, 52), (30, 64)]))
    grid = grid_of(model, (40, 52), 6)
    found = what_if(model, photos, grid)
    centres = region_centres(grid)
    for step, place in ((0, 1), (1, 3)):
        moved = found.locations_BTS2.clone()
        moved[:, step] = centres[place]
        trace = model(photos, location_source="centre", locations_BTS2=moved)
        torch.testing.assert_close(found.forced_BTGN[:, step, place], trace.logits_BTN[:, -1])
    # without the last glimpse the model believes what it believed before it
    torch.testing.assert_close(found.hidden_BTN[:, -1], found.own_BKN[:, -2])


def test_a_policy_over_cells_is_asked_about_its_cells():
    assert grid_of(make("cells_of_the_state"), (40, 52), 300) == (4, 5)
    rows, columns = grid_of(make("dense"), (300, 400), 300)
    assert (rows, columns) == (15, 20)
    assert grid_of(make("dense"), (5000, 100), 300) == (150, 2)
    assert grid_of(make("dense"), (10, 9000), 300) == (1, 300)


@pytest.mark.parametrize("name", ["dense", "soft"])
def test_300_places_of_a_photo_cost_no_more_than_300_photos(name):
    model = moving(name)
    one = model.photos(pixels(1))
    many = model.photos(pixels(1).expand(300, -1, -1, -1))
    with torch.no_grad():
        places, _ = gmacs(lambda: what_if(model, one, (15, 20)))
        photos, _ = gmacs(lambda: model(many))
    assert places < photos

"""A control changes exactly the locations that the policy chooses."""

from __future__ import annotations

import itertools

import pytest
import torch
from variants import make

from stacked_ram.data.batch import Batch
from stacked_ram.evaluation.controls import at_boxes, random_locations


def drawn(model, photos: int = 200, seed: int = 0) -> torch.Tensor:
    return random_locations(model, photos, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("first", ["centre", "random", "learned"])
def test_a_first_glimpse_that_the_policy_does_not_choose_is_unchanged(first):
    model = make("dense", first_location=first)
    found = drawn(model)
    assert found.shape == (200, 3, 1, 2)
    assert (found[:, 0] != 0).any() == (first == "learned")
    later = found[:, 1:].flatten(0, -2)
    assert later.min() < -0.9 and later.max() > 0.9 and later.mean(0).abs().max() < 0.1
    assert torch.equal(found, drawn(model)) and not torch.equal(found, drawn(model, seed=1))


@pytest.mark.parametrize(("first", "regions"), [("learned", (2, 2)), ("centre", (3, 3))])
def test_a_policy_over_cells_is_replaced_by_distinct_cells(first, regions):
    model = make(
        "dense", policy="categorical", regions=regions, first_location=first, num_glimpses=4
    )
    centres = model.levels[0].attention.centres_R2
    found = drawn(model)[:, :, 0]
    chosen = found if first == "learned" else found[:, 1:]
    distances = (chosen[:, :, None] - centres).abs().sum(3)
    assert (distances.min(2).values < 1e-6).all(), "centres of cells"
    cells = distances.argmin(2)
    assert all(len(set(row.tolist())) == chosen.shape[1] for row in cells)
    assert len(set(cells.flatten().tolist())) == len(centres) - (first == "centre")


@pytest.mark.parametrize("first", ["learned", "centre"])
def test_cells_are_as_far_apart_as_the_policys(first):
    model = make(
        "dense", policy="categorical", regions=(5, 5), first_location=first, num_glimpses=4,
        inhibition=1,
    )  # fmt: skip
    cells = ((drawn(model)[:, :, 0] + 1) / 2 * 5).floor()
    for earlier, later in itertools.combinations(range(4), 2):
        assert ((cells[:, earlier] - cells[:, later]).abs().amax(1) >= 2).all()
    assert len(cells.flatten(0, 1).unique(dim=0)) == 25 - (0 if first == "learned" else 8)


def test_widths_that_the_policy_chooses_are_drawn_too():
    model = make("zoom", num_zooms=3, num_glimpses=4, regions=(2, 2))
    found = drawn(model)[:, :, 0]
    assert found.shape == (200, 4, 3)
    assert {tuple(row) for row in found.flatten(0, 1).tolist()} == {
        tuple(choice) for choice in model.levels[0].attention.centres_R2.tolist()
    }
    assert all(len({tuple(step) for step in row}) == 4 for row in found.tolist())


def test_a_given_box_is_looked_at_by_the_narrowest_width_that_holds_it():
    model = make("zoom", num_zooms=3, num_patches=1).eval()  # 4, 8 or 16 pixels wide
    sizes_B2 = torch.tensor([[40, 52]] * 4)
    boxes_B4 = torch.tensor(
        [[10.0, 10, 13, 14], [10, 10, 15, 12], [10, 10, 12, 26], [10, 0, 40, 40]]
    )
    photos = torch.zeros(4, 3, 40, 52, dtype=torch.uint8)
    index = torch.arange(4)
    batch = Batch(photos, sizes_B2, torch.zeros(4, dtype=torch.long), boxes_B4, index)
    found = at_boxes(model, batch)
    assert found[:, 0, 0, 2].tolist() == [0, 1, 2, 2]
    trace = model(photos, location_source="centre", locations_BTS2=found)
    middle = (trace.boxes_BTSK4[:, 0, 0, 0, :2] + trace.boxes_BTSK4[:, 0, 0, 0, 2:]) / 2
    assert ((middle - (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2).abs() <= 1).all()


def test_levels_with_a_shared_location_get_the_same_location():
    model = make("dense", stack="rnn", num_levels=2, stack_location="shared")
    found = drawn(model)
    assert torch.equal(found[:, :, 0], found[:, :, 1])
    model = make("dense", stack="rnn", num_levels=2, stack_location="own")
    assert not torch.equal(drawn(model)[:, :, 0], drawn(model)[:, :, 1])

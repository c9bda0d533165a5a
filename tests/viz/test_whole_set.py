"""The figures of the random_records split, and the warning of a collapsed policy."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import save_run

from stacked_ram.evaluation import predictions
from stacked_ram.models.attention.base import region_centres
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.viz import gallery
from stacked_ram.viz.compare import distinguishing
from stacked_ram.viz.overview import chosen_locations, density_of
from stacked_ram.viz.photos import Split
from stacked_ram.viz.records import record_photos
from stacked_ram.viz.whole_set import WholeSet, record_split, warnings


def random_records(count: int = 40, steps: int = 3, **changes: object) -> WholeSet:
    """Return the records of a model with random locations."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    values = {
        "dataset": "letters",
        "split": "test",
        "classes": ("a", "b", "c", "d"),
        "names": [str(number) for number in range(count)],
        "labels_N": labels,
        "predicted_NT": rng.integers(0, 4, (count, steps)),
        "true_NT": rng.random((count, steps)),
        "confidence_NT": rng.random((count, steps)),
        "locations_NTS2": rng.uniform(-0.9, 0.9, (count, steps, 1, 2)),
        "inside_NT": np.full((count, steps), np.nan),
        "box_fraction_N": np.full(count, np.nan),
        "centre_inside_N": np.full(count, np.nan),
        "sizes_N2": np.full((count, 2), 20),
        "chosen_T": (False, *[True] * (steps - 1)),
    }
    return WholeSet(**{**values, **changes})


def test_no_warning_for_a_model_whose_glimpses_vary():
    assert warnings(random_records()) == []


@pytest.mark.parametrize(
    ("location", "says"),
    [((0.3, 0.2), "same place"), ((1.0, -1.0), "edge")],
)
def test_collapsed_policies_are_reported(location, says):
    locations = np.broadcast_to(np.array(location), (40, 3, 1, 2)).copy()
    assert any(says in note for note in warnings(random_records(locations_NTS2=locations)))
    assert any("hardly move" in note for note in warnings(random_records(locations_NTS2=locations)))


def test_a_fixed_first_location_is_no_collapse():
    rng = np.random.default_rng(1)
    locations = rng.uniform(-0.9, 0.9, (40, 3, 1, 2))
    locations[:, 0] = 0
    assert warnings(random_records(locations_NTS2=locations)) == []


def test_changes_count_every_new_prediction():
    predicted = np.array([[1, 2, 2], [0, 0, 0], [3, 3, 1], [0, 1, 0]])
    np.testing.assert_array_equal(random_records(4, predicted_NT=predicted).changes_N, [1, 0, 1, 2])


@pytest.mark.parametrize("cells", [(8, 10), (3, 3), (24, 32)])
def test_the_density_of_cells_has_no_stripes(cells):
    centres_R2 = region_centres(cells).numpy()
    density = density_of(np.repeat(centres_R2, 5, 0), 0.75, cells)
    np.testing.assert_allclose(density, np.full(cells, 1 / (cells[0] * cells[1])))


def test_only_locations_chosen_by_the_policy_are_binned_by_its_cells():
    results = random_records(cells=(8, 10))  # the policy does not choose the first glimpse
    assert [results.cells_at(step) for step in range(3)] == [None, (8, 10), (8, 10)]
    locations, cells = chosen_locations(results, results.labels_N == 2)
    assert locations.shape == (20, 2) and cells == (8, 10)
    fixed = random_records(cells=(8, 10), chosen_T=(False, False, False))
    locations, cells = chosen_locations(fixed, fixed.labels_N == 2)
    assert locations.shape == (30, 2) and cells is None


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        ({"policy": "categorical"}, (2, 3)),
        ({"policy_reads": "map"}, None),
        ({"attention": "soft"}, None),
    ],
)
def test_the_cells_come_from_the_run(fields, cells, photos, tmp_path):
    folder = save_run(tmp_path, photos, 3, retina="conv", glance=(8, 12), regions=(2, 3),
                      first_location="learned", **fields)  # fmt: skip
    run = load_run(folder, "cpu")
    with Split(run, "test", None) as split:
        results = record_split(run, split)
    assert results.cells == cells
    if cells:
        middles = (results.locations_NTS2[..., 0] + 1) / 2 * cells[1]
        np.testing.assert_allclose(middles % 1, 0.5, atol=1e-5)


def test_galleries_are_chosen_by_the_models_figures():
    results = random_records()
    assert results.true_NT[gallery.best(results)[0], -1] == results.true_NT[:, -1].max()
    wrong = gallery.worst(results)
    assert not results.right_N[wrong].any()
    assert results.confidence_NT[wrong[0], -1] == results.confidence_NT[~results.right_N, -1].max()
    assert results.changes_N[gallery.changed(results)[0]] == results.changes_N.max()
    rows = gallery.one_per_class(results)
    np.testing.assert_array_equal(np.sort(results.labels_N[rows]), np.arange(4))
    for true, predicted, members in gallery.confused(results):
        assert (results.labels_N[members] == true).all() and true != predicted
        assert (results.predicted_NT[members, -1] == predicted).all()


def test_photos_that_distinguish_models_are_right_for_only_one_of_them():
    results, other = (
        random_records(),
        random_records(predicted_NT=np.random.default_rng(5).integers(0, 4, (40, 3))),
    )
    rows = distinguishing(results, other, 4)
    assert (results.right_N[rows] != other.right_N[rows]).all()
    np.testing.assert_array_equal(results.right_N[rows], [True, False, True, False])


def test_pictures_agree_with_the_test(photos, tmp_path):
    run = load_run(save_run(tmp_path, photos, 3, precision="bf16"), "cpu")
    with Split(run, "test", None) as split:
        results = record_split(run, split)
        drawn = list(record_photos(run, split.photos(np.arange(len(results.labels_N)))))
        tested = predictions.predict_split(run.model, split.loader, precision="bf16")
    beliefs = [record.beliefs_TN[-1, record.photo.label] for record in drawn]
    np.testing.assert_allclose(results.true_NT[:, -1], beliefs, atol=1e-6)
    np.testing.assert_allclose(results.true_NT[:, -1], np.exp(-tested.loss_N), atol=1e-6)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stacked_ram.evaluation.metrics import (
    calibration_error,
    confused_pairs,
    confusion,
    mean_interval,
    paired_interval,
    per_class,
    wilson_interval,
)
from stacked_ram.evaluation.objects import covered, hits, narrowest
from stacked_ram.training.meters import Averages, Values


def test_the_interval_is_wilsons_and_covers_the_truth_near_100_percent():
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)  # by hand
    assert wilson_interval(160, 200) == pytest.approx((0.7391, 0.8496), abs=1e-3)
    drawn = np.random.default_rng(0).binomial(100, 0.98, 400)
    within = [low <= 0.98 <= high for low, high in (wilson_interval(n, 100) for n in drawn)]
    assert np.mean(within) > 0.92


def test_the_interval_of_a_difference_depends_on_the_photos_that_differ():
    rng = np.random.default_rng(0)
    shared = rng.random((600, 300)) < 0.8
    ours, theirs = (np.where(rng.random(shared.shape) < 0.1, ~shared, shared) for _ in "ab")
    found = np.array([paired_interval(*pair) for pair in zip(ours, theirs, strict=True)])
    assert ((found[:, 0] <= 0) & (found[:, 1] >= 0)).mean() == pytest.approx(0.95, abs=0.03)
    same = np.ones(200, bool)
    low, high = paired_interval(same, same)
    assert low < 0 < high < 0.02


def test_the_interval_of_a_difference_by_hand():
    ours = np.array([True] * 20 + [False] * 8 + [True] * 160 + [False] * 12)
    theirs = np.array([False] * 20 + [True] * 8 + [True] * 160 + [False] * 12)
    # (20 + 1) / 202 - (8 + 1) / 202, and 1.96 of its standard errors to each side
    assert paired_interval(ours, theirs) == pytest.approx((0.00690, 0.11192), abs=1e-5)
    assert paired_interval(theirs, ours) == pytest.approx((-0.11192, -0.00690), abs=1e-5)
    one = np.array([True])
    assert paired_interval(one, ~one) == pytest.approx((-0.73354, 1.0), abs=1e-5)
    assert paired_interval(~one, one) == pytest.approx((-1.0, 0.73354), abs=1e-5)


def test_the_interval_of_a_mean_by_hand():
    found = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 1.96 * math.sqrt(5 / 3) / 2  # squares of 1.5, 0.5, 0.5, 1.5 over 3, and the root of 4
    assert found["mean"] == 2.5
    assert found["interval_95"] == pytest.approx([2.5 - half, 2.5 + half], abs=1e-4)
    assert mean_interval(np.array([7.0, 9.0]))["interval_95"][1] == pytest.approx(9.96, abs=1e-3)
    assert mean_interval(np.array([7.0])) == {"mean": 7.0, "interval_95": [7.0, 7.0]}


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    right = np.array([True, False, True, True, True])
    # bins of width 0.1: (0.95, 0.95, 1.0) 2 of 3 right, and (0.55, 0.55) both right
    expected = abs(2 - 2.9) / 5 + abs(2 - 1.1) / 5
    assert calibration_error(confidence, right, bins=10) == pytest.approx(expected)
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])) == pytest.approx(0)
    # of fifteen bins the tenth is from 0.6 to 0.667
    in_one_bin, right = np.array([0.601, 0.665]), np.array([False, True])
    assert calibration_error(in_one_bin, right) == pytest.approx((1.266 - 1) / 2)
    # the last bin is from 0.933 to 1 and has both ends; 0.9 is in the one before
    last, right = np.array([1.0, 0.95, 0.9]), np.array([False, True, True])
    assert calibration_error(last, right) == pytest.approx((1.95 - 1 + 0.1) / 3)


def test_tables_of_classes():
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    table = per_class(labels, predicted, ["a", "b", "c"])
    assert table.loc["a"].tolist() == pytest.approx([1.0, 2 / 3, 0.8, 3])
    assert table.loc["b", "precision"] == pytest.approx(2 / 3)
    assert table.loc["c"].tolist() == [0, 0, 0, 0]
    assert table.loc["mean over classes", "f1"] == pytest.approx(0.8)  # c has no photos
    assert table.loc["mean over classes", "photos"] == 5
    single = per_class(np.array([0, 0, 1]), np.array([0, 0, 0]), ["a", "b"])
    assert single.loc["mean over classes", "recall"] == 0.5  # b's only photo counts too
    counts = confusion(labels, predicted, ["a", "b", "c"])
    assert counts.loc["a"].tolist() == [2, 1, 0]
    pairs = confused_pairs(labels, predicted, ["a", "b", "c"])
    assert pairs.values.tolist() == [["a", "a", 2], ["a", "b", 1], ["b", "b", 2]]
    assert list(pairs.columns) == ["class", "predicted", "photos"]
    assert counts.loc["c"].tolist() == [0, 0, 0] and list(counts.columns) == ["a", "b", "c"]


def test_averages_are_exact_over_batches_of_any_size_and_resume_from_a_state():
    values = torch.rand(10)
    averages = Averages()
    averages.add(Values.of({"loss": values[:7].mean()}), 7)
    other = Averages()
    other.load_state_dict(averages.state_dict(), torch.device("cpu"))
    for meter in (averages, other):
        meter.add(Values.of({"loss": values[7:].mean(), "late": torch.tensor(2.0)}), 3)
        assert meter.read()["loss"] == pytest.approx(values.mean().item())
        assert meter.read()["late"] == 2.0
    averages.clear()
    assert averages.read() == {}


def test_hits_and_coverage_on_a_photo_that_is_not_square():
    nan = float("nan")
    boxes = torch.tensor([[10.0, 0, 20, 10], [0, 0, 100, 50], [nan] * 4])[:, None]
    sizes = torch.tensor([[50, 100]] * 3)  # height, width
    locations = torch.tensor([[[-0.7, -0.8], [-0.7, 0.8]]]).expand(3, 2, 2)  # (15, 5), (15, 45)
    found = hits(locations, boxes, sizes)
    assert found[:2].tolist() == [[1, 0], [1, 1]]
    assert found[2].isnan().all()
    patches = torch.tensor([[[5.0, 0, 15, 5], [0, 0, 100, 50]]])  # narrow and wide
    fractions = covered(narrowest(patches[:, None, None].expand(3, 1, 1, 2, 4)), boxes)
    assert fractions[:2, 0].tolist() == pytest.approx([25 / 100, 50 / 5000])
    assert fractions[2].isnan().all()


def test_of_several_objects_any_can_be_hit_and_the_best_is_covered():
    nan = float("nan")
    boxes = torch.tensor([[[10.0, 0, 20, 10], [10, 40, 20, 50]], [[10, 40, 20, 50], [nan] * 4]])
    sizes = torch.tensor([[50, 100]] * 2)
    locations = torch.tensor([[[-0.7, -0.8], [-0.7, 0.8], [0.7, 0.8]]]).expand(2, 3, 2)
    assert hits(locations, boxes, sizes).tolist() == [[1, 1, 0], [0, 1, 0]]
    patches = torch.tensor([[10.0, 38, 20, 48], [50, 0, 60, 10]]).expand(2, 2, 4)
    found = covered(patches, boxes)
    assert found.flatten().tolist() == pytest.approx([0.8, 0, 0.8, 0])

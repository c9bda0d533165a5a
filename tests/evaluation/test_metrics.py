from __future__ import annotations

import numpy as np
import pytest
import torch

from stacked_ram.evaluation.metrics import (
    bootstrap_interval,
    calibration_error,
    confusion,
    confusion_png,
    per_class,
)
from stacked_ram.evaluation.predictions import covered, hits
from stacked_ram.training.meters import Averages, Values


def test_the_interval_is_that_of_resampling_the_photos():
    rng = np.random.default_rng(0)
    right = rng.random(200) < 0.8
    resampled = rng.choice(right, (20_000, 200)).mean(1)
    assert bootstrap_interval(right) == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=0.006
    )
    assert bootstrap_interval(np.ones(10, bool)) == (1.0, 1.0)


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    right = np.array([True, False, True, True, True])
    # bins of width 0.1: (0.95, 0.95, 1.0) 2 of 3 right, and (0.55, 0.55) both right
    expected = abs(2 - 2.9) / 5 + abs(2 - 1.1) / 5
    assert calibration_error(confidence, right, bins=10) == pytest.approx(expected)
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])) == pytest.approx(0)


def test_tables_of_classes():
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    table = per_class(labels, predicted, ["a", "b", "c"])
    assert table.loc["a"].tolist() == pytest.approx([1.0, 2 / 3, 0.8, 3])
    assert table.loc["b", "precision"] == pytest.approx(2 / 3)
    assert table.loc["c"].tolist() == [0, 0, 0, 0]
    counts = confusion(labels, predicted, ["a", "b", "c"])
    assert counts.loc["a"].tolist() == [2, 1, 0]
    assert confusion_png(counts).startswith(b"\x89PNG")


def test_averages_are_exact_over_batches_of_any_size_and_go_on_from_a_state():
    values = torch.rand(10)
    averages = Averages()
    averages.add(Values.of({"loss": values[:7].mean()}), 7)
    other = Averages()
    other.load_state_dict(averages.state_dict(), torch.device("cpu"))
    for one in (averages, other):
        one.add(Values.of({"loss": values[7:].mean(), "late": torch.tensor(2.0)}), 3)
        assert one.read()["loss"] == pytest.approx(values.mean().item())
        assert one.read()["late"] == 2.0
    averages.clear()
    assert averages.read() == {}


def test_hits_and_cover_in_pixels_of_a_photo_that_is_not_square():
    nan = float("nan")
    boxes = torch.tensor([[10.0, 0, 20, 10], [0, 0, 100, 50], [nan] * 4])
    sizes = torch.tensor([[50, 100]] * 3)  # height, width
    locations = torch.tensor([[[-0.7, -0.8], [-0.7, 0.8]]]).expand(3, 2, 2)  # (15, 5), (15, 45)
    found = hits(locations, boxes, sizes)
    assert found[:2].tolist() == [[1, 0], [1, 1]]
    assert found[2].isnan().all()
    patches = torch.tensor([[[5.0, 0, 15, 5], [0, 0, 100, 50]]])  # narrow and wide
    shares = covered(patches[:, None].expand(3, 1, 2, 4), boxes)
    assert shares[:2, 0].tolist() == pytest.approx([25 / 100, 50 / 5000])
    assert shares[2].isnan().all()

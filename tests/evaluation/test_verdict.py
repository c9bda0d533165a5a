from __future__ import annotations

import numpy as np

from stacked_ram.evaluation.verdict import compared, movement

RIGHT = np.arange(500) < 450


def said(other: np.ndarray, right: np.ndarray = RIGHT) -> str:
    return compared(right, other, "the linear probe", "attention is not needed")


def test_a_difference_of_one_photo_does_not_count():
    other = RIGHT.copy()
    other[0] = False
    assert "as good (+0.2 points" in said(other) and "attention is not needed" in said(other)
    assert "as good (+0.0 points" in said(RIGHT)


def test_clear_differences_are_reported_in_both_directions():
    worse, better = RIGHT.copy(), RIGHT.copy()
    worse[:40], better[450:480] = False, True
    assert said(worse).startswith("Better than the linear probe (+8.0 points, 95 % confidence")
    assert "is better (-6.0 points" in said(better) and "attention is not needed" in said(better)


def test_few_photos_allow_no_verdict():
    right = np.array([True, True, False, True, False, True])
    assert said(~right, right).startswith("Too few photos to tell it from the linear probe")


def test_glimpses_that_hardly_move_are_reported():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.uniform(-0.9, 0.9, (40, 1, 2)), 3, axis=1)
    (line,) = movement(still, (True,) * 3)
    assert "glimpses hardly move" in line
    same = np.repeat([[[0.1, 0.2], [-0.6, 0.4], [0.5, -0.5]]], 40, axis=0)
    (line,) = movement(same, (True,) * 3)
    assert "same place in every photo" in line
    assert movement(rng.uniform(-0.9, 0.9, (40, 3, 2)), (True,) * 3) == []
    assert movement(still, (False,) * 3) == [], "no verdict on a policy that chose nothing"

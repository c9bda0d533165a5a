"""Measures of agreement with people, on drawn fixations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stacked_ram.evaluation.fixations import (
    against_people,
    auc_judd,
    density,
    nss,
    read_fixations,
    warped,
)
from stacked_ram.runtime.errors import UserError

SIZE = (300, 400)


def written(folder: Path, text: str) -> Path:
    (folder / "people.csv").write_text(text)
    return folder / "people.csv"


def test_a_map_at_the_fixations_scores_high_and_one_elsewhere_low():
    rng = np.random.default_rng(0)
    place = np.array([[0.5, -0.5]])
    near = place + rng.normal(0, 0.05, (40, 2))
    at, elsewhere = (density(each, np.array([0.1, 0.13]), SIZE) for each in (place, -place))
    assert nss(at, near) > 3 and nss(elsewhere, near) < 0
    assert auc_judd(at, near) > 0.97 and auc_judd(elsewhere, near) < 0.7
    anywhere = rng.uniform(-1, 1, (4000, 2))
    assert nss(at, anywhere) == pytest.approx(0, abs=0.05)
    assert auc_judd(at, anywhere) == pytest.approx(0.5, abs=0.02)
    flat = np.ones((10, 10))
    assert nss(flat, near) == 0 and auc_judd(flat, near) == pytest.approx(0.5)


def test_dynamic_time_warping_by_hand():
    path = np.array([[-1.0, 0.0], [1.0, 0.0]])  # 400 pixels of a diagonal of 500
    assert warped(path, path, SIZE) == 0
    assert warped(path, path[[0, 0, 1, 1, 1]], SIZE) == 0  # a person who stays longer
    assert warped(path, path[::-1], SIZE) == pytest.approx(0.8)
    assert warped(path, np.zeros((1, 2)), SIZE) == pytest.approx(0.4)


def test_a_model_that_looks_like_people_beats_the_centre_bias(tmp_path):
    """Drawn people: two who look at the same two places of each photo, in the model's order."""
    rng = np.random.default_rng(1)
    rows, locations = ["path,x,y,person"], {}
    for number in range(12):
        path = rng.uniform(-0.8, 0.8, (2, 2))
        locations[f"test/{number}.jpg"] = path
        for person in "ab":
            for x, y in (path + rng.normal(0, 0.02, (2, 2)) + 1) / 2 * [400, 300]:
                rows.append(f"test/{number}.jpg,{x:.1f},{y:.1f},{person}")
    file = written(tmp_path, "\n".join(rows))
    people = read_fixations(file)
    found = against_people(locations, dict.fromkeys(locations, SIZE), people, file)
    assert found["photos"] == 12 and found["fixations"] == 48
    model, centre = found["model"], found["centre bias"]
    assert model["nss"]["mean"] > 2 > centre["nss"]["mean"]
    assert model["auc_judd"]["interval_95"][0] > centre["auc_judd"]["interval_95"][1]
    assert model["path_distance"]["mean"] < 0.05 < centre["path_distance"]["mean"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,x\na,1", "no column y"),
        ("path,x,y\na,1,2\na,left,2", "line 3"),
        ("path,x,y\nother.jpg,1,2", "none of its 1 photos is in this split.*such as a.jpg"),
        ("path,x,y\na.jpg,1,2\na.jpg,500,2", r"\(500, 2\) lies outside a.jpg, which is 400 x 300"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, says):
    file = written(tmp_path, text)
    with pytest.raises(UserError, match=says):
        against_people({"a.jpg": np.zeros((1, 2))}, {"a.jpg": SIZE}, read_fixations(file), file)
    with pytest.raises(UserError, match=r"gone\.csv"):
        read_fixations(tmp_path / "gone.csv")

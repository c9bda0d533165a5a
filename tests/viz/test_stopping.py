"""Pictures, the report and the app stop looking exactly where `predict --stop-at` does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import noise_photo, save_run, tiny_run, words_of
from test_draw import is_picture
from test_whole_set import random_records

from stacked_ram.cli.viz import main
from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.evaluation.predict import predict_stream
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.viz import animation, figures, gallery
from stacked_ram.viz.app_view import watch
from stacked_ram.viz.overview import overview_figure
from stacked_ram.viz.records import record_photos
from stacked_ram.viz.style import figure_bytes

GLANCE = {"glance": (8, 8), "num_glimpses": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(1)
    paths = []
    for number in range(12):
        pixels = rng.integers(0, 256, (24, 32, 3)) * rng.random()
        paths.append(folder / f"{number:02d}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


def threshold_that_splits(run: LoadedRun, files: list[Path], by: str) -> float:
    """A threshold at which the photos need different numbers of glimpses."""
    records = list(record_photos(run, files))
    if records[0].glance_belief_N is not None:
        return float(np.median([record.glance_belief_N.max() for record in records]))
    values = [record.stops_T if by == "stop" else record.beliefs_TN.max(1) for record in records]
    return float(np.median(values))


@pytest.mark.parametrize(
    ("fields", "by"),
    [({"num_glimpses": 4}, "belief"), (GLANCE, "belief"), ({"learned_stop": True}, "stop")],
)
def test_records_stop_where_predict_stops(files, fields, by):
    run = tiny_run(**fields)
    at = threshold_that_splits(run, files, by)
    rows = list(predict_stream(run, [str(file) for file in files], stop_at=at, stop_by=by))
    records = list(record_photos(run, files, stop=Stop(at, by)))
    used = [row.glimpses for row in rows]
    assert len(set(used)) > 1
    assert [record.steps for record in records] == used
    for row, record in zip(rows, records, strict=True):
        assert record.classes[record.predicted] == row.top[0][0]
        assert record.confidence == pytest.approx(row.top[0][1], abs=1e-5)
    if "glance" in fields:
        assert 0 in used
        for place in (used.index(0), used.index(max(used))):
            row, file = rows[place], files[place]
            *_, (says, _, beliefs, _) = watch(run, str(file), 4, at, None)
            assert f"says {row.top[0][0]}" in says
            assert max(beliefs.values()) == pytest.approx(row.top[0][1], abs=1e-5)
            assert ("the glance was enough" in says) == (row.glimpses == 0)


@pytest.mark.parametrize("stack", [{}, {"stack": "rnn", "num_levels": 2}])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_stopped_pass_is_drawn(stack, steps):
    (record,) = record_photos(tiny_run(**GLANCE, **stack), [noise_photo()])
    record = record.until(steps)
    record.stop = Stop(0.5)
    for make in (figures.story, *figures.PARTS.values()):
        assert is_picture(figure_bytes(make(record), dpi=50))
    assert is_picture(figure_bytes(gallery.gallery_figure([record], "stopped"), dpi=50))
    assert len(animation.draw_frames(record)) == steps + 1


def test_galleries_by_the_glimpses_that_were_used():
    sure = np.array([[0.5, 0.6, 0.7], [0.9, 0.9, 0.9], [0.4, 0.95, 0.4], [0.3, 0.2, 0.1]])
    whole = random_records(4, confidence_NT=sure)
    assert not len(gallery.enough(whole)) and not len(gallery.needed_all(whole))
    whole.stop = Stop(0.8)
    assert whole.used_N.tolist() == [3, 1, 2, 3]
    assert gallery.enough(whole).tolist() == [1]
    assert gallery.needed_all(whole).tolist() == [3, 0]
    np.testing.assert_array_equal(whole.confidence_N, [0.7, 0.9, 0.95, 0.1])


def test_a_split_that_stops_is_drawn_and_reported(photos, tmp_path):
    run = save_run(tmp_path / "run", photos, 3, **GLANCE)
    out = tmp_path / "out"
    assert main([str(run), "--report", "--stop-at", "0.6", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    rows = {
        Path(row.path).name: row
        for row in predict_stream(
            load(run), [str(path) for path in sorted((photos / "test").rglob("*.*g"))], stop_at=0.6
        )
    }
    for photo in data["photos"]:
        row = rows[Path(photo["name"]).name]
        assert len(photo["belief"]) - photo["first"] == row.glimpses
        assert data["classes"][photo["predicted"]] == row.top[0][0]
    mean = np.mean([row.glimpses for row in rows.values()])
    assert f"{mean:.2f} glimpses" in data["whole"]["exits"]["chosen"]["words"]
    assert f"{mean:.2f} glimpses a photo on average" in data["summary"]


def load(run: Path) -> LoadedRun:
    from stacked_ram.runs.checkpoint import load_run

    return load_run(run, "cpu")


def test_the_curve_of_early_exit_has_its_threshold():
    from stacked_ram.evaluation.cost import Cost

    whole = random_records(cost=Cost(total=1.3, per_glimpse=0.4, before=0.1))
    figure = overview_figure(whole, "", threshold=0.5)
    assert any("belief ≥ 50 %" in text for text in words_of(figure))


def test_thresholds_are_checked(run_folder, capsys):
    assert main([str(run_folder), "--stop-at", "1.5"]) == 2
    assert main([str(run_folder), "--stop-by", "stop"]) == 2
    assert main([str(run_folder), "--stop-at", "0.5", "--stop-by", "stop"]) == 2
    said = capsys.readouterr().err
    assert "1.5" in said and "stopping head" in said


def test_the_step_of_the_final_prediction_is_that_of_the_records():
    predicted = np.array([[0, 1, 1], [2, 2, 2], [1, 1, 0], [0, 0, 1]])
    sure = np.array([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.5, 0.9, 0.1], [0.5, 0.5, 0.9]])
    whole = random_records(4, predicted_NT=predicted, confidence_NT=sure)
    assert whole.final_from_N.tolist() == [2, 1, 3, 3]
    whole.stop = Stop(0.8)
    assert whole.used_N.tolist() == [3, 1, 2, 3]
    assert whole.final_from_N.tolist() == [2, 1, 1, 3]

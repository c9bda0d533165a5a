"""`test --explain`: causes of mistakes, deciding glimpses, deletion, coverage; on known cases."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas
import pytest
import torch
from tiny import tiny_config
from variants import make, pixels, spread_the_policy

from stacked_ram.cli.test import Test as Options
from stacked_ram.cli.test import test as run_test
from stacked_ram.evaluation.attribution import glimpse_evidence
from stacked_ram.evaluation.causes import (
    NEVER_LOOKED,
    NOT_RECOGNISED,
    TALKED_OUT,
    cause_of,
)
from stacked_ram.evaluation.coverage import cell_cover
from stacked_ram.evaluation.insertion import area, blurred, heat_peaks
from stacked_ram.evaluation.objects import at_object
from stacked_ram.evaluation.what_if import take
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run


@pytest.mark.parametrize(
    ("own", "best", "hit", "cause"),
    [
        ([0.1, 0.8, 0.2], 0.9, True, TALKED_OUT),  # first of all, whatever else holds
        ([0.7, 0.3, 0.2], 0.1, None, TALKED_OUT),  # after the glance
        ([0.1, 0.3, 0.2], 0.9, False, NEVER_LOOKED),
        ([0.1, 0.3, 0.2], 0.1, False, NEVER_LOOKED),  # the box says so
        ([0.1, 0.3, 0.2], 0.9, True, NOT_RECOGNISED),
        ([0.1, 0.3, 0.2], 0.9, None, NEVER_LOOKED),  # a place shows it
        ([0.1, 0.3, 0.2], 0.4, None, NOT_RECOGNISED),
    ],
)
def test_every_mistake_gets_the_first_cause_that_fits(own, best, hit, cause):
    assert cause_of(np.array(own), best, hit) == cause


def test_an_object_is_hit_by_half_of_the_smaller_area():
    patches = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [0, 0, 40, 40.0]])
    nothing = [float("nan")] * 4
    boxes = torch.tensor([[[0, 0, 10, 10], nothing], [nothing, nothing]])
    found = at_object(patches.view(1, 4, 1, 1, 4).expand(2, -1, -1, -1, -1), boxes)
    assert found[0].flatten().tolist() == [1, 1, 0, 1]
    assert found[1].isnan().all()
    several = torch.tensor([[[80, 80, 90, 90], [6, 0, 16, 10.0]]])
    assert at_object(patches.view(1, 4, 1, 1, 4), several).flatten().tolist() == [0, 1, 1, 1]


def test_coverage_is_the_area_that_was_read():
    boxes = torch.tensor([-20, 10, 40, 30.0]).view(1, 1, 1, 1, 4)
    cover = cell_cover(boxes, torch.tensor([[40, 80]]), (4, 8))[0, 0, 0, 0]
    expected = torch.zeros(4, 8)
    expected[1:3, :4] = 1  # rows 10 to 30, columns 0 to 40
    torch.testing.assert_close(cover, expected)
    finer = cell_cover(boxes, torch.tensor([[40, 80]]), (3, 5))[0, 0, 0, 0]
    assert finer.mean() == pytest.approx(20 * 40 / (40 * 80))


def test_areas_peaks_and_hidden_photos():
    assert area(np.array([[0, 0.5, 1.0], [1, 1, 1]])).tolist() == [0.5, 1]
    heat = torch.zeros(8, 10)
    heat[1, 8], heat[6, 2] = 2, 1
    first, second = heat_peaks(heat, (80, 100), 20.0, 2)
    assert (first - torch.tensor([85.0, 15])).abs().max() < 10
    assert (second - torch.tensor([25.0, 65])).abs().max() < 10
    photo = pixels(1, 40, 60)
    box = torch.tensor([[[0, 0, 20, 20.0]]])
    hidden = blurred(photo, torch.tensor([[30, 60]]), box)
    assert hidden[0, :, 30:].max() == 0, "the padding stays empty"
    assert hidden[0, :, :30].float().std() < photo[0, :, :30].float().std() / 3


def test_evidence_adds_up_to_what_the_patches_changed():
    pytest.importorskip("captum")
    for name in ("dense", "soft"):
        model = make(name).eval()
        spread_the_policy(model)
        photos = model.photos(pixels(1))
        found = glimpse_evidence(model, photos, 2)
        with torch.no_grad():
            trace = model(photos, keep_patches=True)
            where_T2 = trace.locations_BTS2[0, :, 0]
            (patches,) = trace.map_patches_BTKCPP
            assert found[0].shape == (*patches.shape[1:3], *patches.shape[4:])
            retina = model.levels[0].retina
            empty = retina.feature([torch.zeros_like(patches[0])], where_T2)[None]
            end = take(model, model.start(photos), trace.locations_BTS2, [empty])
            before = model.scores(end.outputs[-1]).log_softmax(1)[0, 2]
            after = trace.logits_BTN[0, -1].log_softmax(0)[2]
        assert float(found[0].sum()) == pytest.approx(float(after - before), abs=0.02)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=2, num_glimpses=3), folder)
    return folder


def test_the_command_writes_figures_that_agree_with_each_other(run, photos, capsys):
    rows = ["path,x,y", *(f"{name},5,5" for name in names_of(photos))]
    (run / "people.csv").write_text("\n".join(rows))
    run_test(Options(runs=(run,), explain=True, fixations=run / "people.csv"))
    shown = capsys.readouterr().out
    report = json.loads((run / "test.json").read_text())
    found = report["explain"]
    table = pandas.read_csv(run / "test_explain.csv", keep_default_na=False)
    assert len(table) == found["photos"] == 6
    wrong = table[~table["right"]]
    assert 1 - len(wrong) / 6 == pytest.approx(report["accuracy"])
    counts = {name: each["photos"] for name, each in found["causes"].items()}
    assert counts == {name: int((wrong["cause"] == name).sum()) for name in counts}
    assert sum(counts.values()) == len(wrong) and found["causes_by"] == "boxes"
    assert (table["best_belief_true"] >= 0).all() and table["deciding_glimpse"].between(1, 3).all()
    assert sum(found["hidden"]["decided"]) == pytest.approx(1)
    for kind in ("insertion", "deletion"):
        curves = {name: found[kind][name]["curve"] for name in ("own path", "centre")}
        assert all(len(curve) == 4 for curve in curves.values())
        assert curves["own path"][0] == curves["centre"][0], "all begin with the same photo"
    assert "no Grad-CAM: this model has no backbone" in found["curve_notes"]
    hit = found["coverage"][0]
    assert hit["hit"]["photos"] + hit["missed"]["photos"] == 6
    arrays = np.load(io.BytesIO((run / "test_explain.npz").read_bytes()))
    assert arrays["coverage_N2"].sum() == 6
    assert report["fixations"]["photos"] == 6
    assert TALKED_OUT in shown and "AUC-Judd, centre bias" in shown and "insertion area" in shown
    with pytest.raises(UserError, match="explain"):
        run_test(Options(runs=(run,)))


def names_of(photos) -> list[str]:
    table = pandas.read_csv(photos / "manifest.csv")
    return table[table["split"] == "test"]["path"].tolist()


def test_grad_cam_of_the_backbone_is_one_more_order(photos, tmp_path):
    pytest.importorskip("captum")
    config = tiny_config(
        photos, epochs=1, retina="backbone", backbone="test_efficientnet", patch_size=16,
        num_patches=1,
    )  # fmt: skip
    train_run(config, tmp_path / "run")
    run_test(Options(runs=(tmp_path / "run",), explain=True))
    found = json.loads((tmp_path / "run" / "test.json").read_text())["explain"]
    assert "Grad-CAM of the plain backbone" in found["insertion"]
    assert found["curve_notes"] == []

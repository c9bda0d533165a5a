"""Exported programs: any number and size of photos, early exit, int8, and running ONNX alone."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_config
from variants import forward, make

import stacked_ram as ram
from stacked_ram.cli.export import Export, export
from stacked_ram.ops.exported import SumTable
from stacked_ram.ops.patches import Photos
from stacked_ram.runs.export import DeterministicPass
from stacked_ram.runs.onnx import missing_packages
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="needs requirements-export.txt")
# as the demo's: the retina that ONNX once refused, and a policy that reads the glance's map
MODEL = dict(
    retina="conv", patch_unit="fraction", patch_width=0.4, glance=(6, 8), regions=(3, 4),
    policy_reads="map", first_location="learned", num_glimpses=2,
)  # fmt: skip
STOP_AT = 0.4


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=2, **MODEL), folder)
    return folder


@pytest.fixture(scope="module")
def out(run) -> Path:
    int8 = () if missing_packages() else ("dynamic", "static")
    export(Export(run=run, stop_at=STOP_AT, int8=int8))
    return run / "export"


@pytest.mark.parametrize("cells", [(4, 4), (3, 5)])
def test_the_table_of_sums_gives_the_same_averages(cells):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 21, 34), dtype=torch.uint8, generator=generator)
    starts = torch.rand(3, 2, 2, generator=generator) * 40 - 10  # some outside
    sides = torch.rand(3, 2, 2, generator=generator) * 30 + 0.5
    photos = Photos(pixels)
    expected = photos.averages(starts, sides, [(31.0, 31.0)] * 2, cells) * 255
    found = SumTable(pixels, photos.sizes_B2).averages(starts, sides, cells)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_one_program_takes_any_number_and_size_of_photos(out, run):
    program = torch.export.load(str(out / "model.pt2")).module()
    model = ram.load(run)
    for batch, height, width in ((1, 16, 40), (4, 33, 20)):
        pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        beliefs_BTN, locations_BTS2, glimpses_B = program(pixels)
        for row, result in enumerate(model.look(list(pixels), stop_at=STOP_AT)):
            assert glimpses_B[row] == result.glimpses
            assert beliefs_BTN[row, -1].max() == pytest.approx(result.probability, abs=1e-4)
            there = locations_BTS2[row, : result.glimpses, 0].numpy()
            np.testing.assert_allclose(there, result.locations, atol=1e-4)


@needs_onnx
def test_the_onnx_file_runs_without_torch_and_this_package(out, run, photos):
    names = sorted((photos / "test").rglob("*.png"))[:3]
    script = Path(__file__).parents[2] / "examples" / "run_onnx.py"
    alone = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['stacked_ram'] = None;"
        f"sys.argv[0] = {str(script)!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone, out / "model.onnx", *names],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, result in zip(
        done.stdout.splitlines(), ram.load(run).look(names, stop_at=STOP_AT), strict=True
    ):
        assert f" {result.label} {result.probability:.1%}," in line
        assert line.count("(") == result.glimpses


@needs_onnx
def test_an_export_leaves_other_warnings_heard(out, caplog):
    logging.getLogger("stacked_ram.data.left_out").warning("heard")
    assert caplog.messages == ["heard"]


@needs_onnx
def test_the_card_says_what_goes_in_and_what_int8_loses(out, photos):
    card = json.loads((out / "model.json").read_text())
    assert card["input"]["shape"] == ["batch", 3, "height", "width"]
    assert [output["name"] for output in card["outputs"]] == ["beliefs", "locations", "glimpses"]
    assert "convert it to RGB" in card["prepare"]["how"]
    int8 = card["int8"]
    assert int8["measured_on"].startswith("6 photos of the test split")
    assert int8["float32"]["accuracy"] == pytest.approx(ram.load(out.parent).evaluate().accuracy)
    for kind in ("dynamic", "static"):
        assert (out / int8[kind]["file"]).stat().st_size == int8[kind]["bytes"]
        lost = int8["float32"]["accuracy"] - int8[kind]["accuracy"]
        assert int8[kind]["accuracy_lost"] == pytest.approx(lost)
        assert 0 <= int8[kind]["answers_as_float32"] <= 1


def test_a_glance_that_is_sure_enough_needs_no_glimpse():
    model = make("glance_core").eval()
    images = torch.randint(0, 256, (4, 3, 40, 52), dtype=torch.uint8)
    whole = forward(model, images)
    for stop_at, expected in ((0.0, 0), (1.0, model.num_glimpses)):
        beliefs_BTN, _, glimpses_B = DeterministicPass(model, stop_at)(images)
        assert glimpses_B.tolist() == [expected] * 4
        last = whole.glance_logits_BN if expected == 0 else whole.logits_BTN[:, -1]
        torch.testing.assert_close(beliefs_BTN[:, -1], last.softmax(1))


def test_without_the_packages_there_is_a_program_and_a_note(run, tmp_path, monkeypatch, capsys):
    found, missing = importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )
    export(Export(run=run, out=tmp_path / "out", size=(20, 28), batch_size=1))
    assert "no ONNX, which needs onnx, onnxscript, onnxruntime: pip" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.pt2"]
    with pytest.raises(UserError, match="--int8: needs onnx, onnxscript, onnxruntime"):
        export(Export(run=run, int8=("dynamic",)))
    photo = Image.new("RGB", (28, 20))
    pixels = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None]
    beliefs, _ = torch.export.load(str(tmp_path / "out" / "model.pt2")).module()(pixels)
    assert beliefs[0, -1].max() == pytest.approx(ram.load(run).look(photo).probability, abs=1e-4)

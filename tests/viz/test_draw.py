"""The commands write their pictures for every kind of model."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from small_runs import noise_photo, recorded, save_run, tiny_model, tiny_run
from test_records import KINDS
from tiny import tiny_config, tiny_photos

from stacked_ram.cli.viz import main
from stacked_ram.training.run import train_run
from stacked_ram.viz import animation, figures
from stacked_ram.viz.attention_map import attention_figure
from stacked_ram.viz.draw import draw_run
from stacked_ram.viz.records import record_photos
from stacked_ram.viz.report import training_curves
from stacked_ram.viz.style import figure_bytes, spread_apart
from stacked_ram.viz.training_pictures import draw_scan_paths

CLASSES = ("bar", "dot", "ring")
ROOT = Path(__file__).parents[2]


def is_picture(content: bytes) -> bool:
    """Return whether this is an image that is not blank."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_drawn(kind):
    model = tiny_model(**KINDS[kind])
    model.config = None  # as of a model that is built from its parts by hand
    record = recorded(model, noise_photo())
    for make in (figures.story, *figures.PARTS.values()):
        assert is_picture(figure_bytes(make(record), dpi=50))
    assert is_picture(figure_bytes(attention_figure(record, model), dpi=50))


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("label", [None, 2])
def test_few_and_many_steps_with_and_without_a_label(steps, label):
    model = tiny_model(num_glimpses=steps, channels=1)
    record = recorded(model, noise_photo(40, 12, 1, label))
    assert is_picture(figure_bytes(figures.story(record), dpi=50))


@pytest.mark.parametrize("steps", [2, 5])
def test_attention_is_drawn_for_any_number_of_steps(steps):
    model = tiny_model()
    record = recorded(model, noise_photo(), num_glimpses=steps)
    assert is_picture(figure_bytes(attention_figure(record, model), dpi=50))


def test_the_same_photo_gives_the_same_bytes():
    first, second = (
        figure_bytes(figures.story(recorded(tiny_model(), noise_photo())), "svg") for _ in range(2)
    )
    assert first == second


def test_pictures_for_tensorboard():
    model = tiny_model(num_patches=2)
    pixels = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    sizes = torch.tensor([[20, 24], [16, 24], [20, 12]])
    for row, (height, width) in enumerate(sizes.tolist()):
        pixels[row, :, height:] = 0
        pixels[row, :, :, width:] = 0
    with torch.inference_mode():
        trace = model(model.photos(pixels, sizes), rollouts=2)
    figure = draw_scan_paths(pixels, trace, CLASSES, torch.tensor([0, 1, 2]), sizes)
    assert is_picture(figure_bytes(figure, dpi=50))
    assert draw_scan_paths(pixels, trace, CLASSES, None)


def test_a_run_is_drawn_with_its_whole_split(run_folder, tmp_path):
    files = draw_run(run_folder, out=tmp_path, limit=2)
    names = {path.name for path in files}
    assert "overview.png" in names and "gallery_best.png" in names
    assert len([name for name in names if name.startswith("test_")]) == 2
    assert all(is_picture(path.read_bytes()) for path in files)


def test_digits_without_boxes_are_drawn(digits_run_folder, tmp_path):
    files = draw_run(digits_run_folder, out=tmp_path, limit=1)
    assert files[0].name == "overview.png" and re.fullmatch(r"test_\d+\.png", files[-1].name)
    assert all(is_picture(path.read_bytes()) for path in files)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_photos_are_drawn_in_every_format(run_folder, photos, tmp_path, kind):
    folder = photos / "test" / "dot"
    assert main([str(run_folder), "--photos", str(folder), "--out", str(tmp_path), "--format",
                 kind, "--limit", "1"]) == 0  # fmt: skip
    (path,) = tmp_path.iterdir()
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.suffix == f".{kind}" and path.read_bytes().startswith(starts[kind])


def test_the_folder_of_a_photo_can_name_its_class(run_folder, photos, tmp_path):
    photo = next((photos / "test" / "dot").iterdir())
    assert main([str(run_folder), str(photo), "--out", str(tmp_path), "--separate"]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{photo.stem}_{part}.png" for part in ("belief", "scan_path", "strip")]


def test_photos_with_the_same_name_do_not_overwrite_each_other(run_folder, photos, tmp_path):
    photo = str(next((photos / "test" / "dot").iterdir()))
    assert main([str(run_folder), photo, photo, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_one_per_class_and_compare(run_folder, other_run_folder, tmp_path):
    assert main([str(run_folder), "--one-per-class", "--out", str(tmp_path)]) == 0
    assert main([str(run_folder), "--compare", str(other_run_folder), "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["compare.png", "compare_photos.png", "one_per_class.png"]


def test_runs_are_not_compared_on_different_photos(tmp_path, capsys):
    data = tiny_photos(tmp_path / "data")
    manifest = pandas.read_csv(data / "manifest.csv")
    manifest["fold"] = (np.arange(len(manifest)) % 2).astype(float)
    manifest.loc[manifest["split"] == "test", "fold"] = np.nan
    manifest.to_csv(data / "manifest.csv", index=False)
    base, fold, more = (
        str(save_run(tmp_path / name, data, 3, **fields))
        for name, fields in {
            "one": {"fold": 0},
            "fold": {"fold": 1},
            "more": {"fold": 0, "train_on": "train+valid"},
        }.items()
    )
    for other, split in ((fold, "valid"), (more, "train")):
        assert main([base, "--compare", other, "--split", split]) == 2
        error = capsys.readouterr().err
        assert "holds other photos" in error and error.count("\n") == 1
    assert main([base, "--compare", fold]) == 0


def test_an_animation_has_a_frame_per_step_and_plays_in_browsers(tmp_path):
    records = list(record_photos(tiny_run(), [noise_photo(), noise_photo(16, 20)]))
    for several in (records[:1], records):
        frames = animation.draw_frames(several)
        assert len(frames) == 4  # before the first step, and after each of three steps
        assert len({frame.shape for frame in frames}) == 1
        with Image.open(animation.save(several, tmp_path / "one.gif")) as gif:
            assert gif.n_frames == 4 and gif.info["loop"] == 0
        content = animation.save(several, tmp_path / "one.mp4").read_bytes()
        assert b"avc1" in content  # H.264
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_report_is_self_contained(run_folder, tmp_path):
    assert main([str(run_folder), "--report", "--out", str(tmp_path), "--limit", "5"]) == 0
    text = (tmp_path / "report.html").read_text()
    outside = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", re.sub(r"data:[^\"]+", "", text))
    assert set(outside) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(found[1])
    assert len(data["photos"]) == 5
    photo = data["photos"][0]
    assert len(photo["belief"]) == 3 and len(photo["surfaces"][0]["boxes"]) == 3
    assert data["whole"]["inside"] is not None
    assert [curve["title"] for curve in data["training"]] == ["Loss", "Accuracy"]


def test_curves_of_the_report_are_those_that_training_writes(photos, tmp_path):
    train_run(tiny_config(photos, epochs=2), tmp_path / "run")
    curves = training_curves(tmp_path / "run" / "metrics.csv")
    assert [curve["title"] for curve in curves] == ["Loss", "Accuracy"]
    for curve in curves:
        assert [series["name"] for series in curve["series"]] == ["train", "valid"]
        assert all(value is not None for series in curve["series"] for value in series["values"])


def test_a_class_name_cannot_break_out_of_the_report():
    from stacked_ram.viz.report import filled

    name = "</script><img src=x onerror=alert(1)>"
    text = filled({"title": name, "classes": [name]}).decode()
    assert "<img src=x" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "RUN is missing"),
        (["nowhere"], "no such run"),
        (["RUN", "no_such_photo.jpg"], "no such photo"),
        (["RUN", "--limit", "0"], "below 1"),
        (["RUN", "--report", "--app"], "--report and --app: ask for one at a time"),
        (["RUN", "--one-per-class", "--compare", "RUN"], "one at a time"),
        (["RUN", "--one-per-class", "x.jpg"], "name none"),
        (["RUN", "BROKEN"], "BROKEN"),
        (["RUN", "--dataset", "nowhere"], "no prepared data set"),
        (["RUN", "--out", "BROKEN"], "is a file"),
    ],
)
def test_errors_are_one_line(run_folder, tmp_path, capsys, words, says):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no photo")
    names = {"RUN": str(run_folder), "BROKEN": str(broken)}
    assert main([names.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert names.get(says, says) in error and error.count("\n") == 1


def test_help_loads_nothing_heavy():
    heavy = ("torch", "matplotlib", "pandas", "gradio")
    code = (
        "import sys\nfrom stacked_ram.cli.viz import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        f"print('loaded', [name for name in {heavy!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "loaded []" in said.stdout and "--photos" in said.stdout


def test_labels_are_spread_without_losing_their_order():
    places = [0.5, 0.5, 0.52, 0.1]
    moved = spread_apart(places, 0.1, 0.0, 1.0)
    assert np.argsort(moved, kind="stable").tolist() == np.argsort(places, kind="stable").tolist()
    assert np.diff(sorted(moved)).min() >= 0.099

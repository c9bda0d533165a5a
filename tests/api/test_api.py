"""The Python API: the lines of the package's docstring, and errors."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, raw_photos, tiny_config

import stacked_ram as ram
from stacked_ram.config.yaml import to_dict

# Makes any preset so small that it trains in a second.
SMALL = {
    "epochs": 2, "batch_size": 8, "workers": 0, "cache": "none", "device": "cpu",
    "pictures_every": 0, "core_size": 16, "feature_size": 16, "what_size": 16, "where_size": 8,
    "patch_size": 4, "num_glimpses": 3, "glance": None, "num_patches": 2, "retina": "dense",
    "policy_reads": "state", "first_location": "centre", "random_glimpses": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return ram.train("demo", dataset=photos, out=folder, **SMALL)


@pytest.fixture(scope="module")
def model(run):
    return run.load("cpu")


@pytest.fixture(scope="module")
def photo(photos):
    return sorted((photos / "test").rglob("*.png"))[0]


def docstring_lines() -> str:
    """Return the code of the package's docstring."""
    block = [line for line in ram.__doc__.splitlines() if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(block)).strip()


def test_the_lines_of_the_docstring_work_as_written(tmp_path, monkeypatch):
    raw_photos(tmp_path / "my_photos")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for place in ("photo.jpg", "folder/1.jpg", "folder/deep/2.jpg"):
        (tmp_path / place).write_bytes((tmp_path / "my_photos/dot/1.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    # The lines name real presets, which the test makes small.
    train, create_model = ram.train, ram.create_model
    small = SMALL | {"weights": "none", "precision": "float32"}
    monkeypatch.setattr(ram, "train", lambda name, **given: train(name, **{**given, **small}))
    monkeypatch.setattr(
        ram, "create_model", lambda name, **given: create_model(name, pretrained=False, **given)
    )
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12)).astype(np.uint8)
    names = {
        "images_BCHW": torch.rand(2, 3, 128, 160),
        "X": images,
        "y": np.arange(24) % 3,
    }
    code = docstring_lines()
    assert "import stacked_ram as ram" in code and "GlimpseClassifier" in code
    exec(compile(code, "docstring", "exec"), names)
    for made in ("datasets/mine/dataset.yaml", "results/mine/best.safetensors",
                 "results/mine/test.json", "picture.png", "path.gif"):  # fmt: skip
        assert Path(made).is_file(), made
    assert names["result"].label in CLASSES and names["trace"].logits_BTN.shape[::2] == (2, 5)


def test_importing_is_fast_and_loads_nothing_heavy():
    code = (
        "import time; start = time.perf_counter(); import stacked_ram as ram\n"
        "took = time.perf_counter() - start\n"
        "names = dir(ram); presets = ram.list_presets()\n"
        "import sys; print(took, [n for n in ('torch', 'pandas', 'PIL', 'sklearn', 'numpy')"
        " if n in sys.modules], len(presets) > 20)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    took, rest = found.stdout.strip().split(" ", 1)
    assert rest == "[] True" and float(took) < 0.2


def test_every_public_name_exists_and_is_documented():
    assert set(ram.__all__) <= set(dir(ram))
    for name in ram.__all__:
        assert getattr(ram, name).__doc__, name
    with pytest.raises(AttributeError, match="preprare"):
        _ = ram.preprare


# ---------------------------------------------------------------------- training


def test_a_run_has_its_metrics_and_loads_its_best_epoch(run, photos):
    assert run.config.data.dataset == str(photos)
    assert list(run.metrics.index) == [1, 2] and run.metrics.valid_accuracy.between(0, 1).all()
    assert run.best.valid_accuracy == run.metrics.valid_accuracy.max()
    assert "accuracy" in repr(run) and run.folder.name in repr(run)
    assert ram.load(run.folder, "cpu").classes == run.load("cpu").classes == tuple(CLASSES)


def test_training_equals_that_of_the_command_line(digits, tmp_path):
    from stacked_ram.cli.main import run as command

    config = tiny_config(digits, epochs=2)
    ram.train(config, out=tmp_path / "python")
    import yaml

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    command(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "shell")])
    shell, python = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("python", "shell"))
    assert shell == python


def test_a_run_is_resumed_on_request_and_never_overwritten_silently(digits, tmp_path):
    config = tiny_config(digits, epochs=1)
    ram.train(config, out=tmp_path / "run")
    with pytest.raises(ram.UserError, match="holds a run already"):
        ram.train(config, out=tmp_path / "run")
    run = ram.train(config, out=tmp_path / "run", resume=True, epochs=2)
    assert list(run.metrics.index) == [1, 2]
    whole = ram.train(config, out=tmp_path / "run", overwrite=True, epochs=1)
    assert list(whole.metrics.index) == [1]


def test_the_run_folder_is_named_after_the_data_set_or_the_preset(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ram.train("mnist", dataset=digits, estimator="self_critical", **SMALL)
    assert run.folder == Path("results/digits")
    assert run.config.training.estimator == "self_critical"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ram.train("flower17_lite0"), "flowers17_lite0"),
        (lambda: ram.train("demo", epoch=5), "did you mean `epochs`"),
        (lambda: ram.train("demo", epochs="many"), "epochs"),
        (lambda: ram.train("demo", dataset="nowhere"), "no prepared data set at nowhere"),
        (lambda: ram.load("results/nowhere"), "no such run"),
        (lambda: ram.create_model("demo", num_classes=3, num_glimpse=1), "num_glimpses"),
        (lambda: ram.prepare("nowhere", "datasets/x"), "nowhere"),
        (lambda: ram.prepare("nowhere", "datasets/x", valid_ration=0.2), "valid_ratio"),
    ],
)
def test_invalid_arguments_are_named(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ram.UserError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- looking


def test_a_result_describes_the_whole_pass(model, photo):
    result = model.look(photo)
    height, width = np.asarray(Image.open(photo)).shape[:2]
    assert result.photo == str(photo) and result.error is None
    assert result.label == result.top(5)[0][0] and len(result.top(5)) == 3
    assert result.probability == result.top(1)[0][1] == result.beliefs[-1].max()
    assert result.beliefs.shape == (3, 3)
    np.testing.assert_allclose(result.beliefs.sum(1), 1, rtol=1e-5)
    assert result.locations.shape == (3, 2) and result.glimpses == 3
    np.testing.assert_array_equal(result.locations[0], 0)  # first_location: centre
    assert result.boxes.shape == (3, 2, 4)
    middle = (result.boxes[0, 0, :2] + result.boxes[0, 0, 2:]) / 2
    np.testing.assert_allclose(middle, (width / 2, height / 2), atol=1)
    assert result.patches.shape == (3, 2, 4, 4, 3) and result.patches.dtype == np.uint8
    assert result.label in repr(result) and "3 glimpses" in repr(result)


def test_boxes_are_in_pixels_of_the_given_photo(run, photo, model, tmp_path):
    large = tmp_path / "large.png"
    with Image.open(photo) as image:
        image.resize((image.width * 8, image.height * 8), Image.Resampling.NEAREST).save(large)
        size = image.size
    reduced = ram.train(run.config, out=tmp_path / "reduced", short_side=min(size)).load("cpu")
    np.testing.assert_allclose(reduced.look(large).boxes[0], 8 * reduced.look(photo).boxes[0])


def test_every_kind_of_photo_is_accepted(model, photo):
    expected = model.look(str(photo))
    with Image.open(photo) as image:
        pixels = np.asarray(image)
        ways = [
            photo,
            image,
            pixels,
            (pixels / 255).astype(np.float32),
            torch.from_numpy(pixels).permute(2, 0, 1),
            torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        ]
        results = model.look(ways)
    assert isinstance(results, list) and len(results) == len(ways)
    for result in results:
        np.testing.assert_allclose(result.beliefs, expected.beliefs, atol=1e-6)
        np.testing.assert_allclose(result.boxes, expected.boxes, atol=1e-4)
    batch = model.look(np.stack([pixels, pixels]))
    assert [result.label for result in batch] == [expected.label] * 2


def test_photos_are_converted_to_the_channels_of_the_model(model, photo, digits, tmp_path):
    with Image.open(photo) as image:
        gray = image.convert("L")
    pixels = np.asarray(gray)
    ways = [gray, pixels, pixels[..., None], torch.from_numpy(pixels)[None]]
    assert len({result.probability for result in model.look(ways)}) == 1
    of_digits = ram.train(tiny_config(digits, epochs=1), out=tmp_path / "digits").load("cpu")
    assert of_digits.look([photo, pixels])[0].patches.shape[-1] == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such photo"),
        (np.zeros((3, 20, 30), np.uint8), r"\(3, 20, 30\)"),
        (torch.zeros(20, 30, 3), r"\(20, 30, 3\)"),
        (np.full((20, 30, 3), 200.0), "0 to 1"),
        (np.zeros((20, 30, 3), complex), "complex"),
        (7, "int"),
    ],
)
def test_an_invalid_photo_is_named(model, given, says):
    with pytest.raises(ram.UserError, match=says):
        model.look(given)


def test_looking_stops_when_the_belief_is_high_enough(model, photo):
    whole = model.look(photo)
    most = whole.beliefs.max(1)
    early = model.look(photo, stop_at=float(most[0]))
    assert early.glimpses == 1 == len(early.beliefs) == len(early.boxes) == len(early.patches)
    np.testing.assert_array_equal(early.beliefs[0], whole.beliefs[0])
    assert model.look(photo, stop_at=1.0).glimpses == 3
    with pytest.raises(ram.UserError, match="stop_at"):
        model.look(photo, stop_at=2)


# ---------------------------------------------------------------------- predicting


def test_predicting_names_every_photo_in_order_and_agrees_with_looking(model, photos):
    found = list(model.predict(str(photos / "test" / "**" / "*.png"), batch_size=4))
    names = sorted(str(path) for path in (photos / "test").rglob("*.png"))
    assert [result.photo for result in found] == names
    for result, expected in zip(found, model.look(names), strict=True):
        assert result.label == expected.label
        assert result.probability == pytest.approx(expected.probability, abs=1e-5)
        np.testing.assert_allclose(result.locations, expected.locations, atol=1e-3)
        np.testing.assert_allclose(result.beliefs, expected.beliefs, atol=1e-5)
        np.testing.assert_allclose(result.boxes, expected.boxes, atol=0.1)


def test_predicting_takes_folders_files_and_iterables(model, photos, photo):
    expected = [result.photo for result in model.predict(photos / "test")]
    assert len(expected) == 6
    assert [result.photo for result in model.predict(iter([photo, photos / "test"]))] == [
        str(photo), *expected,
    ]  # fmt: skip


def test_a_bad_photo_is_a_result_with_its_error(model, photo, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    bad, good = model.predict([tmp_path / "bad.jpg", photo])
    assert "bad.jpg" in bad.error and good.error is None
    assert bad.label == "" and np.isnan(bad.probability) and bad.top(5) == []
    assert bad.glimpses == 0 and "bad.jpg" in repr(bad)
    with pytest.raises(ram.UserError, match=r"bad\.jpg"):
        bad.save(tmp_path / "picture.png")


def test_predicting_reads_photos_only_when_needed(model, photo):
    requested = []

    def endless():
        while True:
            requested.append(photo)
            yield photo

    stream = model.predict(endless(), batch_size=2)
    assert next(stream).label and next(stream).label
    assert len(requested) < 20


def test_predicting_stops_early_too(model, photo):
    (whole,) = model.predict(photo)
    (early,) = model.predict(photo, stop_at=0.0)
    assert whole.glimpses == 3 and early.glimpses == 1 == len(early.beliefs)
    with pytest.raises(ram.UserError, match="stop_at"):
        next(model.predict(photo, stop_at=3))


# ---------------------------------------------------------------------- pictures


def test_pictures_and_animations_are_written(model, photo, tmp_path):
    result = model.look(photo)
    assert result.save(tmp_path / "made" / "picture.png").read_bytes()[1:4] == b"PNG"
    assert result._repr_png_()[1:4] == b"PNG"
    with Image.open(result.animate(tmp_path / "path.gif")) as animation:
        assert animation.n_frames >= 3
    for call, name in ((result.save, "picture.xyz"), (result.animate, "path.png")):
        with pytest.raises(ram.UserError, match=name):
            call(tmp_path / name)


def test_a_photo_whose_prediction_stopped_early_can_be_drawn(model, photo, tmp_path):
    (early,) = model.predict(photo, stop_at=0.0)
    assert early.patches.shape[0] == 1
    assert early.save(tmp_path / "picture.png").is_file()


def test_showing_opens_a_window_outside_notebooks(model, photo, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    model.look(photo).show()
    assert len(shown) == 1 and min(shown[0]) > 300


# ---------------------------------------------------------------------- evaluating, building


def test_evaluating_gives_figures_a_table_and_files(model, photos, tmp_path):
    report = model.evaluate(photos, controls=True, batch_size=4)
    assert report.photos == 6 and 0 <= report.accuracy <= 1
    assert {"centre", "random"} <= set(report.controls)
    assert report.to_pandas().shape[0] >= 1
    report.save(tmp_path / "report")
    assert (tmp_path / "report" / "test.json").is_file()
    assert model.evaluate(split="valid").split == "valid"


@pytest.mark.parametrize("channels", [3, 1])
def test_a_created_model_takes_bytes_and_floats_alike(channels):
    net = ram.create_model(
        "mnist", num_classes=5, channels=channels, num_glimpses=2, first_location="centre"
    ).eval()
    assert isinstance(net, torch.nn.Module)
    images = torch.randint(0, 256, (2, channels, 20, 30), dtype=torch.uint8)
    trace, same = net(images), net(images / 255)
    assert trace.logits_BTN.shape == (2, 2, 5) and trace.locations_BTS2.shape == (2, 2, 1, 2)
    torch.testing.assert_close(trace.logits_BTN, same.logits_BTN, atol=1e-5, rtol=1e-4)


def test_presets_and_parts_are_listed():
    assert {"demo", "flowers17_lite0", "mnist"} <= set(ram.list_presets())
    assert "backbone" in ram.list_models()["retina"]

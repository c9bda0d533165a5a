"""The MNIST family: splits, fixed canvases and errors."""

import base64
import csv
import gzip
import hashlib
import io
import re
import struct
from html import escape
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stacked_ram.cli.prepare import main
from stacked_ram.preparation.digits import prepare_digits
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.runtime.errors import UserError

TRAIN_INK, TEST_INK = 100, 200  # so that it shows where a piece of clutter was cut


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def digits(count: int, ink: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = ink * (rng.random((count, 20, 20)) < 0.5)
    return images, np.arange(count) % 10


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    images, labels = digits(600, TRAIN_INK, 0)
    write_idx(folder / "train-images-idx3-ubyte.gz", images)
    write_idx(folder / "train-labels-idx1-ubyte.gz", labels)
    images, labels = digits(100, TEST_INK, 1)
    write_idx(folder / "t10k-images-idx3-ubyte", images)
    write_idx(folder / "t10k-labels.idx1-ubyte", labels)
    return folder


def prepare(source: Path, dest: Path, **given) -> dict:
    options = PrepareOptions(source=source, dest=dest, **{"valid_ratio": 0.1} | given)
    assert prepare_digits(options, source) == dest
    return yaml.safe_load((dest / "dataset.yaml").read_text())


def load(dest: Path, split: str, name: str = "images") -> np.ndarray:
    return np.load(dest / split / f"{name}.npy")


def test_digits_without_a_canvas_are_split_and_otherwise_unchanged(source, tmp_path):
    info = prepare(source, tmp_path / "digits")
    assert info["kind"] == "digits" and info["canvas"] == [28, 28] and info["channels"] == 1
    assert info["mean"] == [0.0] and info["std"] == [1.0]
    assert info["counts"] == {
        split: {str(n): count for n in range(10)}
        for split, count in {"train": 54, "valid": 6, "test": 10}.items()
    }
    test_images, test_labels = digits(100, TEST_INK, 1)
    assert np.array_equal(load(tmp_path / "digits", "test"), test_images)
    assert np.array_equal(load(tmp_path / "digits", "test", "labels"), test_labels)
    parts = [load(tmp_path / "digits", split) for split in ("train", "valid")]
    together = sorted(image.tobytes() for part in parts for image in part)
    assert together == sorted(image.tobytes() for image in digits(600, TRAIN_INK, 0)[0])
    assert load(tmp_path / "digits", "train", "labels").dtype == np.int64
    assert not list(tmp_path.glob("*/*/boxes.npy")), "no canvases were made"


def test_labels_stay_with_their_digits(source, tmp_path):
    prepare(source, tmp_path / "digits")
    images, labels = digits(600, TRAIN_INK, 0)
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in ("train", "valid"):
        for image, label in zip(
            load(tmp_path / "digits", split), load(tmp_path / "digits", split, "labels"),
            strict=True,
        ):  # fmt: skip
            assert label_of[image.tobytes()] == label


def test_cluttered_test_is_composed_once_and_hashed(source, tmp_path):
    given = {"canvas": "60x50", "translate": True, "clutter": 4}
    info = prepare(source, tmp_path / "one", **given)
    again = prepare(source, tmp_path / "two", **given)
    other = prepare(source, tmp_path / "three", seed=1, **given)
    assert info["sha256"] == again["sha256"]
    assert info["sha256"]["test"] != other["sha256"]["test"]
    canvases = load(tmp_path / "one", "test")
    assert canvases.shape == (100, 50, 60)
    assert hashlib.sha256(canvases.tobytes()).hexdigest() == info["sha256"]["test"]
    # published test sets must not change: this hash depends on every random number drawn
    assert info["sha256"]["test"].startswith("07cc4d0a686b0efb")
    assert load(tmp_path / "one", "train").shape == (540, 28, 28), "composed in every epoch"
    assert info["canvas"] == [50, 60] and info["translate"] and info["clutter"] == 4


@pytest.mark.parametrize(("split", "ink"), [("valid", TRAIN_INK), ("test", TEST_INK)])
def test_boxes_hold_the_digits_and_clutter_is_of_the_same_split(source, tmp_path, split, ink):
    prepare(source, tmp_path / "digits", translate=True, clutter=4)
    canvases, boxes = (load(tmp_path / "digits", split, name) for name in ("images", "boxes"))
    raw = load(tmp_path / "digits", split, "digits")
    assert canvases.shape[1:] == (60, 60), "the paper's canvas by default"
    assert boxes.dtype == np.int64
    for canvas, digit, (left, top, right, bottom) in zip(canvases, raw, boxes, strict=True):
        assert (right - left, bottom - top) == (28, 28)
        assert (canvas[top:bottom, left:right] >= digit).all()
    sums = {min(255, ink * pieces) for pieces in range(6)}
    assert set(np.unique(canvases)) <= sums


def test_translated_background_is_black_inside_and_outside_the_box(source, tmp_path):
    prepare(source, tmp_path / "digits", translate=True)
    canvases, boxes, raw = (
        load(tmp_path / "digits", "test", name) for name in ("images", "boxes", "digits")
    )
    for canvas, digit, (left, top, right, bottom) in zip(canvases, raw, boxes, strict=True):
        assert np.array_equal(canvas[top:bottom, left:right], digit)
        canvas[top:bottom, left:right] = 0
        assert not canvas.any()
    assert len(np.unique(boxes[:, :2], axis=0)) > 80, "at random places"


def test_a_canvas_without_translation_centres_the_digit(source, tmp_path):
    prepare(source, tmp_path / "digits", canvas="100x60")
    boxes = load(tmp_path / "digits", "test", "boxes")
    assert (boxes == [36, 16, 64, 44]).all()


def test_without_validation_all_digits_are_for_training(source, tmp_path):
    info = prepare(source, tmp_path / "digits", valid_ratio=0.0, translate=True, clutter=2)
    assert sum(info["counts"]["train"].values()) == 600
    assert load(tmp_path / "digits", "valid", "labels").shape == (0,)


def test_a_subset_of_the_classes_is_renumbered(source, tmp_path):
    info = prepare(source, tmp_path / "digits", classes="7,3")
    assert info["classes"] == ["3", "7"]
    assert info["counts"]["test"] == {"3": 10, "7": 10}
    test_images, test_labels = digits(100, TEST_INK, 1)
    assert np.array_equal(load(tmp_path / "digits", "test"), test_images[test_labels % 4 == 3])
    assert set(load(tmp_path / "digits", "test", "labels")) == {0, 1}


def test_the_report_shows_every_class_and_lists_every_digit(source, tmp_path):
    info = prepare(source, tmp_path / "digits", classes="3,7", translate=True, clutter=2)
    page = (tmp_path / "digits" / "report.html").read_text()
    assert "<h3>3 " in page and "54 train, 6 valid, 10 test" in page
    assert escape(info["rule"]) in page and "<svg" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "self-contained"
    sheets = re.findall(r'class="sheet".*?base64,([^"]+)', page)
    assert len(sheets) == 2
    for sheet in sheets:
        with Image.open(io.BytesIO(base64.b64decode(sheet))) as image:
            assert image.width == 12 * 100 - 4 and image.height == 96
            assert image.getextrema()[0][0] < 20, "there are digits on black"
    with open(tmp_path / "digits" / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["source"] for row in rows}) == 140
    read = {"train": digits(600, TRAIN_INK, 0), "t10k": digits(100, TEST_INK, 1)}
    for row in rows:
        assert row["fate"] == "stored" and not row["problem"]
        name, number = row["source"].split(":")
        images, labels = read[name.split("-")[0]]
        array, place = row["path"].split(":")
        split = array.split("/")[0]
        stored = load(tmp_path / "digits", split, "images" if split == "train" else "digits")
        assert np.array_equal(stored[int(place)], images[int(number)])
        assert row["class"] == str(labels[int(number)])


def test_the_command_names_the_report_and_notices_lost_arrays(source, tmp_path, capsys):
    dest = tmp_path / "digits"
    assert main([str(source), str(dest)]) == 0
    assert "report.csv has a row per digit" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    assert main([str(source), str(dest)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*")} == before
    (dest / "valid" / "labels.npy").unlink()
    assert main([str(source), str(dest)]) == 2
    assert "has lost photos (valid/labels.npy)" in capsys.readouterr().err


def test_sets_are_named_by_their_folder(source, tmp_path):
    assert prepare(source, tmp_path / "fashion_mnist")["classes"][9] == "ankle boot"
    assert prepare(source, tmp_path / "kmnist")["classes"][:2] == ["o", "ki"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: (folder / "t10k-labels.idx1-ubyte").unlink(),
            "t10k-labels-idx1-ubyte .* is missing",
        ),
        (lambda folder: cut(folder / "train-images-idx3-ubyte.gz"), "cannot be read"),
        (lambda folder: cut(folder / "t10k-images-idx3-ubyte"), "where its header says"),
        (lambda folder: (folder / "t10k-images-idx3-ubyte").write_bytes(b"GIF8"), "not an IDX"),
        (
            lambda folder: write_idx(folder / "t10k-labels.idx1-ubyte", np.zeros(7)),
            "do not belong together",
        ),
    ],
)
def test_damaged_sets_are_refused_and_nothing_is_left(source, tmp_path, damage, words):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(UserError, match=words):
        prepare(folder, tmp_path / "digits")
    assert not (tmp_path / "digits").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"canvas": "60x20"}, "smaller than the digits"),
        ({"clutter": 4, "clutter_size": 29}, "--clutter-size 29"),
        ({"folds": 5, "valid_ratio": None}, "--folds"),
        ({"test_ratio": 0.1}, "--test-ratio"),
        ({"short_side": 64}, r"digits do not take --short-side \(for photos\): leave it out"),
        ({"clutter_size": 5}, "--clutter-size .*give --clutter NUMBER too"),
        ({"classes": "3,eleven"}, "no class 'eleven'"),
    ],
)
def test_invalid_options_are_refused(source, tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        prepare(source, tmp_path / "digits", **given)
    assert not (tmp_path / "digits").exists()

"""Megapixel MNIST: the public benchmark's own canvases, drawn from their pieces."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import yaml
from test_digits import digits, write_idx

from stacked_ram.cli.prepare import main
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.preparation.megapixel import SAME, SIDE, draw_canvases

CANVAS = 300


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    for part, count in (("train", 600), ("t10k", 100)):
        images, labels = digits(count, 100, 0)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    dest = tmp_path_factory.mktemp("megapixel") / "megapixel"
    words = [str(source), str(dest), "--megapixel", str(CANVAS), "--scribbles", "8"]
    assert main(words) == 0
    return dest


def config_for(dest, **fields) -> Config:
    return replace_fields(Config(), {"dataset": str(dest), "batch_size": 7} | fields)


def by_hand(folder, row: int) -> np.ndarray:
    """A canvas drawn piece by piece."""
    patterns, pieces = (np.load(folder / f"{name}.npy") for name in ("images", "pieces"))
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for pattern, top, left in pieces[row]:
        canvas[top : top + SIDE, left : left + SIDE] = patterns[pattern]
    return canvas


def test_what_is_drawn_is_the_public_benchmark():
    # The same pieces as benbergner/ips, data/megapixel_mnist/make_mnist.py, draws from these
    # labels; on MNIST itself 20 canvases of 1500 and of 3000 pixels were compared pixel by pixel.
    images = np.zeros((6000, SIDE, SIDE), np.uint8)
    found = draw_canvases(images, np.arange(6000) % 10, 50, 1500, 50, seed=1)
    digest = hashlib.sha256(np.ascontiguousarray(found.pieces_NP3[:, :, 1:])).hexdigest()
    assert digest.startswith("5bdab4f7a6ae1a07")
    assert found.digits_NK[0].tolist() == [724, 1444, 1294, 3108, 3847]


def test_three_digits_of_the_label_none_on_another():
    images, labels = digits(600, 100, 0)
    found = draw_canvases(images, labels, 40, CANVAS, 8, seed=0)
    classes = labels[found.digits_NK]
    assert ((classes == found.labels_N[:, None]).sum(1) == SAME).all()
    boxes = found.boxes()
    assert boxes.shape == (40, SAME, 4) and boxes.min() >= 0 and boxes.max() <= CANVAS
    apart = np.abs(boxes[:, :, None, :2] - boxes[:, None, :, :2]).max(3)
    assert (apart[:, ~np.eye(SAME, dtype=bool)] >= SIDE).all()


def test_batches_are_the_canvases_drawn_piece_by_piece(prepared):
    info = yaml.safe_load((prepared / "dataset.yaml").read_text())
    assert info["canvas"] == [CANVAS, CANVAS] and info["scribbles"] == 8
    assert [sum(info["counts"][split].values()) for split in ("train", "valid", "test")] == [
        4500, 500, 1000
    ]  # fmt: skip
    dataset = open_dataset(config_for(prepared, limit_photos=20).data, "test")
    loader = make_loader(dataset, config_for(prepared), train=False)
    count = 0
    for batch in loader:
        for photo, row, label in zip(batch.pixels_BCHW, batch.index_B, batch.labels_B, strict=True):
            stored = int(dataset.names[row].rpartition(":")[2])
            assert np.array_equal(photo[0].numpy(), by_hand(prepared / "test", stored))
            assert label == np.load(prepared / "test" / "labels.npy")[stored]
            count += 1
    assert count == 20


def test_rotate_turns_each_piece_of_training_canvases_where_it_stands(prepared):
    config = config_for(prepared, rotate=90.0)
    dataset = open_dataset(config.data, "train")
    batch = next(iter(make_loader(dataset, config, train=True)))
    patterns, pieces = dataset.digits.images_NHW, dataset.digits.pieces_NP3
    whole = 0
    for row, pixels in zip(batch.index_B.tolist(), batch.pixels_BCHW[:, 0].numpy(), strict=True):
        pattern, top, left = pieces[row, -1]  # the last one drawn: nothing lies over it
        square = pixels[top : top + SIDE, left : left + SIDE]
        straight = patterns[pattern]
        assert not (square == straight).all()
        # a circle around the middle keeps what is in it, to within the interpolation
        middle = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) < 10
        whole += abs(int(square[middle].sum()) - int(straight[middle].sum())) < 1500
        outside = np.ones_like(pixels, bool)
        for _, top, left in pieces[row]:
            outside[top : top + SIDE, left : left + SIDE] = False
        assert (pixels[outside] == 0).all()
    assert whole == len(batch.index_B)
    still = open_dataset(config.data, "test")
    batch = next(iter(make_loader(still, config, train=False)))
    row = int(batch.index_B[0])
    assert (batch.pixels_BCHW[0, 0].numpy() == by_hand(prepared / "test", row)).all()


def test_the_task_multi_has_all_classes_on_a_canvas(source, prepared, tmp_path):
    words = ["--megapixel", str(CANVAS), "--scribbles", "8", "--multi-label"]
    assert main([str(source), str(tmp_path / "multi"), *words]) == 0
    one = np.load(prepared / "test" / "labels.npy")
    dataset = open_dataset(config_for(tmp_path / "multi").data, "test")
    assert dataset.multi_label and dataset.objects.shape == (1000, 5, 4)
    assert (dataset.labels[np.arange(1000), one] == 1).all()
    assert set(dataset.labels.sum(1)) <= {2, 3}
    info = yaml.safe_load((tmp_path / "multi" / "dataset.yaml").read_text())
    assert info["labels"] == "several" and info["photos"]["train"] == 4500
    same = [np.load(folder / "test" / "pieces.npy") for folder in (prepared, tmp_path / "multi")]
    assert np.array_equal(*same)


def test_training_on_all_canvases_keeps_each_ones_pieces(prepared):
    config = config_for(prepared, train_on="train+valid")
    dataset = open_dataset(config.data, "train")
    assert len(dataset) == 5000
    loader = make_loader(dataset, config, train=False)
    batch = loader.make(torch.tensor([4500 + 17]), seed=0)
    assert np.array_equal(batch.pixels_BCHW[0, 0].numpy(), by_hand(prepared / "valid", 17))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scribbles", "9"], "give --megapixel SIDE too"),
        (["--megapixel", "300", "--clutter", "4"], "leave out"),
        (["--megapixel", "100"], "must be at least 112"),
        (["--multi-label"], "a digit has one class; several are on a canvas"),
    ],
)
def test_what_cannot_be_is_refused(source, tmp_path, capsys, words, message):
    assert main([str(source), str(tmp_path / "made"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_sets import loader_of, make_digits

from stacked_ram.runtime.errors import UserError


@pytest.fixture
def plain(tmp_path):
    return make_digits(tmp_path / "plain")


@pytest.fixture
def cluttered(tmp_path):
    return make_digits(tmp_path / "set", canvas=[20, 30], translate=True, clutter=2, clutter_size=3)


def collected(loader, epoch=0):
    loader.set_epoch(epoch)
    return {
        row: (pixels, label, box)
        for batch in loader
        for row, pixels, label, box in zip(
            batch.index_B.tolist(), batch.pixels_BCHW, batch.labels_B, batch.boxes_B4, strict=True
        )
    }


def test_plain_digits_are_as_stored(plain):
    loader = loader_of(plain)
    found = collected(loader)
    assert sorted(found) == list(range(40))
    for row, (pixels, label, box) in found.items():
        assert (pixels[0].numpy() == loader.dataset.digits.images_NHW[row]).all()
        assert label == row % 10 and box.isnan().all()


def test_training_canvases_are_new_every_epoch_and_hold_their_digit(cluttered):
    loader = loader_of(cluttered, batch_size=16)
    first, second = collected(loader, 0), collected(loader, 1)
    moved = 0
    for row, (pixels, _, box) in first.items():
        assert pixels.shape == (1, 20, 30)
        left, top, right, bottom = box.long()
        digit = torch.from_numpy(loader.dataset.digits.images_NHW[row])
        assert (pixels[0, top:bottom, left:right] >= digit).all()  # clutter adds, clipped
        moved += bool((box != second[row][2]).any())
    assert moved > 30
    again = collected(loader_of(cluttered, batch_size=16), 1)
    assert all(torch.equal(second[row][0], again[row][0]) for row in second)


def test_fixed_clutter_is_composed_once(cluttered):
    loader = loader_of(cluttered, batch_size=16, clutter="fixed")
    first, second = collected(loader, 0), collected(loader, 5)
    assert all(torch.equal(first[row][0], second[row][0]) for row in first)
    other = collected(loader_of(cluttered, batch_size=16, clutter="fixed", seed=9))
    assert all(torch.equal(first[row][0], other[row][0]) for row in first)  # the data set's seed


def test_valid_and_test_are_the_stored_canvases(cluttered):
    stored = np.load(cluttered / "test" / "images.npy")
    for row, (pixels, _, box) in collected(loader_of(cluttered, "test")).items():
        assert (pixels[0].numpy() == stored[row]).all()
        assert box.tolist() == [0, 0, 8, 8]


def test_shift_moves_training_digits_only(plain, cluttered):
    loader = loader_of(plain, shift=2)
    found = collected(loader)
    images = loader.dataset.digits.images_NHW
    moves = set()
    for row, (pixels, _, _) in found.items():
        padded = np.pad(images[row], 2)
        for down in range(5):
            for right in range(5):
                if (pixels[0].numpy() == padded[down : down + 8, right : right + 8]).all():
                    moves.add((down, right))
                    break
    assert len(moves) > 8
    still = collected(loader_of(plain, "test", shift=2))
    assert (still[3][0][0].numpy() == np.load(plain / "test" / "images.npy")[3]).all()
    with pytest.raises(UserError, match="random places already"):
        loader_of(cluttered, shift=2)


def test_rotate_turns_training_digits_only(plain, cluttered):
    for folder in (plain, cluttered):
        straight, turned = collected(loader_of(folder)), collected(loader_of(folder, rotate=40.0))
        assert any(not torch.equal(straight[row][0], turned[row][0]) for row in straight)
        again = collected(loader_of(folder, rotate=40.0))
        assert all(torch.equal(again[row][0], turned[row][0]) for row in turned)
        still = collected(loader_of(folder, "test", rotate=40.0))
        assert (still[3][0][0].numpy() == np.load(folder / "test" / "images.npy")[3]).all()
    with pytest.raises(UserError, match="rotate: with clutter: fixed the canvases of"):
        loader_of(cluttered, rotate=40.0, clutter="fixed")


def test_a_resumed_epoch_has_exactly_the_remaining_batches(cluttered):
    whole = list(loader_of(cluttered, batch_size=8))
    loader = loader_of(cluttered, batch_size=8)
    next(iter(loader))
    resumed = loader_of(cluttered, batch_size=8)
    resumed.load_state_dict(loader.state_dict())
    for left, again in zip(whole[1:], resumed, strict=True):
        assert torch.equal(left.pixels_BCHW, again.pixels_BCHW)
        assert torch.equal(left.boxes_B4, again.boxes_B4)


def test_loading_does_not_use_torchs_global_generator(cluttered):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(loader_of(cluttered))
    assert torch.rand(1) == expected


def test_ranks_divide_the_digits_and_compose_different_canvases(cluttered):
    shards = [collected(loader_of(cluttered, rank=rank, world=2)) for rank in range(2)]
    assert not set(shards[0]) & set(shards[1])
    assert len(shards[0]) == len(shards[1]) == 20


@pytest.mark.parametrize(
    "option", [{"flip": True}, {"rand_augment": 5}, {"short_side": 6}, {"photo_size": (9, 9)},
               {"crop_area": (0.5, 1.0)}, {"random_erasing": 0.5}],
)  # fmt: skip
def test_options_for_photos_are_refused(plain, option):
    with pytest.raises(UserError, match=f"{next(iter(option))}: .* holds digits"):
        loader_of(plain, **option)


def test_blending_digits_of_one_canvas(plain):
    for batch in loader_of(plain, photo_size=(8, 8), mixup=0.3):
        assert batch.targets_BN.shape == (4, 10)

"""Canvases of digits: exact places, no visible square, uniform places, reproducible."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from stacked_ram.data.canvas import compose, rotate, shift


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def strokes(count: int, seed: int = 0, size: int = 28) -> torch.Tensor:
    """Return images like digits: ink in the middle, exactly 0 around it; uint8 N H W."""
    ink = torch.randint(1, 256, (count, size, size), generator=seeded(seed), dtype=torch.uint8)
    ink[torch.rand(ink.shape, generator=seeded(seed + 1)) < 0.6] = 0
    ink[:, :4], ink[:, -4:], ink[:, :, :4], ink[:, :, -4:] = 0, 0, 0, 0
    return ink


def slow_compose(images, canvas, clutter, size, generator, pool, index):
    """Compose photo by photo, piece by piece and pixel by pixel, from the same random numbers."""
    count, height, width = images.shape

    def draw(high, *shape):
        return torch.randint(high, shape, generator=generator)

    tops, lefts = draw(canvas[0] - height + 1, count), draw(canvas[1] - width + 1, count)
    others = (index[:, None] + 1 + draw(len(pool) - 1, count, clutter)) % len(pool)
    cut_y, cut_x = draw(height - size + 1, count, clutter), draw(width - size + 1, count, clutter)
    put_y, put_x = (
        draw(canvas[0] - size + 1, count, clutter),
        draw(canvas[1] - size + 1, count, clutter),
    )
    sums = torch.zeros(count, *canvas, dtype=torch.int64)
    for b in range(count):
        sums[b, tops[b] : tops[b] + height, lefts[b] : lefts[b] + width] += images[b]
        for c in range(clutter):
            for y in range(size):
                for x in range(size):
                    value = pool[others[b, c], cut_y[b, c] + y, cut_x[b, c] + x]
                    sums[b, put_y[b, c] + y, put_x[b, c] + x] += int(value)
    return sums.clamp(max=255).to(torch.uint8)


def test_cluttered_canvases_equal_a_slow_reference():
    pool = strokes(50)
    index = torch.tensor([3, 49, 0, 17, 3, 20])
    arguments = {"clutter": 4, "pool_NHW": pool, "index_B": index}
    pixels, boxes = compose(pool[index], (41, 60), clutter_size=8, generator=seeded(), **arguments)
    expected = slow_compose(pool[index], (41, 60), 4, 8, seeded(), pool, index)
    assert pixels.shape == (6, 1, 41, 60)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[:, 0], expected)
    assert torch.equal(boxes[:, 2:] - boxes[:, :2], torch.full((6, 2), 28))


def test_the_box_holds_the_digit_and_there_is_no_square_around_it():
    images = strokes(64)
    pixels, boxes = compose(images, (60, 50), generator=seeded())
    for photo, digit, (left, top, right, bottom) in zip(
        pixels[:, 0], images, boxes.tolist(), strict=True
    ):
        assert torch.equal(photo[top:bottom, left:right], digit)
        background_inside = photo[top:bottom, left:right][digit == 0]
        photo = photo.clone()
        photo[top:bottom, left:right] = 0
        assert photo.unique().tolist() == background_inside.unique().tolist() == [0]


def test_no_digit_is_its_own_clutter():
    values = torch.arange(1, 11, dtype=torch.uint8)
    pool = values[:, None, None].expand(10, 28, 28).contiguous()
    index = torch.arange(10).repeat(200)
    pixels, boxes = compose(
        pool[index], (60, 60), clutter=1, generator=seeded(), pool_NHW=pool, index_B=index
    )
    used = torch.zeros(11, 11)
    for photo, own, (left, top, right, bottom) in zip(
        pixels[:, 0], values[index].tolist(), boxes.tolist(), strict=True
    ):
        photo[top:bottom, left:right] = 0
        for other in photo.unique().tolist():
            used[own, other] += other > 0
    assert not used.diagonal()[1:].any()
    others = used[1:, 1:] + torch.eye(10)
    assert others.bool().all(), "every other digit is used"


def test_overlaps_add_up_and_stop_at_255():
    pool = torch.full((5, 28, 28), 255, dtype=torch.uint8)
    pixels, _ = compose(pool, (28, 28), clutter=9, generator=seeded())
    assert (pixels == 255).all()
    pool = torch.full((5, 28, 28), 20, dtype=torch.uint8)
    pixels, _ = compose(pool, (28, 28), clutter=2, clutter_size=28, generator=seeded())
    assert (pixels == 60).all()


def test_places_are_uniform_in_both_directions():
    count, canvas, side = 66_000, (20, 36), 4
    digits = torch.zeros(count, side, side, dtype=torch.uint8)
    _, boxes = compose(digits, canvas, generator=seeded())
    for start, length in ((boxes[:, 0], canvas[1]), (boxes[:, 1], canvas[0])):
        places = length - side + 1
        counts = torch.bincount(start, minlength=places)
        assert len(counts) == places
        expected = count / places
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < places + 4 * (2 * places) ** 0.5  # four sigmas
    joint = torch.corrcoef(boxes[:, :2].T.float())[0, 1]
    assert joint.abs() < 4 / count**0.5


def test_clutter_covers_the_whole_canvas_evenly():
    pool = torch.full((2000, 28, 28), 1, dtype=torch.uint8)
    black = torch.zeros_like(pool)
    pixels, _ = compose(black, (31, 45), clutter=1, generator=seeded(), pool_NHW=pool)
    assert (pixels.sum(dim=(1, 2, 3)) == 64).all(), "every piece is whole, none wraps around"
    hits = pixels[:, 0].float().sum(0)
    assert (hits[7:-7, 7:-7] > 0).all()
    assert hits[0, 0] > 0 and hits[-1, -1] > 0 and hits[0, -1] > 0 and hits[-1, 0] > 0


def test_same_seed_same_canvases_other_seed_others():
    images = strokes(20)
    once, again, other = (
        compose(images, (60, 60), clutter=4, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    assert not torch.equal(once[1], other[1])


def test_a_seed_gives_the_published_canvases():
    """Fixed test sets are published by hash, so they must not change."""
    images = (torch.arange(30 * 28 * 28) * 7919 % 256).to(torch.uint8).view(30, 28, 28)
    pixels, boxes = compose(images, (60, 60), clutter=4, generator=seeded(12))
    digest = hashlib.sha256(pixels.numpy().tobytes() + boxes.numpy().tobytes()).hexdigest()
    assert digest == "4d10998892cfc799c38ace42a25104b91d8670c66ecb5cc29685f24cb13985b1"


def test_without_translate_the_digit_is_at_the_centre():
    images = strokes(5)
    pixels, boxes = compose(images, (60, 100), translate=False)
    assert boxes.tolist() == [[36, 16, 64, 44]] * 5
    assert torch.equal(pixels[:, 0, 16:44, 36:64], images)


def test_shift_moves_by_at_most_so_many_pixels_and_fills_with_black():
    images = strokes(300)
    pixels = shift(images, 3, seeded())
    assert pixels.shape == (300, 1, 28, 28)
    wide = torch.nn.functional.pad(images, (3, 3, 3, 3))
    moves = set()
    for photo, digit in zip(pixels[:, 0], wide, strict=True):
        found = [
            (dy, dx)
            for dy in range(7)
            for dx in range(7)
            if torch.equal(photo, digit[dy : dy + 28, dx : dx + 28])
        ]
        assert len(found) == 1
        moves.update(found)
    assert len(moves) == 49
    assert torch.equal(shift(images, 0, seeded())[:, 0], images)


@pytest.mark.parametrize("sides", [(28, 28), (20, 28)])
def test_rotate_turns_each_digit_about_its_centre_as_scipy_does(sides):
    images = torch.zeros(50, *sides, dtype=torch.uint8)
    images[:, 6:-6, 6:-6] = strokes(50)[:, 6 : sides[0] - 6, 6:-6]
    turned = rotate(images, 30.0, seeded())
    assert turned.dtype == torch.uint8 and turned.shape == images.shape
    degrees = 30 * (2 * torch.rand(50, generator=seeded()) - 1)
    assert degrees.min() < -20 and degrees.max() > 20
    for image, found, angle in zip(images.double(), turned, degrees.tolist(), strict=True):
        expected = ndimage.rotate(image.numpy(), angle, reshape=False, order=1)
        np.testing.assert_allclose(found.numpy(), expected, atol=0.51)
    assert torch.equal(rotate(images, 0.0, seeded()), images)


def test_a_batch_of_one_works_with_a_pool():
    pool = strokes(4)
    pixels, boxes = compose(pool[:1], (30, 28), clutter=3, generator=seeded(), pool_NHW=pool)
    assert pixels.shape == (1, 1, 30, 28) and boxes.shape == (1, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images_BHW": torch.zeros(2, 28, 28)}, "uint8"),
        ({"canvas": (60, 27)}, "cannot hold"),
        ({"clutter": 1, "clutter_size": 29}, "clutter_size 29"),
        ({"clutter": 1, "images_BHW": torch.zeros(1, 28, 28, dtype=torch.uint8)}, "pool"),
    ],
)
def test_invalid_canvases_are_refused(change, words):
    arguments = {"images_BHW": strokes(2), "canvas": (60, 60)} | change
    with pytest.raises(ValueError, match=words):
        compose(arguments.pop("images_BHW"), arguments.pop("canvas"), **arguments)

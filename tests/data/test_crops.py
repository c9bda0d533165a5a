from __future__ import annotations

import numpy as np

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.batching import Rows
from stacked_ram.data.crops import Crops, crop_boxes, no_crops, random_crops

COUNT = 3000
ROWS = Rows(np.arange(COUNT), np.zeros(COUNT, int))


def crops_of(sizes_B2, boxes_B4=None, **data):
    boxes_B4 = np.full((COUNT, 4), np.nan) if boxes_B4 is None else boxes_B4
    return random_crops(DataConfig(**data), 0, 0, ROWS, sizes_B2, boxes_B4)


def test_crops_have_the_requested_areas_and_nearly_the_photos_proportions():
    sizes_B2 = np.tile([300, 400], (COUNT, 1))
    crops = crops_of(sizes_B2, crop_area=(0.3, 0.8))
    height, width = crops.sizes_B2.T
    area = height * width / 120_000
    assert 0.29 < area.min() < 0.31 and 0.79 < area.max() < 0.81
    assert abs(area.mean() - 0.55) < 0.01
    proportions = width / height / (400 / 300)
    assert 0.74 < proportions.min() < 0.77 and 1.30 < proportions.max() < 1.35
    left, top, right, bottom = crops.windows_B4.T
    assert left.min() == 0 and top.min() == 0 and right.max() == 400 and bottom.max() == 300
    assert abs((left + right).mean() / 2 - 200) < 5  # uniformly distributed


def test_large_crops_fit():
    sizes_B2 = np.tile([7, 400], (COUNT, 1))
    crops = crops_of(sizes_B2, crop_area=(0.9, 1.0))
    assert (crops.sizes_B2 >= 1).all() and (crops.sizes_B2 <= sizes_B2).all()
    assert (crops.sizes_B2.prod(axis=1) / 2800).min() > 0.8


def test_half_of_the_photos_are_flipped_independent_of_their_crops():
    sizes_B2 = np.tile([300, 400], (COUNT, 1))
    flips = crops_of(sizes_B2, flip=True).flips_B
    assert 0.47 < flips.mean() < 0.53
    crops = crops_of(sizes_B2, flip=True, crop_area=(0.5, 1.0))
    assert (crops.flips_B == flips).all()
    assert abs(np.corrcoef(crops.flips_B, crops.windows_B4[:, 0])[0, 1]) < 0.05


def test_a_crop_holds_the_box_of_its_photo():
    sizes_B2 = np.tile([300, 400], (COUNT, 1))
    rng = np.random.default_rng(0)
    left_B, top_B = rng.uniform(0, 370, COUNT), rng.uniform(0, 280, COUNT)
    boxes_B4 = np.stack([left_B, top_B, left_B + 30, top_B + 20], 1)
    boxes_B4[::3] = np.nan
    free = crops_of(sizes_B2, crop_area=(0.1, 0.5))
    crops = crops_of(sizes_B2, boxes_B4, crop_area=(0.1, 0.5))
    assert (crops.sizes_B2 == free.sizes_B2).all()
    assert (crops.windows_B4[::3] == free.windows_B4[::3]).all()  # drawn as without boxes
    low_B2, high_B2 = crops.windows_B4[:, :2], crops.windows_B4[:, 2:]
    assert (low_B2 >= 0).all() and (high_B2 <= [400, 300]).all()
    known = ~np.isnan(boxes_B4[:, 0])
    assert (low_B2 <= boxes_B4[:, :2])[known].all() and (high_B2 >= boxes_B4[:, 2:])[known].all()
    place_B = (left_B + 15 - low_B2[:, 0]) / (high_B2 - low_B2)[:, 0]
    assert place_B[known].std() > 0.2  # anywhere in the crop


def test_a_crop_smaller_than_the_box_lies_in_it():
    boxes_B4 = np.tile([10.0, 20, 390, 290], (COUNT, 1))
    crops = crops_of(np.tile([300, 400], (COUNT, 1)), boxes_B4, crop_area=(0.1, 0.2))
    assert (crops.windows_B4[:, :2] >= [10, 20]).all()
    assert (crops.windows_B4[:, 2:] <= [390, 290]).all()


def test_boxes_follow_crop_and_flip():
    windows_B4 = np.array([[10, 20, 50, 80]] * 3)
    boxes_B4 = np.array([[0.0, 30, 30, 100]] * 2 + [[60.0, 30, 70, 40]])
    moved = crop_boxes(boxes_B4, Crops(windows_B4, np.array([False, True, False])))
    assert moved[0].tolist() == [0, 10, 20, 60]
    assert moved[1].tolist() == [20, 10, 40, 60]
    assert np.isnan(moved[2]).all()  # the box is outside the crop


def test_no_box_stays_no_box():
    moved = crop_boxes(np.full((2, 4), np.nan), no_crops(np.array([[5, 6], [7, 8]])))
    assert np.isnan(moved).all()

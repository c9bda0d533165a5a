"""The drawn records agree with the model's trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import noise_photo, recorded, tiny_model, tiny_run

from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.feature_colours import FeatureColours
from stacked_ram.viz.foveate import UNSEEN, foveated
from stacked_ram.viz.records import record_photos, sampled_locations
from stacked_ram.viz.report import picture, surface_entry

KINDS = {
    "dense": {"num_patches": 2},
    "rnn": {"stack": "rnn", "num_levels": 2, "num_patches": 2},
    "conv": {"stack": "conv", "num_levels": 2, "map_channels": 4},
    "map only": {"stack": "conv", "num_levels": 2, "map_channels": 4, "levels": (1,)},
    "soft": {"attention": "soft", "glance": (8, 8)},
    "cells": {"policy": "categorical", "glance": (8, 8), "regions": (2, 2)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_keeps_the_trace(kind):
    model, photo = tiny_model(**KINDS[kind]), noise_photo()
    record = recorded(model, photo)
    with torch.inference_mode():
        trace = model(model.photos(torch.from_numpy(photo.pixels_CHW[None])))
    np.testing.assert_allclose(record.beliefs_TN, trace.logits_BTN[0].softmax(1), atol=1e-6)
    np.testing.assert_array_equal(record.locations_TS2, trace.locations_BTS2[0])
    if kind != "conv":
        for level, surface in enumerate(record.surfaces[: trace.boxes_BTSK4.shape[2]]):
            np.testing.assert_array_equal(surface.boxes_TK4, trace.boxes_BTSK4[0, :, level])


def test_patches_are_pixels_of_the_photo():
    """At native resolution a patch equals a crop of the photo."""
    photo = noise_photo()
    record = recorded(tiny_model(), photo)
    surface = record.surfaces[0]
    for box, patch in zip(surface.boxes_TK4[:, 0], surface.patches_TKPPC[:, 0], strict=True):
        left, top, right, bottom = box.astype(int)
        piece = np.moveaxis(photo.pixels_CHW, 0, -1)[max(top, 0) : bottom, max(left, 0) : right]
        inside = patch[max(-top, 0) :, max(-left, 0) :][: piece.shape[0], : piece.shape[1]]
        np.testing.assert_array_equal(inside, piece)


def test_photos_of_several_sizes_come_back_in_order():
    photos = [noise_photo(24, 32), noise_photo(16, 20), noise_photo(16, 20), noise_photo(24, 32)]
    records = list(record_photos(tiny_run(), photos))
    assert [record.photo for record in records] == photos
    alone = recorded(tiny_model(), photos[2])
    np.testing.assert_allclose(records[2].beliefs_TN, alone.beliefs_TN, atol=1e-6)


def test_a_photo_may_be_a_path_an_image_an_array_or_a_tensor(run_folder, photos):
    run = load_run(run_folder, "cpu")
    path = next((photos / "test" / "dot").iterdir())
    image = Image.open(path)
    array_HWC = np.asarray(image)
    tensor_CHW = torch.from_numpy(array_HWC.transpose(2, 0, 1) / 255)
    records = list(record_photos(run, [path, str(path), image, array_HWC, tensor_CHW]))
    assert [record.correct is None for record in records] == [False, False, True, True, True]
    for record in records:
        np.testing.assert_array_equal(record.beliefs_TN, records[0].beliefs_TN)
    with pytest.raises(UserError, match="shape"):
        list(record_photos(run, [array_HWC[..., :2]]))


@pytest.mark.parametrize("kind", ["dense", "rnn", "soft", "cells"])
def test_only_the_first_location_is_forced(kind):
    model, photo = tiny_model(**KINDS[kind]), noise_photo()
    forced = recorded(model, photo, first_location=(0.5, -0.5))
    np.testing.assert_allclose(forced.locations_TS2[0], [[0.5, -0.5]] * len(model.levels))
    own = recorded(model, photo)
    again = recorded(model, photo, first_location=tuple(own.locations_TS2[0, 0].tolist()))
    if kind != "rnn":  # each level has its own first location
        np.testing.assert_allclose(again.beliefs_TN, own.beliefs_TN, atol=1e-5)


def test_what_was_not_read_is_dark():
    photo = noise_photo()
    record = recorded(tiny_model(), photo)
    known = foveated(record, 1)
    left, top, right, bottom = record.surfaces[0].boxes_TK4[0, 0].astype(int)
    rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
    np.testing.assert_array_equal(
        known[rows, columns], np.moveaxis(photo.pixels_CHW, 0, -1)[rows, columns]
    )
    known[rows, columns] = UNSEEN
    assert (known == UNSEEN).all()
    assert (foveated(record, 0) == UNSEEN).all()


def test_a_feature_map_of_the_photos_size_is_not_mistaken_for_the_photo():
    model = tiny_model(stack="backbone", backbone="dla46_c", num_levels=2)
    record = recorded(model, noise_photo())
    photo, feature_map = record.surfaces
    assert feature_map.size == photo.size == (24, 32)
    assert [surface is photo for surface in record.photo_surfaces] == [True]
    of_photo, of_map = (surface_entry(record, surface) for surface in record.surfaces)
    assert of_photo["onPhoto"] and of_photo["image"] is None
    assert not of_map["onPhoto"] and of_map["image"] == picture(feature_map.image_HWC)


def test_finer_patches_lie_over_coarser_ones():
    photo = noise_photo()
    record = recorded(tiny_model(num_patches=2), photo)
    known = foveated(record, record.steps)
    for box in record.surfaces[0].boxes_TK4[:, 0].astype(int):
        left, top, right, bottom = box
        rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
        np.testing.assert_array_equal(
            known[rows, columns], np.moveaxis(photo.pixels_CHW, 0, -1)[rows, columns]
        )


def test_the_settled_step_is_the_first_of_the_final_prediction():
    record = recorded(tiny_model(num_glimpses=4), noise_photo())
    record.beliefs_TN = np.eye(3)[[0, 1, 2, 2]]
    assert record.final_from == 3
    record.beliefs_TN = np.eye(3)[[1, 1, 1, 1]]
    assert record.final_from == 1
    assert record.until(2).steps == 2


def test_sampled_paths_differ_and_are_reproducible():
    model = tiny_model()
    first, again = (sampled_locations(model, noise_photo(), 8) for _ in range(2))
    assert first.shape == (8, 3, 1, 2)
    np.testing.assert_array_equal(first, again)
    assert first.std(0).max() > 0.01


def test_feature_colours_agree_between_a_map_and_its_patches():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8, 9))
    colours = FeatureColours([features])
    whole = colours(features)
    assert whole.shape == (8, 9, 3) and whole.dtype == np.uint8
    np.testing.assert_array_equal(colours(features[:, 2:5, 3:6]), whole[2:5, 3:6])
    assert FeatureColours([features[:1]])(features[:1]).shape == (8, 9, 3)

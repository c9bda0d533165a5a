"""Pictures stay clear: maps beside photos, tiny boxes, large photos, keys, text in SVG."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import noise_photo, recorded, tiny_model, tiny_run, words_of
from test_whole_set import random_records

from stacked_ram.cli.viz import main
from stacked_ram.viz import figures, gallery, key
from stacked_ram.viz.attention_map import attention_figure
from stacked_ram.viz.boxes import TAG, place_tags, points_a_unit, view_of
from stacked_ram.viz.compare import compare_figure, compare_overview
from stacked_ram.viz.explained import explain_record, explained_figure
from stacked_ram.viz.overview import overview_figure
from stacked_ram.viz.photos import Photo, evenly
from stacked_ram.viz.records import DRAWN, grey_photo, map_colours, record_photos
from stacked_ram.viz.style import Sheet, figure_bytes
from stacked_ram.viz.thumbnails import panels, small_size
from stacked_ram.viz.zoom import is_tiny, pixels_of, zoom_view

MAPS = {"stack": "conv", "num_levels": 2, "map_channels": 4}


def large_photo() -> Photo:
    """5 million pixels, each different from its neighbours."""
    rows, columns = np.mgrid[:2000, :2500]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256]).astype(np.uint8)
    return Photo("large.png", pixels, (2000, 2500), 1)


@pytest.mark.parametrize("levels", [None, (1,)])
def test_small_pictures_of_a_stack_of_maps_show_the_photo_first(levels):
    record = recorded(tiny_model(**MAPS, levels=levels), noise_photo())
    first, second = panels(record)
    np.testing.assert_array_equal(first.image_HWC, np.moveaxis(record.photo.pixels_CHW, 0, -1))
    assert second.is_map
    words = words_of(gallery.gallery_figure([record], ""))
    assert any("principal components" in text for text in words)


def test_colours_of_feature_maps_are_the_same_over_a_set():
    run, photos = tiny_run(**MAPS), [noise_photo(), noise_photo(30, 20)]
    colours = map_colours(run, photos)
    together = list(record_photos(run, photos, colours=colours))
    alone = list(record_photos(run, photos[1:], colours=colours))
    own = list(record_photos(run, photos[1:]))
    np.testing.assert_array_equal(together[1].maps[0].image_HWC, alone[0].maps[0].image_HWC)
    assert (own[0].maps[0].image_HWC != alone[0].maps[0].image_HWC).any()
    assert map_colours(tiny_run(), photos) is None


def test_large_photos_are_drawn_reduced_and_enlarged_at_their_own_resolution():
    record = recorded(tiny_model(), large_photo())
    for surface in record.surfaces:
        assert surface.image_HWC.shape[0] * surface.image_HWC.shape[1] <= 1.01 * DRAWN
    assert max(grey_photo(record).shape) == 480  # what maps of belief and attention are drawn on
    surface = record.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    assert is_tiny(surface, view, 4.0, 3.2)
    part = zoom_view(record, surface, 4.0, 1.5)
    left, top, right, bottom = surface.boxes_TK4[-1, 0].clip(0, (2500, 2000, 2500, 2000))
    assert part[0] <= left and part[1] <= top and part[2] >= right and part[3] >= bottom
    pixels_HWC, (x, y, *_) = pixels_of(record, part)
    np.testing.assert_array_equal(pixels_HWC[0, 0], record.photo.pixels_CHW[:, int(y), int(x)])
    assert "enlarged: around glimpse 3" in words_of(figures.story(record))


def test_tiny_boxes_are_enlarged_in_every_level_of_a_stack():
    record = recorded(tiny_model(stack="rnn", num_levels=2), noise_photo(20, 1000))
    assert words_of(figures.story(record)).count("enlarged: around glimpse 3") == 2


@pytest.mark.parametrize("kind", [{}, MAPS, {"stack": "rnn", "num_levels": 2}])
def test_odd_shapes_are_drawn(kind):
    model = tiny_model(**kind)
    records = [recorded(model, noise_photo(*size)) for size in ((2, 100), (100, 2), (8, 8))]
    for record in records:
        assert figure_bytes(figures.story(record), dpi=30)
    assert figure_bytes(gallery.gallery_figure(records, "odd"), dpi=30)


@pytest.mark.parametrize("size", [(20, 1000), (1000, 20)])
def test_small_pictures_of_very_long_photos_are_no_lines(size):
    record = recorded(tiny_model(glance=(8, 8)), noise_photo(*size))
    wide, tall = small_size(record, 1.6, 1.6)
    assert max(wide, tall) <= 1.6 and min(wide, tall) >= 0.19
    for figure in (figures.story(record), gallery.gallery_figure([record], "long")):
        assert "small pictures of photos of more than 8 : 1 are drawn thicker" in words_of(figure)


def test_the_number_of_a_tiny_box_does_not_hide_it():
    record = recorded(tiny_model(), large_photo())
    surface = record.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    axes = Sheet(4.0, 3.2).axes(0, 0, 4.0, 3.2)
    axes.set(xlim=(view[0], view[2]), ylim=(view[3], view[1]))
    scale = points_a_unit(axes, view)
    boxes = surface.boxes_TK4[:, 0]
    for step, place in enumerate(place_tags(axes, surface, view, range(3))):
        nearest = np.clip(place, boxes[step, :2], boxes[step, 2:])
        assert np.hypot(*((nearest - place) * scale)) > TAG


def test_the_key_names_only_what_a_picture_holds():
    record = recorded(tiny_model(num_patches=1), noise_photo(400, 400))
    surface = record.surfaces[0]
    surface.boxes_TK4 = np.array([[[40.0, 40, 44, 44]], [[90, 90, 94, 94]], [[9, 9, 13, 13]]])
    assert key.box_marks([record]) == []
    surface.boxes_TK4[0] -= 50  # now outside the photo
    assert key.box_marks([record]) == [key.OUTSIDE]
    surface.boxes_TK4[2] = surface.boxes_TK4[1]
    assert key.box_marks([record]) == [key.OUTSIDE, key.AGAIN]


def test_the_object_is_drawn_where_the_data_set_has_its_box():
    run, photo = tiny_run(), noise_photo()
    photo.box_4 = np.array([8.0, 6.0, 16.0, 18.0])
    record = recorded(run.model, photo)
    assert record.object_4 == (0.25, 0.25, 0.5, 0.75)
    words = "the object, as the data set says"
    assert words in words_of(figures.story(record))
    assert words in words_of(explained_figure(record, explain_record(run, record, places=4)))
    assert words not in words_of(figures.story(recorded(run.model, noise_photo())))


def test_overviews_comparisons_and_attention_maps_have_a_key():
    whole, record = random_records(), recorded(tiny_model(), noise_photo())
    overview = words_of(overview_figure(whole, ""))
    assert {"middle of the photo", "glimpse 1", "glimpse 3"} <= set(overview)
    assert "middle of the photo" in words_of(compare_overview((whole, whole), ("one", "two")))
    words = words_of(compare_figure([(record, record)], ("one", "two")))
    assert words.count("one") == words.count("two") == 2  # over the column and in the key
    attention = words_of(attention_figure(record, tiny_model()))
    assert {"mean of the policy", "its standard deviation"} <= set(attention)


def test_svg_holds_text_and_a_title():
    record = recorded(tiny_model(), noise_photo())
    svg = figure_bytes(figures.story(record), "svg").decode()
    name = record.classes[record.predicted]
    assert f"says {name}" in svg.split("<title>")[1].split("</title>")[0]
    assert svg.count(f">{name}</text>") > 1


def test_photos_are_chosen_evenly_from_folders():
    files = [Path(f"{folder}/{number:02d}.png") for folder in "ab" for number in range(50)]
    chosen = evenly(files, 10)
    assert [sum(file.parent.name == name for file in chosen) for name in "ab"] == [5, 5]
    assert chosen == sorted(chosen) and evenly(files[:3], 10) == files[:3]


@pytest.mark.parametrize("flag", ["--attention", "--animate", "--separate"])
def test_a_mode_that_does_not_draw_what_is_asked_says_so(run_folder, capsys, flag):
    for mode in (["--compare", str(run_folder)], ["--report"], ["--one-per-class"]):
        assert main([str(run_folder), *mode, flag]) == 2
        assert f"draws no {flag}" in capsys.readouterr().err


def test_widths_are_given_in_pixels_of_the_file_too():
    photo = noise_photo(24, 32)
    photo.true_size = (240, 320)
    words = words_of(figures.story(recorded(tiny_model(), photo)))
    assert "glimpse, 4 px wide" in words and "(40 px of the file)" in words


def test_a_record_of_grey_pixels_is_drawn(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1500)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    run = tiny_run(channels=1)
    (record,) = record_photos(run, [tmp_path / "grey.png"])
    assert record.surfaces[0].image_HWC.shape[2] == 3


def test_several_runs_are_compared_in_the_report(run_folder, other_run_folder, tmp_path, capsys):
    others = [str(other_run_folder), str(run_folder)]
    assert main([str(run_folder), "--compare", *others]) == 2
    assert "--report compares more" in capsys.readouterr().err
    out = ["--out", str(tmp_path)]
    assert main([str(run_folder), "--report", "--limit", "2", "--compare", *others, *out]) == 0
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [run["name"] for run in data["runs"]] == ["first", "second", "first"]
    assert data["runs"][0] == data["runs"][2] | {"colour": data["runs"][0]["colour"]}
    assert data["runs"][0]["predicted"] == data["table"]["predicted"]
    labels = np.array(data["table"]["label"])
    for run in data["runs"]:
        assert run["accuracy"] == pytest.approx(np.mean(run["predicted"] == labels), abs=1e-4)
    assert "2 photos chosen evenly from the classes" in data["shown"]

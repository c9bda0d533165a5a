"""The needle data set: a small object decides the class and vanishes in the reduced photo."""

from __future__ import annotations

import numpy as np
import pandas
import yaml
from PIL import Image
from pyramids import vips

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.photo_batches import by_region
from stacked_ram.images.lazy import LazyPhoto
from stacked_ram.preparation.needle import (
    ANGLES,
    CLASSES,
    OBJECT,
    NeedleOptions,
    main,
    needle_photo,
    prepare_needle,
)

SHAPE = 600, 800


def strongest_direction(pixels_HWC: np.ndarray) -> float:
    """Return the angle of the stripes of a patch, in degrees, from its spectrum."""
    grey = pixels_HWC.mean(2)
    power = np.abs(np.fft.fft2(grey - grey.mean()))
    y, x = np.unravel_index(power.argmax(), power.shape)
    down, across = np.fft.fftfreq(OBJECT)[[y, x]]
    return float(np.degrees(np.arctan2(down, across)) - 90)


def test_the_box_holds_stripes_in_the_direction_of_the_class():
    for label, angle in enumerate(ANGLES):
        photo = needle_photo(np.random.default_rng(label), label, 1, *SHAPE)
        assert photo.class_name == CLASSES[label]
        left, top, right, bottom = photo.box
        assert right - left == bottom - top == OBJECT
        assert left >= 0 and right <= SHAPE[1] and top >= 0 and bottom <= SHAPE[0]
        found = strongest_direction(photo.pixels_HWC[top:bottom, left:right].astype(float))
        assert abs((found - angle + 90) % 180 - 90) < 12


def test_the_light_around_the_needle_is_visible_in_a_reduced_photo():
    hits = 0
    for seed in range(10):
        photo = needle_photo(np.random.default_rng(seed), seed % 4, 1, *SHAPE)
        small = Image.fromarray(photo.pixels_HWC).resize((32, 24), Image.Resampling.BOX)
        red, _, blue = np.moveaxis(np.asarray(small, float), 2, 0)
        warm = red / np.median(red) - blue / np.median(blue)
        y, x = np.unravel_index(warm.argmax(), warm.shape)
        centre = np.array([photo.box[0] + OBJECT / 2, photo.box[1] + OBJECT / 2])
        hits += np.hypot(*(np.array([x + 0.5, y + 0.5]) * 25 - centre)) < 100
    assert hits >= 9


def test_the_data_set_has_boxes_and_is_reproducible(tmp_path):
    vips()
    folder = prepare_needle(NeedleOptions(dest=tmp_path / "a", photos=(4, 4, 4)))
    info = yaml.safe_load((folder / "dataset.yaml").read_text())
    assert info["kind"] == "photos" and info["classes"] == list(CLASSES)
    table = pandas.read_csv(folder / "manifest.csv")
    assert len(table) == 12 and (table["width"] == 2048).all() and (table["height"] == 1536).all()
    assert (table["box_right"] - table["box_left"] == OBJECT).all()
    assert table["sha256"].nunique() == 12
    photo = LazyPhoto(folder / table["path"][0])
    assert photo.size == (1536, 2048) and len(photo.pyramid.levels) > 2
    assert by_region(open_dataset(DataConfig(dataset=str(folder)), "train"), DataConfig())
    again = pandas.read_csv(
        prepare_needle(NeedleOptions(dest=tmp_path / "b", photos=(4, 4, 4))) / "manifest.csv"
    )
    assert list(again["sha256"]) == list(table["sha256"])


def test_too_few_photos_are_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "c"), "--photos", "4", "1", "4"]) == 2
    assert "--photos" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_users_folder_is_never_replaced(tmp_path, capsys):
    (tmp_path / "needle").mkdir()
    (tmp_path / "needle" / "mine.jpg").write_bytes(b"mine")
    assert main([str(tmp_path / "needle"), "--photos", "4", "4", "4"]) == 2
    assert "needle exists and is not a prepared data set" in capsys.readouterr().err
    assert [*tmp_path.rglob("*.*")] == [tmp_path / "needle" / "mine.jpg"]

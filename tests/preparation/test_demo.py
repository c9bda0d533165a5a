"""The embedded demo: no leaks between splits, exact boxes, readable digits, reproducible."""

import csv
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stacked_ram.preparation import demo
from stacked_ram.preparation.records import SPLITS
from stacked_ram.runtime.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The whole demo, with one canvas per scan."""
    dest = tmp_path_factory.mktemp("datasets") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CANVASES_A_SCAN", dict.fromkeys(SPLITS, 1))
        assert demo.prepare_demo(dest) == dest
    return dest


def test_a_users_folder_is_never_replaced(tmp_path):
    kept = tmp_path / "demo" / "holiday" / "only copy.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    with pytest.raises(UserError, match="demo exists and is not a prepared data set"):
        demo.prepare_demo(tmp_path / "demo")
    assert [*tmp_path.rglob("*.*")] == [kept] and kept.read_bytes() == b"mine"


def rows_of(dest):
    with open(dest / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_scan_is_in_two_splits(prepared):
    groups = defaultdict(set)
    for row in rows_of(prepared):
        groups[row["split"]].add(row["group"])
    assert {split: len(found) for split, found in groups.items()} == demo.SCANS
    assert len(set.union(*groups.values())) == sum(demo.SCANS.values()) == 1797


def test_every_split_has_the_proportions_of_the_classes(prepared):
    labels = load_digits().target
    fractions = np.bincount(labels) / len(labels)
    for split in SPLITS:
        counts = Counter(row["class"] for row in rows_of(prepared) if row["split"] == split)
        for digit in range(10):
            expected = demo.SCANS[split] * fractions[digit]
            assert abs(counts[str(digit)] - expected) <= 1.5


def test_the_result_is_an_ordinary_data_set(prepared):
    rows = rows_of(prepared)
    for row in rows[::50]:
        with Image.open(prepared / row["path"]) as image:
            assert (
                image.size == (demo.WIDTH, demo.HEIGHT) == (int(row["width"]), int(row["height"]))
            )
            assert image.mode == "RGB"
        left, top, right, bottom = (
            float(row[f"box_{side}"]) for side in ("left", "top", "right", "bottom")
        )
        assert 0 <= left < right <= demo.WIDTH and 0 <= top < bottom <= demo.HEIGHT
        assert right - left == bottom - top
        assert demo.DIGIT_SIZES[0] <= right - left <= demo.DIGIT_SIZES[1]
        label = load_digits().target[int(row["group"].removeprefix("scan "))]
        assert row["class"] == str(label) == row["path"].split("/")[1]
    files = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*.jpg")}
    assert files == {row["path"] for row in rows}
    assert not list(prepared.parent.glob(".*")), "no partial files remain"


def test_the_same_seed_gives_the_same_photos():
    once, again = (
        [photo.pixels_HWC for photo in islice(demo.demo_photos("test", seed=3), 20)]
        for _ in range(2)
    )
    other = [photo.pixels_HWC for photo in islice(demo.demo_photos("test", seed=4), 20)]
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_only_the_pixels_of_the_box_change(monkeypatch):
    def pixels():
        return [photo.pixels_HWC for photo in photos()]

    def photos():
        return list(islice(demo.demo_photos("valid"), 30))

    written, boxes = pixels(), [photo.box for photo in photos()]
    monkeypatch.setattr(demo, "_ink", lambda rng, under_HWC: under_HWC)  # invisible ink
    monkeypatch.setattr(demo, "DARKENS", 0.0)
    for with_digit, without, (left, top, right, bottom) in zip(
        written, pixels(), boxes, strict=True
    ):
        changed = (with_digit != without).any(axis=2)
        inside = changed[top:bottom, left:right].copy()
        changed[top:bottom, left:right] = False
        assert not changed.any()
        assert 0.1 < inside.mean() < 1, "strokes, their shadow, and background"


def test_strokes_stand_out_from_any_background():
    scan = load_digits().images[0] / 16
    for level in range(0, 256, 15):
        ground = np.full((demo.HEIGHT, demo.WIDTH, 3), level, np.float32)
        pixels, (left, top, right, bottom) = demo._write_digit(
            np.random.default_rng(level), ground, scan
        )
        inside = pixels[top:bottom, left:right].mean(2)
        assert np.quantile(inside, 0.95) - np.quantile(inside, 0.05) >= 60


def test_places_do_not_depend_on_the_digit():
    """Centres cover the photo, and a classifier of place and size is at chance."""
    from sklearn.ensemble import RandomForestClassifier

    photos = list(islice(demo.demo_photos("train"), 3000))
    places = np.array([photo.box for photo in photos])
    digits = np.array([photo.digit for photo in photos])
    assert places.min(axis=0)[:2].tolist() == [0, 0]
    assert places.max(axis=0)[2:].tolist() == [demo.WIDTH, demo.HEIGHT]
    forest = RandomForestClassifier(50, min_samples_leaf=5, random_state=0, n_jobs=1)
    half = len(photos) // 2
    # canvases of a scan differ in their turn: the halves have scans in common, but no places
    score = forest.fit(places[:half], digits[:half]).score(places[half:], digits[half:])
    assert score < 0.1 + 4 * (0.09 / half) ** 0.5

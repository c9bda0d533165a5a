"""Photos that turn out to be damaged while they are read: the others are drawn correctly."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from pyramids import lose_tiles, smooth_pixels, vips, write_pyramid

from stacked_ram.cli.viz import main
from stacked_ram.images.lazy import UnreadablePhoto
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import compare, records
from stacked_ram.viz import photos as viz_photos
from stacked_ram.viz.app_view import watch

FIRST, SECOND = 3, 2  # glimpses of the two runs


@pytest.fixture
def damaged(monkeypatch):
    """A set for (name of a photo, glimpses of the run that cannot read it). Every photo is a batch
    of its own, as large photos are."""
    gone = set()
    record_batch = records.record_batch

    def record_or_fail(model, photos, classes, **how):
        if (photos[0].name, model.config.num_glimpses) in gone:
            raise UnreadablePhoto(f"{photos[0].name}: cannot read", None)
        return record_batch(model, photos, classes, **how)

    monkeypatch.setattr(records, "record_batch", record_or_fail)
    monkeypatch.setattr(records, "may_share_batch", lambda photo, other: False)
    return gone


@pytest.fixture
def pairs(monkeypatch):
    """Collect the pairs of photos drawn side by side."""
    drawn = []
    draw = compare.compare_figure
    monkeypatch.setattr(
        compare, "compare_figure", lambda part, names: drawn.extend(part) or draw(part, names)
    )
    return drawn


def report_of(run_folder, out):
    assert main([str(run_folder), "--report", "--out", str(out)]) == 0
    text = (out / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_galleries_of_the_report_have_the_right_photos(run_folder, tmp_path, damaged):
    def galleries(data):
        return {
            gallery["title"]: [data["photos"][place]["name"] for place in gallery["photos"]]
            for gallery in data["galleries"]
        }

    before = report_of(run_folder, tmp_path)
    gone = before["photos"][0]["name"]
    damaged.add((gone, FIRST))
    after = report_of(run_folder, tmp_path)
    assert len(after["photos"]) == len(before["photos"]) - 1
    left = {
        title: [name for name in names if name != gone]
        for title, names in galleries(before).items()
    }
    assert galleries(after) == {title: names for title, names in left.items() if names}
    damaged |= {(photo["name"], FIRST) for photo in before["photos"]}
    assert main([str(run_folder), "--report", "--out", str(tmp_path)]) == 2


def test_named_photos_are_compared_with_themselves(
    run_folder, other_run_folder, photos, tmp_path, damaged, pairs
):
    """Each of the two runs cannot read a different photo; two photos have the same name."""
    files = sorted((photos / "test").rglob("*.png"))
    twin = shutil.copy(files[2], tmp_path / files[2].name)
    damaged |= {(files[0].name, FIRST), (files[3].name, SECOND)}
    words = [str(run_folder), *map(str, files), str(twin), "--compare", str(other_run_folder),
             "--out", str(tmp_path)]  # fmt: skip
    assert main(words) == 0
    assert [left.photo.path for left, _ in pairs] == [*files[1:3], *files[4:], twin]
    assert all(left.photo.path == right.photo.path for left, right in pairs)
    damaged |= {(file.name, SECOND) for file in files}
    assert main(words) == 2


def test_a_split_is_compared_on_the_photos_that_both_runs_can_read(
    run_folder, other_run_folder, tmp_path, monkeypatch, pairs
):
    gone = {FIRST: "test/bar/0.png", SECOND: "test/ring/2.png"}
    record_split, overview, wholes = compare.record_split, compare.compare_overview, []

    def record_the_rest(run, split, stop):
        wanted = [name != gone[run.config.model.num_glimpses] for name in split.dataset.names]
        split.keep(np.flatnonzero(wanted))
        return record_split(run, split, stop)

    monkeypatch.setattr(compare, "record_split", record_the_rest)
    monkeypatch.setattr(
        compare,
        "compare_overview",
        lambda both, names: wholes.extend(both) or overview(both, names),
    )
    words = [str(run_folder), "--compare", str(other_run_folder), "--out", str(tmp_path)]
    assert main(words) == 0
    assert wholes[0].names == wholes[1].names
    assert len(wholes[0].names) == 4 and not set(gone.values()) & set(wholes[0].names)
    assert len(pairs) == 4
    assert all(left.photo.name == right.photo.name for left, right in pairs)


def test_the_app_says_what_is_wrong_with_a_damaged_photo(run_folder, tmp_path, monkeypatch):
    vips()
    monkeypatch.setattr(
        viz_photos, "OVERVIEW_SIDE", 50
    )  # the small picture comes from an undamaged level
    path = write_pyramid(tmp_path / "photo.tif", smooth_pixels(150, 200))
    lose_tiles(path)
    with pytest.raises(UserError, match=r"photo\.tif: cannot read"):
        next(watch(load_run(run_folder, "cpu"), str(path), 3, 1.0, None))

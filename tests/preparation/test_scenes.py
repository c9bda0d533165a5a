"""Scenes: exact boxes, backgrounds of one split only, reproducible, no cue but the object."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rectangles import MAGENTA, SIZES, checked_rectangles

from stacked_ram.data.scenes import SceneShape, compose_scene
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import CheckedRecord
from stacked_ram.preparation.scenes import find_backgrounds, prepare_scenes
from stacked_ram.runtime.errors import UserError

SHAPE = SceneShape(height=72, width=96)


def texture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a background of green and grey blobs, without magenta."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 200, (5, 7, 3), dtype=np.uint8))
    return blobs.resize(size, Image.Resampling.BILINEAR)


def opened(image: Image.Image):
    return lambda width, height: image


def scene(seed: int, photo: Image.Image, shape: SceneShape = SHAPE):
    rng = np.random.default_rng(seed)
    others = [opened(texture(int(n))) for n in rng.integers(10_000, size=1 + shape.clutter)]
    return compose_scene(rng, shape, opened(photo), others)


@pytest.fixture(scope="module")
def background(tmp_path_factory) -> Path:
    """60 photos in two folders, a copy of one of them, and a broken photo."""
    folder = tmp_path_factory.mktemp("background")
    for number in range(60):
        inner = folder / f"kind {number % 2}"
        inner.mkdir(exist_ok=True)
        texture(number).save(inner / f"{number:02d}.png")
    (folder / "again.png").write_bytes((folder / "kind 0" / "00.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[CheckedRecord]:
    return checked_rectangles(tmp_path_factory.mktemp("checked"), 24)


def options_for(dest: Path, background: Path | None, **given) -> PrepareOptions:
    return PrepareOptions(
        **{"source": Path("photos"), "dest": dest, "scene": "96x72", "workers": 1}
        | {"background": background}
        | given
    )


def rows_of(dest: Path) -> list[dict[str, str]]:
    with open(dest / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_magenta(pixels_HWC: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels_HWC.astype(int), -1, 0)
    return (red > 200) & (blue > 200) & (green < 60)


@pytest.mark.parametrize("size", SIZES.values())
def test_the_box_is_where_the_object_is(size):
    for seed in range(40):
        pixels, (left, top, right, bottom) = scene(seed, Image.new("RGB", size, MAGENTA))
        found = is_magenta(np.asarray(pixels))
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        soft = 0.12 * min(right - left, bottom - top) + 1
        for measured, edge in zip(
            (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1),
            (left, top, right, bottom), strict=True,
        ):  # fmt: skip
            assert abs(measured - edge) <= soft
        assert columns[0] >= left and columns[-1] < right
        assert rows[0] >= top and rows[-1] < bottom
        assert 0 <= left < right <= 96 and 0 <= top < bottom <= 72
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.2)


def test_sizes_follow_the_requested_fractions():
    sides = [
        max(right - left, bottom - top)
        for _, (left, top, right, bottom) in (
            scene(seed, Image.new("RGB", (40, 30))) for seed in range(300)
        )
    ]
    assert round(0.12 * 96) == min(sides) and max(sides) == round(0.3 * 96)
    whole = SceneShape(height=20, width=100, object_shares=(1.0, 1.0))
    _, box = scene(0, Image.new("RGB", (40, 30)), whole)
    assert box[3] - box[1] <= 20, "every object fits its canvas"


def test_pieces_have_the_same_soft_edges_as_the_object():
    """A white object and white clutter on black have the same profile from edge to middle."""
    shape = SceneShape(96, 96, object_shares=(0.5, 0.5), clutter=1, clutter_shares=(0.5, 0.5))
    white, black = Image.new("RGB", (60, 60), "white"), Image.new("RGB", (200, 200))

    def profile(photo, clutter):
        rng = np.random.default_rng(5)
        pixels, _ = compose_scene(rng, shape, opened(photo), [opened(black), opened(clutter)])
        middle = np.asarray(pixels.convert("L")).max(axis=0)
        return middle[middle > 0]

    # the object covers the clutter: a black object must not hide the edges of the clutter
    on_object = profile(white, black)
    assert on_object[0] < 40 and on_object[-1] < 40 and on_object.max() == 255
    alone = SceneShape(96, 96, object_shares=(0.01, 0.01), clutter=1, clutter_shares=(0.5, 0.5))
    pixels, _ = compose_scene(
        np.random.default_rng(5), alone, opened(black), [opened(black), opened(white)]
    )
    on_clutter = np.asarray(pixels.convert("L")).max(axis=0)
    assert np.array_equal(on_object, on_clutter[on_clutter > 0])


def test_places_are_uniform():
    shape = SceneShape(height=60, width=90, object_shares=(0.2, 0.2), clutter=0)
    photo = Image.new("RGB", (8, 8))
    boxes = np.array([scene(seed, photo, shape)[1] for seed in range(3000)])
    for start, places in ((boxes[:, 0], 90 - 18 + 1), (boxes[:, 1], 60 - 18 + 1)):
        assert start.min() == 0 and start.max() == places - 1
        counts = np.histogram(start, bins=8, range=(0, places))[0]
        edges = np.linspace(0, places, 9)
        expected = np.diff(np.ceil(edges)) / places * len(start)
        assert (((counts - expected) ** 2) / expected).sum() < 8 + 4 * 16**0.5


def test_only_the_object_predicts_the_class():
    """A random forest that gets the scene without the object and its surroundings, and the object's
    place and size, is at chance. With the object in the scene it is not."""
    from sklearn.ensemble import RandomForestClassifier

    blanked, whole, labels = [], [], []
    for seed in range(900):
        label = seed % 3
        photo = Image.new("RGB", list(SIZES.values())[label], [MAGENTA, "white", "red"][label])
        pixels, (left, top, right, bottom) = scene(seed, photo)
        side = max(right - left, bottom - top)
        x, y = (left + right) // 2, (top + bottom) // 2
        pixels_HWC = np.asarray(pixels).copy()
        whole.append(features(pixels_HWC))
        reach = side // 2 + 1
        pixels_HWC[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = 0
        blanked.append([*features(pixels_HWC), x // 2, y // 2, side])
        labels.append(label)

    def accuracy(inputs) -> float:
        forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0, n_jobs=1)
        return forest.fit(inputs[:450], labels[:450]).score(inputs[450:], labels[450:])

    chance = 1 / 3
    assert accuracy(blanked) < chance + 3 * (chance * (1 - chance) / 450) ** 0.5
    assert accuracy(whole) > 0.6, "the check can fail"


def features(pixels_HWC: np.ndarray) -> list[float]:
    """Return the mean colours of 8-pixel cells, and the same sorted."""
    cells = pixels_HWC.reshape(9, 8, 12, 8, 3).mean(axis=(1, 3))
    sorted_cells = np.sort(cells.reshape(-1, 3), axis=0)  # independent of their place
    return [*cells.ravel(), *sorted_cells.ravel()]


def test_no_background_photo_is_in_two_splits(background, tmp_path):
    options = options_for(tmp_path / "scenes", background)
    counts = Counter(train=30, valid=10, test=20)
    found = find_backgrounds(options, background, counts, SHAPE)
    sizes = {split: len(files) for split, files in found.files.items()}
    assert sum(sizes.values()) == 60 and sizes["train"] > sizes["test"] > sizes["valid"] >= 5
    contents = [file.read_bytes() for files in found.files.values() for file in files]
    assert len(set(contents)) == 60, "duplicate photos are used once"
    assert found.left_out == 2
    again = find_backgrounds(options, background, counts, SHAPE)
    assert again == found
    options = options_for(tmp_path / "b", background, seed=1)
    other = find_backgrounds(options, background, counts, SHAPE)
    names = [{file.name for file in each.files["test"]} for each in (found, other)]
    assert names[0] != names[1]


def test_scenes_become_an_ordinary_data_set(background, records, tmp_path):
    dest = prepare_scenes(
        options_for(tmp_path / "scenes", background, scenes_per_photo=2), records, rule="a rule"
    )
    info = yaml.safe_load((dest / "dataset.yaml").read_text())
    assert info["kind"] == "photos" and info["classes"] == ["square", "tall", "wide"]
    assert info["counts"]["train"] == {"square": 12, "tall": 12, "wide": 12}
    assert info["counts"]["test"] == {"square": 1, "tall": 1, "wide": 1}
    split_of = {record.source: record.split for record in records}
    rows = rows_of(dest)
    assert len({row["sha256"] for row in rows}) == len(rows) == 42, "all scenes differ"
    for row in rows:
        assert split_of[row["source"]] == row["split"]
        assert row["group"] == row["source"], "scenes of a photo have the same group"
        with Image.open(dest / row["path"]) as image:
            assert image.size == (96, 72)
            found = is_magenta(np.asarray(image.convert("RGB")))
        left, top, right, bottom = (
            int(float(row[f"box_{side}"])) for side in ("left", "top", "right", "bottom")
        )
        assert found[(top + bottom) // 2, (left + right) // 2]
        found[top:bottom, left:right] = False
        assert not found.any()


def test_scenes_are_the_same_for_any_number_of_workers(background, records, tmp_path):
    first, second, other = (
        rows_of(prepare_scenes(options_for(tmp_path / name, background, **given), records))
        for name, given in
        (("one", {"workers": 1}), ("two", {"workers": 2}), ("three", {"seed": 1}))
    )  # fmt: skip
    assert first == second
    assert {row["sha256"] for row in first}.isdisjoint(row["sha256"] for row in other)


@pytest.mark.parametrize(("folder", "words"), [("missing", "no such"), ("few", "need 15")])
def test_too_few_backgrounds_are_refused(folder, words, records, tmp_path):
    if folder == "few":
        (tmp_path / folder).mkdir()
        for number in range(14):
            texture(number).save(tmp_path / folder / f"{number}.png")
    with pytest.raises(UserError, match=words):
        prepare_scenes(options_for(tmp_path / "scenes", tmp_path / folder), records)
    assert not (tmp_path / "scenes").exists()

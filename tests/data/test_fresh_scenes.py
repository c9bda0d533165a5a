"""New training scenes in every epoch: reproducible, with exact boxes."""

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rectangles import checked_rectangles
from small_sets import config_of, loader_of, wait_for_flush

from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.fresh_scenes import SceneMaker
from stacked_ram.data.scenes import draw_scene
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import CheckedRecord
from stacked_ram.preparation.scenes import prepare_scenes, scene_task
from stacked_ram.runtime.errors import UserError


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[CheckedRecord]:
    """Magenta rectangles whose proportions are their class."""
    return checked_rectangles(tmp_path_factory.mktemp("checked"), 30)


@pytest.fixture(scope="module")
def scenes(records, tmp_path_factory) -> Path:
    """24 training scenes of 96x72, 3 for validation and 3 for the test."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "background").mkdir()
    for number in range(40):
        blobs = np.random.default_rng(number).integers(0, 200, (5, 7, 3), dtype=np.uint8)
        blobs = Image.fromarray(blobs).resize((160 + number, 120), Image.Resampling.BILINEAR)
        blobs.save(folder / "background" / f"{number:02d}.jpg")
    options = PrepareOptions(
        source=Path("photos"), dest=folder / "set", scene="96x72", workers=1,
        scenes_per_photo=1,
        background=folder / "background",
    )  # fmt: skip
    return prepare_scenes(options, records)


def epoch_of(folder: Path, epoch: int = 0, **fields) -> dict[int, tuple[torch.Tensor, ...]]:
    """Return (pixels_CHW, box_4, label) of each photo of an epoch."""
    loader = loader_of(folder, **fields)
    loader.set_epoch(epoch)
    found = {}
    for batch in loader:
        for place, row in enumerate(batch.index_B.tolist()):
            height, width = batch.sizes_B2[place]
            pixels_CHW = batch.pixels_BCHW[place, :, :height, :width]
            found[row] = pixels_CHW, batch.boxes_B4[place], batch.labels_B[place]
    loader.close()
    return found


def same(first, other) -> bool:
    return first.keys() == other.keys() and all(
        torch.equal(a, b) for row in first for a, b in zip(first[row], other[row], strict=True)
    )


def test_scenes_are_new_in_every_epoch_and_the_same_for_a_seed(scenes):
    first = epoch_of(scenes)
    assert len(first) == 24 and same(first, epoch_of(scenes))
    for other in (epoch_of(scenes, epoch=1), epoch_of(scenes, seed=1)):
        assert other.keys() == first.keys()
        assert not any(torch.equal(first[row][0], other[row][0]) for row in first)
        assert sum(torch.equal(first[row][1], other[row][1]) for row in first) < 3
        assert all(first[row][2] == other[row][2] for row in first)


@pytest.mark.parametrize("given", [{"workers": 2}, {"cache": "memory", "workers": 1}])
def test_neither_workers_nor_the_cache_change_a_scene(scenes, given):
    loader = loader_of(scenes, **given)
    for _ in range(2):  # decoded, then from the cache
        loader.set_epoch(0)
        found = {row: photo for batch in loader for row, photo in zip(
            batch.index_B.tolist(), batch.pixels_BCHW, strict=True)}  # fmt: skip
        assert all(torch.equal(found[row], photo[0]) for row, photo in epoch_of(scenes).items())
    loader.close()


def test_the_cache_on_disk_is_used(scenes, tmp_path):
    folder = shutil.copytree(scenes, tmp_path / "set")
    before = epoch_of(folder, cache="disk")
    wait_for_flush()
    maker = SceneMaker(open_dataset(config_of(folder).data, "train"), (72, 96), "disk", 1.0)
    rows = [maker.cache.get(row, file) is not None for file, row in maker.row_of.items()]
    assert sum(rows) > 40
    for file in maker.row_of:
        state, content = file.stat(), file.read_bytes()
        half = len(content) // 2
        file.write_bytes(content[:half] + bytes(len(content) - half))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert same(before, epoch_of(folder, cache="disk"))


def test_a_resumed_epoch_has_the_remaining_scenes(scenes):
    whole = list(loader_of(scenes, flip=True))
    stopped = loader_of(scenes, flip=True)
    iterator = iter(stopped)
    for _ in range(2):
        next(iterator)
    resumed = loader_of(scenes, flip=True)
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert len(rest) == len(whole) - 2
    for left, again in zip(whole[2:], rest, strict=True):
        assert torch.equal(left.pixels_BCHW, again.pixels_BCHW)
        assert torch.equal(left.boxes_B4, again.boxes_B4)


def test_a_photo_drawn_twice_is_in_two_scenes(scenes, tmp_path):
    folder = shutil.copytree(scenes, tmp_path / "set")
    rows = (folder / "manifest.csv").read_text().splitlines()
    squares = [row for row in rows if row.startswith("train/square")]
    kept = [row for row in rows if row not in squares[1:]]
    (folder / "manifest.csv").write_text("\n".join(kept))
    loader = loader_of(folder, balanced_sampler=True)
    alone = loader.dataset.names.index(squares[0].split(",")[0])
    drawn = [
        pixels_CHW
        for batch in loader
        for row, pixels_CHW in zip(batch.index_B.tolist(), batch.pixels_BCHW, strict=True)
        if row == alone
    ]
    assert len(drawn) == 5 or len(drawn) == 6
    assert len({pixels_CHW.numpy().tobytes() for pixels_CHW in drawn}) == len(drawn)


def is_magenta(pixels_CHW: torch.Tensor) -> np.ndarray:
    red, green, blue = pixels_CHW.numpy().astype(int)
    return (red > 190) & (blue > 190) & (green < 70)


@pytest.mark.parametrize(
    "data", [{}, {"flip": True}, {"short_side": 48}, {"photo_size": (60, 60), "flip": True},
             {"photo_size": (40, 80)}, {"crop_area": (0.5, 0.9), "flip": True},
             {"photo_size": (144, 192)}],
)  # fmt: skip
def test_the_box_is_where_the_object_is(scenes, data):
    found = 0
    for epoch in range(2):
        for pixels_CHW, box_4, _ in epoch_of(scenes, epoch, **data).values():
            if box_4.isnan().any() or min(box_4[2:] - box_4[:2]) < 5:
                continue
            rows, columns = is_magenta(pixels_CHW).nonzero()
            if not len(rows):
                continue
            left, top, right, bottom = box_4.tolist()
            soft = 0.3 * min(right - left, bottom - top) + 1.5
            measured = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            edges = [
                abs(value - edge)
                for value, edge in zip(measured, (left, top, right, bottom), strict=True)
            ]
            assert max(edges) <= soft, (measured, box_4)
            assert columns.min() >= left - 1 and columns.max() <= right
            assert rows.min() >= top - 1 and rows.max() <= bottom
            found += 1
    assert found > 25


@pytest.mark.parametrize(
    "given", [{"short_side": 36}, {"photo_size": (20, 48)}, {"short_side": 30}]
)
def test_a_small_scene_is_composed_small_and_resembles_the_stored_ones(scenes, given):
    """Size, sharpness and brightness are those of stored scenes, and so are the objects' sizes."""
    loader = loader_of(scenes, **given)
    assert (loader.maker.scenes.shape.height, loader.maker.scenes.shape.width) == (36, 48)
    read = [loader.maker.photo(row).numpy() for row in range(24)]
    fresh = [photo for epoch in range(10) for photo in epoch_of(scenes, epoch, **given).values()]
    assert all(pixels_CHW.shape == read[0].shape for pixels_CHW, _, _ in fresh)

    def statistics(photos) -> np.ndarray:
        changes = [np.abs(np.diff(photo.astype(float), axis=-1)).mean() for photo in photos]
        return np.array([np.mean(changes), np.mean([photo.mean() for photo in photos])])

    assert statistics([pixels_CHW.numpy() for pixels_CHW, _, _ in fresh]) == pytest.approx(
        statistics(read), rel=0.1
    )
    fractions = [(box_4[2] - box_4[0]).item() / read[0].shape[2] for _, box_4, _ in fresh]
    written = loader.dataset.boxes[:, 2] - loader.dataset.boxes[:, 0]
    assert np.mean(fractions) == pytest.approx(np.mean(written) / 96, rel=0.1)


def test_with_the_random_numbers_of_a_stored_scene_it_is_that_scene(scenes, records):
    """Training scenes equal the stored ones but for the way of resizing."""
    maker = loader_of(scenes).maker.scenes
    record_of = {record.source: record for record in records}
    with open(scenes / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert set(maker.photo_of) == {row["path"] for row in rows}
    for row in rows:
        task = scene_task(0, record_of[row["source"]], 0, maker.backgrounds, maker.shape)
        pixels_CHW, box_4 = maker.make(row["path"], task.entropy)
        written, box = draw_scene(task.entropy, maker.shape, task.file, task.others)
        assert box_4.tolist() == [*box]
        assert box_4.tolist() == [float(row[f"box_{side}"]) for side in
                                  ("left", "top", "right", "bottom")]  # fmt: skip
        off = np.abs(np.asarray(written).transpose(2, 0, 1).astype(int) - pixels_CHW)
        assert off.mean() < 2, "cropped at whole pixels, so it may be shifted by half a pixel"


def test_validation_and_test_are_as_stored_and_training_too_if_fixed(scenes):
    for split, data in (("valid", {}), ("test", {}), ("train", {"clutter": "fixed"})):
        loader = loader_of(scenes, split, **data)
        assert loader.maker.scenes is None
        for epoch in range(2):
            loader.set_epoch(epoch)
            for batch in loader:
                for row, pixels_CHW in zip(batch.index_B, batch.pixels_BCHW, strict=True):
                    with Image.open(scenes / loader.dataset.names[row]) as image:
                        assert (np.asarray(image).transpose(2, 0, 1) == pixels_CHW.numpy()).all()


def test_with_train_on_validation_its_scenes_are_as_stored(scenes):
    loader = loader_of(scenes, train_on="train+valid")
    rows = [int(row) for batch in loader for row in batch.index_B]
    assert sorted(rows) == list(range(27))
    assert sum(name in loader.maker.scenes.photo_of for name in loader.dataset.names) == 24


def test_scenes_without_their_pieces_are_refused(scenes, tmp_path):
    folder = shutil.copytree(scenes, tmp_path / "set")
    for file in (folder / "pieces" / "background").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"background photos are missing.*clutter: fixed"):
        loader_of(folder)
    (folder / "pieces" / "photos.csv").unlink()
    with pytest.raises(UserError, match=r"photos\.csv"):
        loader_of(folder)
    assert len(loader_of(folder, clutter="fixed")) == 6
    info = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump({**info, "scene": {"height": 3}}))
    with pytest.raises(UserError, match="scene: "):
        loader_of(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_piece_is_named(scenes, tmp_path, workers):
    folder = shutil.copytree(scenes, tmp_path / "set")
    for file in (folder / "pieces" / "photos").iterdir():
        file.write_bytes(file.read_bytes()[:60])
    loader = loader_of(folder, workers=workers)
    errors = [error for batch in loader for error in batch.unreadable.values()]
    assert len(errors) == len(loader.dataset)
    assert all(re.search(r"pieces/photos/\d+\.png: ", error) for error in errors)
    loader.close()

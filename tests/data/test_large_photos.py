"""Large photos in the whole toolkit: the model, predict, pictures, training batches."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from pyramids import add_harmless_tag, claim_size, lose_tiles, smooth_pixels, vips, write_pyramid
from tiny import tiny_config
from variants import VARIANTS, make

from stacked_ram.cli.predict import Predict, predict
from stacked_ram.config.schema import DataConfig
from stacked_ram.images import opening
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.opening import is_large, open_photo
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run

SIZES = [(90, 130), (140, 70)]


@pytest.fixture(scope="module", autouse=True)
def needs_pyvips():
    vips()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files without smaller levels, whose patches are all exact, and their pixels."""
    folder = tmp_path_factory.mktemp("large")
    arrays = [smooth_pixels(*size, seed=seed) for seed, size in enumerate(SIZES)]
    paths = [
        write_pyramid(folder / f"{seed}.tif", pixels_HWC, pyramid=False)
        for seed, pixels_HWC in enumerate(arrays)
    ]
    return paths, arrays


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=1, glance=(8, 8), first_location="learned"), folder)
    return folder


WHOLE = [name for name, values in VARIANTS.items() if values.get("stack") in ("conv", "backbone")]
PIECES = ["dense", "fraction", "stack_rnn_own", "soft", "categorical"]


@pytest.mark.parametrize("name", PIECES)
def test_a_model_gives_the_same_by_region_as_in_memory(files, name):
    paths, arrays = files
    model = make(name).eval()
    height, width = (max(size[axis] for size in SIZES) for axis in (0, 1))
    pixels_BCHW = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for pixels_CHW, array in zip(pixels_BCHW, arrays, strict=True):
        pixels_CHW[:, : array.shape[0], : array.shape[1]] = torch.from_numpy(array).permute(2, 0, 1)
    with torch.no_grad():
        whole = model(model.photos(pixels_BCHW, torch.tensor(SIZES)))
        pieces = model(model.photos(LazyPhotos([LazyPhoto(path) for path in paths])))
        alone = model(model.photos(LazyPhotos([LazyPhoto(paths[1])])))
    torch.testing.assert_close(pieces.logits_BTN, whole.logits_BTN, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pieces.boxes_BTSK4, whole.boxes_BTSK4, atol=0.1, rtol=1e-3)
    torch.testing.assert_close(pieces.read_B, whole.read_B, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(alone.logits_BTN[0], pieces.logits_BTN[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_that_makes_maps_gets_photos_whole_while_they_fit(files, name, monkeypatch):
    whole = make(name).config.needs_whole_photo
    monkeypatch.setattr(opening, "LARGE", 1000)
    assert open_photo(files[0][0], whole=whole).shape == (3, *SIZES[0])
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    with pytest.raises(UserError, match=r"0.tif: too large .* maps of the whole photo"):
        open_photo(files[0][0], whole=whole)


def test_which_files_are_read_by_region(files, tmp_path, monkeypatch):
    paths, arrays = files
    assert not is_large(paths[0])
    assert is_large(paths[0], limit=1000)
    pyramid = write_pyramid(tmp_path / "pyramid.tif", arrays[0])
    sub_images = write_pyramid(tmp_path / "sub.tif", arrays[0], subifd=True)
    assert is_large(pyramid) and is_large(sub_images) and is_large("slide.svs")
    assert not is_large(pyramid, pyramids=False)
    assert not is_large(tmp_path / "gone.jpg")
    assert isinstance(open_photo(pyramid), LazyPhoto)
    assert open_photo(pyramid, short_side=20).shape == (3, 20, 29)
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    from_level = open_photo(pyramid, short_side=20)
    assert from_level.shape == (3, 20, 29) and from_level.dtype == np.uint8
    monkeypatch.undo()
    in_memory = open_photo(pyramid, short_side=20)
    assert np.abs(from_level.astype(int) - in_memory).max() < 12
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    assert not is_large(pyramid)  # photos that fit in memory do not need pyvips


def test_predict_continues_after_a_damaged_large_photo(run, tmp_path, capsys):
    good = write_pyramid(tmp_path / "1_good.tif", smooth_pixels(150, 200))
    cut = write_pyramid(tmp_path / "2_cut.tif", smooth_pixels(150, 200))
    lose_tiles(cut)
    vast = write_pyramid(tmp_path / "3_vast.tif", smooth_pixels(150, 200), pyramid=False)
    claim_size(vast, 200_000)
    (tmp_path / "4_text.svs").write_text("no slide")
    last = write_pyramid(tmp_path / "5_good.tif", smooth_pixels(150, 200))
    add_harmless_tag(last)
    predict(Predict(run=run, photos=(str(tmp_path),), device="cpu"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False]
    assert [row["path"] for row in (rows[0], rows[-1])] == [str(good), str(last)]
    assert "cut.tif: cannot read" in rows[1]["error"]
    assert "vast.tif" in rows[2]["error"]
    assert rows[0]["probability"] == rows[-1]["probability"]
    assert all("\n" not in row["error"] for row in rows)


def test_a_large_photo_is_drawn_on_a_reduced_picture_of_it(run, tmp_path, monkeypatch):
    from stacked_ram.viz import photos as viz_photos
    from stacked_ram.viz.foveate import foveated
    from stacked_ram.viz.records import record_photos

    monkeypatch.setattr(viz_photos, "OVERVIEW_SIDE", 50)
    (tmp_path / "bar").mkdir()
    path = write_pyramid(tmp_path / "bar" / "photo.tif", smooth_pixels(150, 200))
    loaded = load_run(run, "cpu")
    photos = viz_photos.read_files(loaded, viz_photos.photo_files([path]))
    assert photos[0].pixels_CHW.shape == (3, 38, 50) and photos[0].size == (150, 200)
    record = next(record_photos(loaded, photos))
    surface = record.photo_surfaces[0]
    assert surface.size == (150, 200) and surface.image_HWC.shape == (38, 50, 3)
    widths = surface.boxes_TK4[..., 2] - surface.boxes_TK4[..., 0]
    np.testing.assert_allclose(widths, [[4, 8]] * 2)  # in pixels of the photo itself
    assert foveated(record, 2).shape == (38, 50, 3)


def test_training_test_and_pictures_of_a_data_set_of_large_photos(tmp_path, monkeypatch):
    """A run, its test and its pictures open every photo as a pyramid and hold none in memory."""
    from stacked_ram.data import photo_batches as assemble
    from stacked_ram.data.batch import Batch
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.data.loader import make_loader
    from stacked_ram.evaluation.evaluate import evaluate
    from stacked_ram.viz.photos import Split

    folder = large_data_set(tmp_path / "data")
    monkeypatch.setattr(assemble, "LARGE", 1000)
    how = dict(epochs=1, batch_size=4, glance=(8, 8), first_location="learned", pictures_every=1)
    config = tiny_config(folder, **how)
    for workers in (0, 1):
        changed = tiny_config(folder, **how, workers=workers)
        loader = make_loader(open_dataset(changed.data, "train"), changed, train=True)
        batch = next(iter(loader))
        loader.close()
        assert isinstance(batch, Batch) and isinstance(batch.pixels_BCHW, LazyPhotos)
        assert batch.sizes_B2.tolist() == batch.pixels_BCHW.sizes_B2.tolist()
    train_run(config, tmp_path / "run")
    report = evaluate(load_run(tmp_path / "run", "cpu"))
    assert report.photos == 3 and 0 < report.read < 0.05
    split = Split(load_run(tmp_path / "run", "cpu"))
    assert split.photo(0).size == (150, 200) and split.photo(0).large is not None
    with pytest.raises(UserError, match="leave out flip"):
        train_run(tiny_config(folder, **how, flip=True), tmp_path / "other")
    maps = tiny_config(folder, stack="conv", num_levels=2, epochs=1)
    monkeypatch.setattr(assemble, "MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="maps of the whole photo"):
        train_run(maps, tmp_path / "maps")


def test_a_data_set_of_pyramids_is_read_by_region_unless_it_is_needed_whole(tmp_path):
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.data.photo_batches import by_region

    folder = large_data_set(tmp_path / "data")
    data = DataConfig(dataset=str(folder))
    dataset = open_dataset(data, "train")
    assert by_region(dataset, data)
    assert not by_region(dataset, data, whole=True)
    for change in ({"flip": True}, {"short_side": 50}, {"rotate": 5.0}):
        assert not by_region(dataset, DataConfig(**change))


@pytest.mark.parametrize("workers", [0, 1])
def test_photos_too_large_to_be_decoded_are_reduced_for_training(
    tmp_path, monkeypatch, caplog, workers
):
    from stacked_ram.data import photo_batches as assemble
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.data.loader import make_loader
    from stacked_ram.images import decoding as read

    folder = large_data_set(tmp_path / "data")
    monkeypatch.setattr(assemble, "MAX_PIXELS", 1000)
    config = tiny_config(folder, short_side=75, batch_size=6, workers=workers)
    dataset = open_dataset(config.data, "train")
    whole = {row: read.read_photo(folder / dataset.names[row], 75) for row in range(6)}
    monkeypatch.setattr(read, "MAX_PIXELS", 1000)
    loader = make_loader(dataset, config, train=False)
    batch = next(iter(loader))
    assert loader.workers.num_workers == 0  # libvips has threads, which a forked process would lack
    assert ("read in the training process" in caplog.text) == (workers > 0)
    assert batch.sizes_B2.tolist() == [[75, 100]] * 6
    for row, pixels_CHW in zip(batch.index_B.tolist(), batch.pixels_BCHW.numpy(), strict=True):
        assert abs(pixels_CHW.astype(int) - whole[row]).mean() < 2
    (folder / dataset.names[2]).unlink()
    unreadable = {}
    for batch in make_loader(dataset, config, train=False):
        unreadable |= batch.unreadable
    assert list(unreadable) == [dataset.names[2]]
    assert "2.tif: no such photo" in unreadable[dataset.names[2]]


def large_data_set(folder):
    """Pyramids of 150 x 200 pixels, with a manifest."""
    import yaml

    rows = ["path,class,split,width,height"]
    for split, count in (("train", 6), ("valid", 3), ("test", 3)):
        for number in range(count):
            name = "abc"[number % 3]
            path = folder / split / name / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pyramid(path, smooth_pixels(150, 200, seed=number))
            rows.append(f"{path.relative_to(folder).as_posix()},{name},{split},200,150")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    info = {
        "format": 1, "kind": "photos", "name": "large", "classes": list("abc"), "channels": 3,
        "mean": [0.5] * 3, "std": [0.2] * 3,
    }  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder

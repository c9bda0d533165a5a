from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import config_of, loader_of, make_photos, wait_for_flush

from stacked_ram.data import cache as cache_room
from stacked_ram.data.cache import open_cache
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.photo_batches import kept_sizes
from stacked_ram.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return make_photos(tmp_path / "set")


def cache_of(folder, kind="disk", limit=1.0, **data):
    config = config_of(folder, **data).data
    dataset = open_dataset(config, "train")
    sizes_M2, words = kept_sizes(dataset.manifest.sizes_M2, config, train=True)
    return dataset, open_cache(dataset, sizes_M2, kind, limit, words)


def pixels_of(dataset, row=0):
    height, width = dataset.sizes[row]
    return np.random.default_rng(row).integers(0, 255, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_stored_photos_come_back(folder, kind):
    dataset, cache = cache_of(folder, kind)
    paths = [dataset.folder / name for name in dataset.names]
    assert cache.get(2, paths[2]) is None
    for row in (2, 5):
        cache.put(row, paths[row], pixels_of(dataset, row))
    for row in (2, 5):
        assert (cache.get(row, paths[row]) == pixels_of(dataset, row)).all()
    assert cache.get(3, paths[3]) is None
    assert (folder / ".cache").exists() == (kind == "disk")


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_batches_are_the_same_with_and_without_cache(folder, kind):
    plain, cached = (loader_of(folder, cache=c, flip=True, short_side=24) for c in ("none", kind))
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        for first, other in zip(plain, cached, strict=True):
            assert (first.pixels_BCHW == other.pixels_BCHW).all()
            assert np.array_equal(first.boxes_B4, other.boxes_B4)


def test_the_second_epoch_decodes_nothing(folder, monkeypatch):
    from stacked_ram.data import photo_batches as assemble

    loader = loader_of(folder, cache="disk")
    for _ in loader:
        pass

    def read_photo(*args, **more):
        raise AssertionError("decoded again")

    monkeypatch.setattr(assemble, "read_photo", read_photo)
    loader.set_epoch(1)
    for _ in loader:
        pass
    wait_for_flush()
    again = loader_of(folder, cache="disk")  # a new cache object, as in another run
    for _ in again:
        pass


def test_a_changed_photo_is_decoded_again(folder):
    loader = loader_of(folder, "valid", cache="disk")
    before = [batch.pixels_BCHW.clone() for batch in loader]
    path = folder / loader.dataset.names[0]
    height, width = loader.dataset.sizes[0]
    Image.fromarray(np.full((height, width, 3), 7, np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    after = [batch for batch in loader]
    for old, new in zip(before, after, strict=True):
        for place, row in enumerate(new.index_B):
            here = new.pixels_BCHW[place, :, : new.sizes_B2[place, 0], : new.sizes_B2[place, 1]]
            assert bool((here == 7).all()) == (int(row) == 0)
            assert row == 0 or (old[place] == new.pixels_BCHW[place]).all()


def test_a_new_manifest_gets_a_new_file_and_the_old_one_goes(folder):
    cache_of(folder)
    cache_of(folder, short_side=20)
    first = {path.name for path in (folder / ".cache").iterdir()}
    assert len(first) == 4  # two sizes, each with its pixels and its done-bitmap
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text() + "\n")
    cache_of(folder)
    left = {path.name for path in (folder / ".cache").iterdir()}
    assert len(left) == 4 and len(left & first) == 2


def test_pixels_that_were_not_flushed_are_not_used_by_a_later_run(folder, monkeypatch, caplog):
    dataset, cache = cache_of(folder)
    path = dataset.folder / dataset.names[0]
    cache.put(0, path, pixels_of(dataset))
    assert (cache.get(0, path) == pixels_of(dataset)).all()  # this run may use them

    def broken_disk(file):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken_disk)
        cache.flush()
        wait_for_flush()
    assert "could not be flushed" in caplog.text
    _, later = cache_of(folder)
    assert later.get(0, path) is None
    cache.flush()
    wait_for_flush()
    _, later = cache_of(folder)
    assert (later.get(0, path) == pixels_of(dataset)).all()


def test_too_large_for_cache_limit(folder, caplog):
    with caplog.at_level(logging.WARNING):
        _, cache = cache_of(folder, limit=1e-6)
    assert cache is None
    assert "more than cache_limit" in caplog.text and "decoded every epoch" in caplog.text
    assert not (folder / ".cache").exists()


def test_a_disk_without_room(folder, caplog, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING):
        _, cache = cache_of(folder)
    assert cache is None and "do not fit on the disk" in caplog.text


def test_a_full_disk_stops_only_the_cache(folder, caplog, monkeypatch):
    def write(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_room, "_write", write)
    with caplog.at_level(logging.WARNING):
        batches = list(loader_of(folder, cache="disk"))
    assert sum(len(batch) for batch in batches) == 23
    assert caplog.text.count("No space left") == 1


def test_a_folder_that_cannot_be_written(folder, caplog):
    (folder / ".cache").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert sum(len(batch) for batch in loader_of(folder, cache="disk")) == 23
    assert "cannot be written" in caplog.text


def _fill(cache, dataset, rows):
    for row in rows:
        cache.put(row, dataset.folder / dataset.names[row], pixels_of(dataset, row))


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_several_processes_fill_it_together(folder, kind):
    dataset, cache = cache_of(folder, kind)
    context = multiprocessing.get_context("fork")
    parts = [range(0, 15), range(8, 23)]  # photos 8 to 14 by both
    workers = [context.Process(target=_fill, args=(cache, dataset, part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for row in range(23):
        path = dataset.folder / dataset.names[row]
        assert (cache.get(row, path) == pixels_of(dataset, row)).all()


def _die_in_mid_write(cache, dataset, row):
    content = memoryview(pixels_of(dataset, row)).cast("B")
    os.pwrite(cache.pixels_file, content[: len(content) // 2], int(cache.starts_M[row]))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_half_written_photo_of_a_killed_process_is_never_used(folder):
    dataset, cache = cache_of(folder)
    worker = multiprocessing.get_context("fork").Process(
        target=_die_in_mid_write, args=(cache, dataset, 3)
    )
    worker.start()
    worker.join()
    cache.put(4, dataset.folder / dataset.names[4], pixels_of(dataset, 4))
    cache.flush()
    wait_for_flush()
    _, later = cache_of(folder)
    for known in (cache, later):
        assert known.get(3, dataset.folder / dataset.names[3]) is None
        assert known.get(4, dataset.folder / dataset.names[4]) is not None


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_any_start_method_fill_the_cache_of_their_parent(folder, method):
    dataset, cache = cache_of(folder)
    context = torch.multiprocessing.get_context(method)
    worker = context.Process(target=_fill, args=(cache, dataset, [4]))
    worker.start()
    worker.join()
    assert (cache.get(4, dataset.folder / dataset.names[4]) == pixels_of(dataset, 4)).all()


def test_a_memory_cache_without_shared_memory_is_refused(folder, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(UserError, match="cache: memory is for Linux"):
        cache_of(folder, "memory")

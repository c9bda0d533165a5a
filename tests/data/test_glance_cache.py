"""The features of a frozen glance are cached: the same numbers, computed only once."""

from __future__ import annotations

import dataclasses
import logging
import os

import pytest
import torch
from tiny import tiny_config, tiny_digits, tiny_photos

from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.glance_cache import use_glance_cache
from stacked_ram.data.loader import make_loader
from stacked_ram.models.build import build_model
from stacked_ram.models.glance import Glance
from stacked_ram.runs.checkpoint import read_weights
from stacked_ram.runtime.devices import autocast
from stacked_ram.training.run import resume_run, train_run
from stacked_ram.training.trainer import Trainer

FROZEN = {
    "retina": "backbone", "backbone": "test_efficientnet", "patch_size": 32, "num_patches": 1,
    "freeze_backbone": True, "glance": (64, 64), "attention": "soft", "cache": "disk",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tiny_photos(tmp_path / "set")


@pytest.fixture
def looked(monkeypatch):
    """Count the photos whose glance was computed."""
    counts = []
    find = Glance.find

    def counted(self, photos):
        counts.append(photos.batch_size)
        return find(self, photos)

    monkeypatch.setattr(Glance, "find", counted)
    return counts


def made(folder, split="train", seed=0, **fields):
    config = tiny_config(folder, **FROZEN | fields)
    dataset = open_dataset(config.data, split)
    torch.manual_seed(seed)
    info = {"channels": dataset.channels, "mean": dataset.mean, "std": dataset.std}
    model = build_model(config.model, num_classes=len(dataset.classes), **info)
    loader = make_loader(dataset, config, train=split == "train")
    use_glance_cache(loader, model, config)
    return loader, model, config


def caches(loader):
    return loader.add_glance is not None


def kept(folder):
    return sorted(path.name for path in folder.glob(".cache/*glance*.pixels"))


def test_bits_do_not_depend_on_the_batch_that_filled_the_cache_nor_on_the_kind_of_cache(
    folder, tmp_path, monkeypatch
):
    """A fresh run, and one that was stopped and resumed with another cache."""

    def outputs(run):
        return [(run / name).read_bytes() for name in ("metrics.csv", "last.safetensors")]

    config = tiny_config(folder, **FROZEN | {"cache": "memory"}, epochs=2)
    train_run(config, tmp_path / "memory")
    kept_on_disk = replace_fields(config, {"cache": "disk"})
    others = {"batch_size": 1, "epochs": 1}
    train_run(replace_fields(kept_on_disk, others), tmp_path / "other")  # fills the cache
    end_epoch = Trainer.end_epoch
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def stopped(self, *some):
            end_epoch(self, *some)
            raise KeyboardInterrupt

        patched.setattr(Trainer, "end_epoch", stopped)
        train_run(kept_on_disk, tmp_path / "disk")
    resume_run(tmp_path / "disk", config)
    expected, found = outputs(tmp_path / "memory"), outputs(tmp_path / "disk")
    assert found[0] == expected[0]
    weights = [read_weights(tmp_path / run / "last.safetensors")[0] for run in ("memory", "disk")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_that_resumes_without_its_kept_glances_says_where_the_bits_end(folder, tmp_path):
    config = tiny_config(folder, **FROZEN, epochs=1)
    train_run(config, tmp_path / "run")
    resume_run(tmp_path / "run", replace_fields(config, {"epochs": 2, "cache": "none"}))
    assert "last bits" in (tmp_path / "run" / "log.txt").read_text()
    resume_run(tmp_path / "run", replace_fields(config, {"epochs": 3, "cache": "none"}))
    assert (tmp_path / "run" / "log.txt").read_text().count("last bits") == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("cache", ["disk", "memory"])
def test_a_batch_has_the_features_of_the_glance(folder, precision, cache):
    loader, model, _ = made(folder, precision=precision, cache=cache)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        for batch in loader:
            photos = model.photos(batch.pixels_BCHW, batch.sizes_B2)
            with torch.no_grad(), autocast(torch.device("cpu"), precision):
                expected = model.glance.find(photos)
            for given, right in zip(batch.glance, expected, strict=True):
                assert given.dtype == right.dtype
                torch.testing.assert_close(given, right)
            moved = batch.to("cpu").glance
            assert all(torch.equal(a, b) for a, b in zip(moved, batch.glance, strict=True))


def test_a_run_learns_the_same_and_computes_each_glance_once(folder, tmp_path, looked):
    plain = tiny_config(folder, **FROZEN | {"cache": "none"})
    expected = train_run(plain, tmp_path / "plain")
    without = sum(looked)
    looked.clear()
    config = replace_fields(plain, {"cache": "disk"})
    found = train_run(config, tmp_path / "kept")
    assert found == pytest.approx(expected, rel=1e-4)
    probes = 2  # one per loader, to find its shape
    assert without == 3 * (18 + 6) and sum(looked) == 18 + 6 + probes
    looked.clear()
    assert train_run(config, tmp_path / "again") == found
    assert sum(looked) == probes


def test_the_test_command_uses_the_cache(folder, tmp_path, looked):
    from stacked_ram.evaluation.evaluate import evaluate
    from stacked_ram.runs.checkpoint import load_run

    train_run(tiny_config(folder, **FROZEN, epochs=1), tmp_path / "run")
    looked.clear()
    evaluate(load_run(tmp_path / "run", "cpu"), "valid")
    # the size of the work is counted on one photo, and two probes
    assert sum(looked) <= 3


CHANGING = [
    {"flip": True}, {"crop_area": (0.5, 1.0)}, {"rotate": 10.0}, {"random_erasing": 0.5},
    {"mixup": 0.2, "photo_size": (24, 24)},
]  # fmt: skip


@pytest.mark.parametrize("fields", CHANGING, ids=lambda fields: next(iter(fields)))
def test_augmented_photos_are_not_cached(folder, fields):
    assert not caches(made(folder, **fields)[0])
    assert caches(made(folder, "valid", **fields)[0])


def test_nothing_is_cached_where_the_glance_may_change(folder, tmp_path):
    assert not caches(made(folder, freeze_backbone=False)[0])
    assert not caches(made(folder, cache="none")[0])
    assert not caches(made(folder, retina="dense", patch_size=8)[0])
    digits = tiny_digits(tmp_path / "digits")
    assert not caches(made(digits, cache="memory")[0])
    assert not kept(folder)


def test_a_file_for_each_state_of_the_weights_and_of_the_glance(folder):
    made(folder)
    first = kept(folder)
    made(folder, "valid")
    assert kept(folder) == first and len(first) == 1
    made(folder, seed=1)
    made(folder, glance=(96, 96))
    made(folder, regions=(1, 2))
    made(folder, precision="bf16")
    made(folder, short_side=12)
    assert len(kept(folder)) == 6


def test_the_glance_of_a_changed_photo_is_computed_again(folder, looked):
    loader, *_ = made(folder, "valid")
    list(loader)
    os.utime(folder / loader.dataset.names[2], ns=(1, 1))
    looked.clear()
    loader.set_epoch(1)
    list(loader)
    assert looked == [1]


def test_the_files_stay_within_the_limit(folder, caplog):
    loader, _, config = made(folder)
    list(loader)
    (file,) = folder.glob(".cache/*glance*.pixels")
    data = dataclasses.replace(config.data, cache_limit=1.5 * loader.add_glance.cache.bytes / 1e9)
    for seed in (1, 2, 3):
        other, model, _ = made(folder, seed=seed)
        use_glance_cache(other, model, dataclasses.replace(config, data=data))
        list(other)
    assert file.name not in kept(folder)
    with caplog.at_level(logging.WARNING):
        assert not caches(made(folder, cache_limit=1e-6)[0])
    assert "the glance is computed in every epoch" in caplog.text

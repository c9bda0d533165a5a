from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import COUNTS, SIZES, loader_of, make_photos

from stacked_ram.data import photo_loader as room
from stacked_ram.data.photo_batches import kept_sizes
from stacked_ram.runtime.errors import UserError

EVERYTHING = {
    "flip": True, "crop_area": (0.5, 1.0), "colour_jitter": 0.4, "random_erasing": 0.5,
    "rand_augment": 9, "photo_size": (24, 32), "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "set")


def same(first, other) -> bool:
    return all(
        a == b
        if a is None or isinstance(a, dict)
        else torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
        for a, b in zip(vars(first).values(), vars(other).values(), strict=True)
    )


def photo_of(batch, place):
    height, width = batch.sizes_B2[place]
    return batch.pixels_BCHW[place, :, :height, :width]


def test_photos_come_as_stored_padded_with_zeros(folder):
    loader = loader_of(folder, "valid")
    rows, own, whole = [], 0, 0
    for batch in loader:
        assert batch.pixels_BCHW.dtype == torch.uint8 and batch.labels_B.dtype == torch.int64
        assert batch.boxes_B4.dtype == torch.float32 and batch.targets_BN is None
        assert tuple(batch.pixels_BCHW.shape[2:]) == tuple(batch.sizes_B2.max(0).values)
        for place, row in enumerate(batch.index_B.tolist()):
            stored = np.asarray(Image.open(folder / loader.dataset.names[row])).transpose(2, 0, 1)
            photo = photo_of(batch, place)
            assert (photo.numpy() == stored).all()
            assert batch.pixels_BCHW[place].long().sum() == photo.long().sum()
            assert batch.labels_B[place] == loader.dataset.labels[row]
            rows.append(row)
            own, whole = own + photo[0].numel(), whole + batch.pixels_BCHW[0, 0].numel()
    assert sorted(rows) == list(range(COUNTS["valid"]))
    assert 0.5 * whole < own < whole


def white(photo):
    """Return the box of the (almost) white pixels: left, top, right, bottom."""
    rows, columns = (photo.min(dim=0).values > 228).nonzero(as_tuple=True)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    "data", [{"flip": True}, {"crop_area": (0.6, 1.0), "flip": True}, {"short_side": 24},
             {"photo_size": (60, 50), "flip": True},
             {"photo_size": (20, 24), "crop_area": (0.5, 0.9)}],
)  # fmt: skip
def test_boxes_stay_on_their_object(folder, data):
    found = 0
    for epoch in range(3):
        loader = loader_of(folder, **data)
        loader.set_epoch(epoch)
        for batch in loader:
            for place, box in enumerate(batch.boxes_B4):
                if not box.isnan().any() and min(box[2:] - box[:2]) > 5:
                    off = torch.tensor(white(photo_of(batch, place))) - box
                    assert off.abs().max() <= 1.6, (box, off)
                    found += 1
    assert found > 40


def test_crops_keep_the_photos_shape_or_have_photo_size(folder):
    for batch in loader_of(folder, crop_area=(0.4, 0.6)):
        stored = np.array([SIZES[i % 4] for i in batch.index_B.tolist()])
        fraction = batch.sizes_B2.prod(1).numpy() / stored.prod(1)
        assert (fraction > 0.36).all() and (fraction < 0.64).all()
    for batch in loader_of(folder, crop_area=(0.4, 0.6), photo_size=(17, 23)):
        assert batch.pixels_BCHW.shape[1:] == (3, 17, 23)
        assert (batch.sizes_B2 == torch.tensor([17, 23])).all()


def test_nearly_equal_crops_have_different_caches(tmp_path):
    """Smaller crops need larger stored photos: here of 236 and 235 pixels."""
    make_photos(tmp_path, {"train": 3}, sizes=((400, 400),))
    for lowest in (0.90, 0.91):
        how = {"photo_size": (224, 224), "crop_area": (lowest, 1.0)}
        plain, cached = (loader_of(tmp_path, cache=cache, **how) for cache in ("none", "disk"))
        for first, other in zip(plain, cached, strict=True):
            assert torch.equal(first.pixels_BCHW, other.pixels_BCHW)


def test_evaluation_is_never_augmented(folder):
    plain = list(loader_of(folder, "test"))
    augmented = list(
        loader_of(folder, "test", flip=True, crop_area=(0.5, 0.6), rotate=20.0, rand_augment=9)
    )
    assert all(same(a, b) for a, b in zip(plain, augmented, strict=True))


def test_workers_change_nothing(folder, tmp_path):
    alone = list(loader_of(folder, **EVERYTHING))
    loader = loader_of(folder, workers=2, cache="memory", **EVERYTHING)
    for _ in range(2):  # decoded, then cached
        loader.set_epoch(0)
        assert all(same(a, b) for a, b in zip(alone, loader, strict=True))
    loader.close()


def test_epochs_and_seeds_differ(folder):
    def total(epoch, seed):
        loader = loader_of(folder, seed=seed, **EVERYTHING)
        loader.set_epoch(epoch)
        return sum(int(batch.pixels_BCHW.sum()) for batch in loader)

    assert total(0, 0) == total(0, 0)
    assert len({total(0, 0), total(1, 0), total(0, 1)}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_has_exactly_the_remaining_batches(folder, workers):
    whole = loader_of(folder, **EVERYTHING)
    whole.set_epoch(3)
    batches = list(whole)
    stopped = loader_of(folder, workers=workers, **EVERYTHING)
    stopped.set_epoch(3)
    for taken, _ in enumerate(stopped, start=1):
        if taken == 2:
            break
    state = stopped.state_dict()
    assert state == {"epoch": 3, "position": 2}
    stopped.close()
    resumed = loader_of(folder, workers=workers, **EVERYTHING)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)  # as the trainer does at the start of every epoch
    rest = list(resumed)
    assert len(rest) == len(batches) - 2 and len(resumed) == len(batches)
    assert all(same(a, b) for a, b in zip(batches[2:], rest, strict=True))
    resumed.set_epoch(4)
    assert resumed.position == 0
    whole.set_epoch(4)
    assert all(same(a, b) for a, b in zip(whole, resumed, strict=True))
    resumed.close()


def test_loading_does_not_use_torchs_global_generator(folder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loader = loader_of(folder, workers=1, **EVERYTHING)
    for _ in loader:
        pass
    loader.close()
    assert torch.rand(1) == expected


def test_two_ranks_see_what_one_process_sees(folder):
    whole = {}
    for batch in loader_of(folder, batch_size=8, flip=True, crop_area=(0.5, 1.0)):
        for place, row in enumerate(batch.index_B.tolist()):
            whole[row] = photo_of(batch, place)
    count = 0
    for rank in range(2):
        for batch in loader_of(
            folder, batch_size=4, flip=True, crop_area=(0.5, 1.0), rank=rank, world=2
        ):
            for place, row in enumerate(batch.index_B.tolist()):
                assert torch.equal(photo_of(batch, place), whole[row])
                count += 1
    assert count == 22  # of 23, because the ranks get equal numbers


def test_a_repeated_photo_is_augmented_differently(tmp_path):
    make_photos(tmp_path, {"train": 11}, classes=tuple("abcdefghij"))
    (tmp_path / "manifest.csv").write_text(
        "\n".join((tmp_path / "manifest.csv").read_text().splitlines()[:11])
    )
    loader = loader_of(tmp_path, balanced_sampler=True, colour_jitter=0.5)
    assert sum(len(batch) for batch in loader) == 10


def test_mixup_and_cutmix_blend_photos_and_labels(folder):
    for options in ({"mixup": 0.4}, {"cutmix": 1.0}):
        loader = loader_of(folder, photo_size=(24, 32), **options)
        plain = loader_of(folder, photo_size=(24, 32))
        for blended, original in zip(loader, plain, strict=True):
            assert blended.targets_BN.shape == (len(original), 3)
            assert torch.allclose(blended.targets_BN.sum(1), torch.ones(len(original)))
            assert torch.equal(blended.labels_B, original.labels_B)
            assert blended.boxes_B4.isnan().all()
            assert blended.pixels_BCHW.dtype == torch.uint8
            other = torch.nn.functional.one_hot(original.labels_B.roll(1), 3)
            own = torch.nn.functional.one_hot(original.labels_B, 3)
            apart = own.argmax(1) != other.argmax(1)
            if apart.any():
                weight = blended.targets_BN[apart, original.labels_B[apart]][0]
                assert torch.allclose(blended.targets_BN, weight * own + (1 - weight) * other)
                if "mixup" in options:
                    expected = weight * original.pixels_BCHW + (
                        1 - weight
                    ) * original.pixels_BCHW.roll(1, 0)
                    assert (blended.pixels_BCHW - expected).abs().max() <= 0.51


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_photo_is_reported_in_one_line(tmp_path, workers):
    make_photos(tmp_path, {"train": 6})
    bad = tmp_path / "train" / "b" / "4.png"
    bad.write_bytes(bad.read_bytes()[:60])
    loader = loader_of(tmp_path, workers=workers)
    batches = list(loader)
    loader.close()
    assert sum(map(len, batches)) == 5
    (error,) = [error for batch in batches for error in batch.unreadable.values()]
    assert error.startswith(str(bad)) and "\n" not in error


def test_options_for_digits_are_refused(folder):
    for options in ({"shift": 2}, {"clutter": "fixed"}):
        with pytest.raises(UserError, match="it is for digits"):
            loader_of(folder, **options)


def test_too_little_shared_memory_for_workers(folder, monkeypatch, caplog):
    usage = room.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    loader = loader_of(folder, workers=2)
    assert sum(len(batch) for batch in loader) == COUNTS["train"]
    assert "shared memory" in caplog.text


def test_grayscale_sets(tmp_path):
    make_photos(tmp_path, {"train": 6}, channels=1)
    for batch in loader_of(tmp_path, colour_jitter=0.3, rand_augment=5, flip=True):
        assert batch.pixels_BCHW.shape[1] == 1


def test_photos_are_stored_large_enough_for_crops():
    from stacked_ram.config.schema import DataConfig

    stored_M2 = np.array([[512, 640], [100, 120], [2000, 2500], [480, 224]])
    data = DataConfig(photo_size=(224, 224), crop_area=(0.5, 1.0))
    kept, _ = kept_sizes(stored_M2, data, train=True)
    assert kept.tolist() == [[256, 317], [100, 120], [250, 313], [317, 224]]
    assert (kept_sizes(stored_M2, data, train=False)[0] == 224).all()
    assert (kept_sizes(stored_M2, DataConfig(), train=True)[0] == stored_M2).all()
    short, _ = kept_sizes(stored_M2, DataConfig(short_side=200), train=True)
    assert short.min(axis=1).tolist() == [200, 100, 200, 200]


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from small_sets import loader_of
loader = loader_of({folder!r}, workers=2)
for epoch in range(10**6):
    loader.set_epoch(epoch)
    for batch in loader:
        print("batch", flush=True)
"""
TOO_FEW_CORES = "ignore:This DataLoader will create 2 worker:UserWarning"  # torch, on one core


@pytest.mark.parametrize("how", ["interrupt", "kill", "leave"])
def test_workers_end_with_their_parent_and_print_little(folder, how):
    """Ctrl-C to the whole group, SIGKILL of the parent, and an end without close()."""
    script = SCRIPT.format(here=str(Path(__file__).parent), folder=str(folder))
    if how == "leave":
        script = script.replace("10**6", "1")
    child = subprocess.Popen(
        [sys.executable, "-W", TOO_FEW_CORES, "-c", script], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    child.stdout.readline()
    if how == "interrupt":
        os.killpg(child.pid, signal.SIGINT)
    elif how == "kill":
        child.kill()
    _, said = child.communicate(timeout=120)  # ends when the workers have closed the pipe
    if how == "interrupt":
        assert said.rstrip().endswith("KeyboardInterrupt") and "_worker_loop" not in said
    elif how == "leave":
        assert said == ""
    else:  # a worker that was just handing memory over says so, from Python's own thread for that
        assert said == "" or ("resource_sharer" in said and "stacked_ram" not in said)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    raise AssertionError("workers were left behind")

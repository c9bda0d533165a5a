"""Shards: written by the preparation, read in this folder and at a URL, as the folder is."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from shapes import draw_shapes, shapes_config
from small_sets import make_digits, make_photos
from tiny import raw_photos, tiny_config, tiny_photos

from stacked_ram.cli.main import run as command
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data import remote
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.data.shard_files import Shards
from stacked_ram.data.stream_plan import StreamPlan
from stacked_ram.evaluation.evaluate import evaluate
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pack import write_shards
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.callbacks import Callback
from stacked_ram.training.run import resume_run, train_run
from stacked_ram.training.trainer import Trainer

SMALL = 0.008  # MB of a shard: a few photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder of photos of two sizes with boxes, with its shards beside it."""
    home = tiny_photos(tmp_path_factory.mktemp("data") / "set", counts=(50, 9, 9))
    write_shards(home, SMALL)
    return home


@pytest.fixture(scope="module")
def shards(folder):
    return folder.with_name("set-shards")


@pytest.fixture
def address(shards):
    """The shards at a URL."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(shards.parent))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/set-shards"
        server.shutdown()


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """Where copies of shards go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    remote._copy_of.cache_clear()
    return tmp_path / "cache"


def loader_of(config, **where):
    return make_loader(open_dataset(config.data, "train", stream=True), config, train=True, **where)


def photos_of(loader):
    """What is in each batch: for each photo its name, label, box and pixels."""
    found = []
    for batch in loader:
        names = [loader.dataset.names[number] for number in batch.index_B.tolist()]
        for row, name in enumerate(names):
            height, width = batch.sizes_B2[row].tolist()
            pixels = batch.pixels_BCHW[row, :, :height, :width].clone()
            found.append((name, int(batch.labels_B[row]), batch.boxes_B4[row].tolist(), pixels))
    loader.close()
    return found


def test_shards_hold_the_photos_as_webdataset_reads_them(folder, shards):
    manifest = pandas.read_csv(folder / "manifest.csv").set_index("path")
    seen, order = {}, []
    for path in sorted(shards.glob("*.tar")):
        assert path.stat().st_size < 3 * SMALL * 1e6
        with tarfile.open(path) as opened:
            entries = {entry.name: opened.extractfile(entry).read() for entry in opened}
        keys = sorted({name.partition(".")[0] for name in entries})
        for key in keys:
            about = json.loads(entries[f"{key}.json"])
            seen[about["path"]] = entries[f"{key}.png"]
            row = manifest.loc[about["path"]]
            assert about["label"] == row["class"] and path.name.startswith(row["split"])
            assert about["box"][0] == row["box_left"]
            order.append((row["split"], about["path"]))
    assert seen == {path: (folder / path).read_bytes() for path in manifest.index}
    trained, tested = ([path for s, path in order if s == split] for split in ("train", "test"))
    assert trained != list(manifest.index[manifest.split == "train"])  # shuffled
    assert tested == list(manifest.index[manifest.split == "test"])
    assert len(list(shards.glob("train-*.tar"))) > 3


def test_shards_are_written_once_and_can_be_prepared_again(tmp_path):
    raw_photos(tmp_path / "raw")
    options = PrepareOptions(
        source=tmp_path / "raw", dest=tmp_path / "set", shards=True, shard_size=0.02
    )
    summary = prepare(options)
    assert f"shards: {tmp_path / 'set-shards'}" in str(summary)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set-shards").iterdir()}
    assert "already prepared" in str(prepare(options))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set-shards").iterdir()}
    assert before == after
    again = PrepareOptions(source=tmp_path / "set-shards", dest=tmp_path / "again")
    assert sum(prepare(again).photos.values()) == 30
    prepare(replace(options, shard_size=1.0))
    assert len(list((tmp_path / "set-shards").glob("train-*.tar"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "raw", "set", "set-shards"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_all_photos_without_overlap(world):
    starts = np.cumsum([0, 40, 33, 1, 7, 41, 25])
    count, orders = int(starts[-1]), []
    for epoch in range(3):
        plans = [
            StreamPlan(
                starts, batch_size=8, rank=rank, world=world, seed=3, epoch=epoch, sizes=None,
                buffer=24,
            )
            for rank in range(world)
        ]  # fmt: skip
        batches = [[rows.index_B.tolist() for rows in plan.batches()] for plan in plans]
        sizes = [[len(batch) for batch in each] for each in batches]
        assert sizes == [sizes[0]] * world and len(plans[0]) == len(sizes[0])
        seen = [number for each in batches for batch in each for number in batch]
        assert len(set(seen)) == len(seen) and set(seen) <= set(range(count))
        assert count - len(seen) < 2 * world and len(seen) == world * plans[0].photos
        orders.append(batches)
        for position in (1, 4, len(plans[0]) - 1):  # a window has 3 batches
            left = [rows.index_B.tolist() for rows in plans[0].batches(position)]
            assert left == batches[0][position:]
    assert orders[0] != orders[1] != orders[2]


def test_a_window_reads_few_shards_and_mixes_them():
    starts = np.arange(0, 100_001, 1000)
    plan = StreamPlan(
        starts, batch_size=32, rank=0, world=2, seed=0, epoch=0, sizes=None, buffer=4096
    )
    batches = [rows.index_B // 1000 for rows, _ in zip(plan.batches(), range(128), strict=False)]
    assert len(np.unique(np.concatenate(batches))) <= 6
    assert np.mean([len(np.unique(batch)) for batch in batches]) > 3


def test_photos_are_those_of_the_folder_and_workers_change_nothing(folder, shards):
    config = tiny_config(folder, flip=False)
    plain = {name: known for name, *known in photos_of(loader_of(config))}
    found = {}
    for workers in (0, 2):
        changed = replace_fields(config, {"dataset": str(shards), "workers": workers})
        streamed = photos_of(loader_of(changed))
        assert len(streamed) == len({name for name, *_ in streamed}) == 50
        for name, label, box, pixels in streamed:
            assert [label, box] == plain[name][:2] and torch.equal(pixels, plain[name][2])
        found[workers] = [name for name, *_ in streamed]
    assert found[0] == found[2]


def test_an_epoch_goes_on_in_the_middle_to_the_same_bits(shards):
    config = tiny_config(
        shards, flip=True, crop_area=(0.5, 1.0), colour_jitter=0.2, photo_size=(16, 16)
    )
    loader = loader_of(config)
    loader.set_epoch(2)
    whole = list(loader)
    again = loader_of(config)
    again.load_state_dict({"epoch": 2, "position": 3})
    rest = list(again)
    assert len(rest) == len(whole) - 3
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.pixels_BCHW, other.pixels_BCHW)
        assert torch.equal(one.index_B, other.index_B)


def test_training_holds_no_list_of_photos(shards):
    trainer = Trainer(tiny_config(shards, workers=0), shards.parent / "never written")
    assert len(trainer.dataset) == 50 and trainer.dataset.class_counts() == [17, 17, 16]
    for name in ("labels", "boxes", "objects"):
        assert len(getattr(trainer.dataset, name)) == 0
    assert trainer.photos_per_epoch == 50
    trainer.close()


def test_a_run_on_shards_resumes_exactly_and_tests_as_on_the_folder(folder, shards, tmp_path):
    config = tiny_config(shards, epochs=2, num_glimpses=3, flip=True)
    train_run(config, tmp_path / "whole")
    trainer = Trainer(config, tmp_path / "parts")
    steps = 0

    class Kill(Callback):
        def on_step_end(self, trainer, photos):
            nonlocal steps
            steps += 1
            if steps == 10:  # in the second epoch
                trainer.save()
                raise KeyboardInterrupt

    trainer.callbacks.append(Kill())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resume_run(tmp_path / "parts")
    assert (tmp_path / "parts/metrics.csv").read_text() == (
        tmp_path / "whole/metrics.csv"
    ).read_text()
    loaded = load_run(tmp_path / "whole")
    one, other = (evaluate(loaded, "test", dataset=home) for home in (folder, shards))
    assert one.accuracy == other.accuracy
    pandas.testing.assert_frame_equal(one.to_pandas(), other.to_pandas(), atol=1e-3)


def test_the_commands_work_at_a_url(folder, shards, address, copies, tmp_path, monkeypatch, capsys):
    pytest.importorskip("aiohttp", reason="pip install -r requirements-remote.txt")
    monkeypatch.chdir(tmp_path)
    config = tiny_config(address, epochs=1, workers=2)
    save_config(config, tmp_path / "a.yaml")
    command(["train", "a.yaml", "--out", "run"])
    train_run(tiny_config(shards, epochs=1, workers=0), tmp_path / "local")
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("run", "local")]
    assert tables[0] == tables[1]
    command(["test", "run", "--dataset", address])
    out = tmp_path / "table.csv"
    command(["predict", "run", address, "--out", str(out)])
    command(["predict", "run", f"{address}/test-000000.tar", "--out", str(tmp_path / "one.csv")])
    command(["predict", "run", str(shards), "--out", str(tmp_path / "local.csv")])
    command(["predict", "run", str(folder / "test"), "--out", str(tmp_path / "folder.csv")])
    found, one, local, plain = (
        pandas.read_csv(tmp_path / f"{name}.csv") for name in ("table", "one", "local", "folder")
    )
    assert len(found) == len(local) == 68 and 0 < len(one) < 9
    assert found["class"].tolist() == local["class"].tolist()
    assert sorted(local["probability"][-9:].round(5)) == sorted(plain["probability"].round(5))
    assert not found["error"].notna().any()


def test_copies_of_shards_stay_below_a_limit(shards, address):
    pytest.importorskip("aiohttp", reason="pip install -r requirements-remote.txt")
    config = tiny_config(address, cache_limit=3 * SMALL / 1000)
    assert len(photos_of(loader_of(config))) == 50
    home = remote.dataset_folder(address)
    kept = sum(path.stat().st_size for path in home.glob("*.tar"))
    assert 0 < kept <= 4 * SMALL * 1e6 < sum(path.stat().st_size for path in shards.glob("*.tar"))


def test_a_url_that_cannot_be_used_is_named_in_a_line(shards, address):
    pytest.importorskip("aiohttp", reason="pip install -r requirements-remote.txt")
    with pytest.raises(UserError, match=r"no dataset\.yaml there"):
        remote.dataset_folder(address + "-other")
    with pytest.raises(RunFailed, match="cannot be read"):
        remote.dataset_folder("http://127.0.0.1:1/set")
    with pytest.raises(UserError, match="nonsense"):
        remote.dataset_folder("nonsense://127.0.0.1/set")
    assert remote.url_of("s3:/bucket/set") == "s3://bucket/set"
    assert remote.url_of("datasets/set") is None and remote.url_of("C:/data") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"balanced_sampler": True}, "balanced_sampler: .* holds shards"),
        ({"limit_photos": 5}, "limit_photos: .* holds shards"),
        ({"fold": 0}, "fold: .* holds shards"),
    ],
)
def test_what_shards_cannot_do_is_said_in_a_line(shards, fields, message):
    with pytest.raises(UserError, match=message):
        loader_of(tiny_config(shards, **fields))


def test_damaged_shards_are_named(folder, shards, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    first = next(iter(sorted(broken.glob("train-*.tar"))))
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 2])
    loader = loader_of(tiny_config(broken))
    lost = [error for batch in loader for error in batch.unreadable.values()]
    assert lost and all("cut short" in error for error in lost)
    first.with_suffix(".npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        Shards(broken, ["train"], 1).table(np.arange(3))
    (broken / "shards.json").write_text('{"format": 1, "splits": {"train": 3}}')
    with pytest.raises(UserError, match=r"shards\.json: damaged"):
        open_dataset(tiny_config(broken).data, "train")


def test_what_cannot_lie_in_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match="digits"):
        write_shards(make_digits(tmp_path / "digits"), 1)
    make_photos(tmp_path / "photos")
    (tmp_path / "photos-shards").mkdir()
    (tmp_path / "photos-shards/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no shards"):
        write_shards(tmp_path / "photos", 1)
    with pytest.raises(UserError, match="--shards too"):
        PrepareOptions(source=tmp_path, dest=tmp_path / "x", shard_size=3)


def test_photos_with_several_labels(tmp_path):
    """Shards hold the labels of the folder, and a run on them learns and is tested as on it."""
    draw_shapes(tmp_path / "raw")
    words = {"multi_label": True, "shards": True, "shard_size": SMALL, "workers": 1}
    prepare(PrepareOptions(source=tmp_path / "raw", dest=tmp_path / "set", **words))
    folder, shards = tmp_path / "set", tmp_path / "set-shards"
    config = shapes_config(folder, flip=False, epochs=1)
    streamed = loader_of(replace_fields(config, {"dataset": str(shards)}))
    assert streamed.dataset.multi_label
    plain = loader_of(config)
    assert streamed.dataset.class_counts() == plain.dataset.class_counts()
    labels = [
        {
            loader.dataset.names[number]: tuple(label_C.tolist())
            for batch in loader
            for number, label_C in zip(batch.index_B.tolist(), batch.labels_B, strict=True)
        }
        for loader in (streamed, plain)
    ]
    assert labels[0] == labels[1]
    train_run(shapes_config(shards, epochs=1, class_weights=True), tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    one, other = (evaluate(loaded, "test", dataset=home) for home in (folder, shards))
    assert loaded.metadata.multi_label and one.mAP == other.mAP
    again = PrepareOptions(source=shards, dest=tmp_path / "again", multi_label=True, workers=1)
    assert sum(prepare(again).photos.values()) == 48

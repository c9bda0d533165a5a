from __future__ import annotations

import csv
import errno
import io
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, tiny_config

from stacked_ram.cli.predict import Predict, given_names, predict
from stacked_ram.evaluation import predict as room
from stacked_ram.evaluation import prediction_table
from stacked_ram.evaluation.early_exit import look_until
from stacked_ram.evaluation.predict import batches, photo_names, predict_stream
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(photos, epochs=2, num_glimpses=3), folder)
    return folder


def test_a_row_for_each_photo_including_broken_ones(run, photos, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    given = (str(broken), str(photos / "test" / "bar"), str(tmp_path / "gone.jpg"))
    predict(Predict(run=run, photos=given, top=2))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [bool(row["error"]) for row in rows] == [True, False, False, True]
    assert "not an image" in rows[0]["error"]
    assert "no such photo" in rows[3]["error"]
    good = rows[1]
    assert good["class"] in CLASSES
    assert 0 < float(good["probability"]) <= 1
    assert good["glimpses"] == "3"
    assert len(good["locations"].split(";")) == 3
    assert good["class_2"] in set(CLASSES) - {good["class"]} and "class_3" not in good
    assert float(good["probability_2"]) <= float(good["probability"])


def test_photos_of_every_supported_format_are_found(tmp_path):
    picture = Image.new("RGB", (30, 20), (9, 90, 200))
    for name in ("a.jfif", "b.PNG", "c.avif", "d.jp2", "e.webp"):
        picture.save(tmp_path / name)
    for name in ("f.mpo", "g.j2c"):  # by their names
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no photo")
    assert len(list(photo_names([str(tmp_path)]))) == 7


def test_a_table_of_photos_may_come_from_a_spreadsheet(tmp_path, capsys):
    rows = "number,path\r\n1,a.jpg\r\n2,\r\n3\r\n4, b.jpg \r\n"
    (tmp_path / "list.csv").write_text(rows, encoding="utf-8-sig")
    assert list(photo_names([str(tmp_path / "list.csv")])) == ["a.jpg", "b.jpg"]
    assert "no path in line 3" in capsys.readouterr().err


def test_no_photos_are_an_error_and_leave_no_table(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for photos in ((), (str(tmp_path / "empty"),)):
        with pytest.raises(UserError, match="no photos"):
            predict(Predict(run=run, photos=photos, out=tmp_path / "out.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_names_that_are_not_text_are_written_too(run, photos, tmp_path, ending):
    picture = next((photos / "test").rglob("*.png")).read_bytes()
    folder = tmp_path / "odd"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(picture)
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(b"nothing")
    out = tmp_path / f"out.{ending}"
    predict(Predict(run=run, photos=(str(folder),), out=out))
    text = out.read_text(encoding="utf-8")
    assert text.count("xe9.png") == 1 and text.count("xff.png") == 2  # its error has the name too


def test_a_stopped_run_leaves_no_table(run, photos, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "predict_batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(Predict(run=run, photos=(str(photos / "test"),), out=tmp_path / "out.csv"))
    assert not list(tmp_path.iterdir())


def test_json_lines_agree_and_batches_do_not_matter(run, photos, tmp_path):
    found = []
    for batch_size in (1, 4):
        out = tmp_path / f"{batch_size}.jsonl"
        predict(Predict(run=run, photos=(str(photos / "test"),), out=out, batch_size=batch_size))
        found.append([json.loads(line) for line in out.read_text().splitlines()])
    assert [row["path"] for row in found[0]] == [row["path"] for row in found[1]]
    for single, many in zip(*found, strict=True):
        assert single["class"] == many["class"]
        assert single["probability"] == pytest.approx(many["probability"], abs=1e-5)
        np.testing.assert_allclose(single["locations"], many["locations"], atol=1e-3)


def test_two_batches_at_the_same_time_give_the_same_rows(run, photos):
    names = [*photo_names([str(photos / "test")]), "nothing.png"] * 3
    loaded = load_run(run)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(list(predict_stream(loaded, names, batch_size=4)))
            assert torch.get_num_threads() == threads
        rows = predict_stream(loaded, names, batch_size=4)
        next(rows)
        rows.close()
        assert torch.get_num_threads() == 2, "also of a stream that is left"
    finally:
        torch.set_num_threads(before)
    assert [row.path for row in found[1]] == names
    for single, double in zip(*found, strict=True):
        assert (single.error == "") == (double.error == "") == (single.path != "nothing.png")
        assert [name for name, _ in single.top] == [name for name, _ in double.top]
        np.testing.assert_allclose(single.locations, double.locations, atol=1e-3)


def test_a_stopping_head_decides_when_requested(run, photos, tmp_path):
    config = tiny_config(photos, epochs=1, num_glimpses=3, learned_stop=True)
    train_run(config, tmp_path / "stopping")
    given = dict(photos=(str(photos / "test"),), out=tmp_path / "rows.jsonl", stop_by="stop")

    def glimpses(stop_at):
        predict(Predict(run=tmp_path / "stopping", stop_at=stop_at, **given))
        return {json.loads(line)["glimpses"] for line in given["out"].read_text().splitlines()}

    loaded = load_run(tmp_path / "stopping", "cpu")
    assert glimpses(0.0) == {1} and glimpses(1.0) == {3}
    with torch.no_grad():  # beliefs stay below 0.99, the head's probability is above it
        loaded.model.stop.bias.fill_(9.0)
    rows = list(
        predict_stream(loaded, photo_names([str(photos / "test")]), stop_at=0.99, stop_by="stop")
    )
    assert {row.glimpses for row in rows} == {1} and max(row.top[0][1] for row in rows) < 0.99
    with pytest.raises(UserError, match="stop_at"):
        predict(Predict(run=run, **given))
    with pytest.raises(UserError, match="learned_stop"):
        predict(Predict(run=run, stop_at=0.5, **given))


def test_photos_are_named_by_files_folders_globs_csv_and_stdin(photos, tmp_path, monkeypatch):
    photo = next((photos / "test" / "bar").iterdir())
    (tmp_path / "list.csv").write_text(f"id,path\n1,{photo}\n2,beside.png\n")
    (tmp_path / "beside.png").write_bytes(photo.read_bytes())
    (tmp_path / "notes.txt").write_text("no photo")
    assert list(photo_names([str(tmp_path / "list.csv")])) == [
        str(photo), str(tmp_path / "beside.png"),
    ]  # fmt: skip
    assert list(photo_names([str(tmp_path)])) == [str(tmp_path / "beside.png")]
    assert len(list(photo_names([str(photos / "test" / "*" / "*.png")]))) == 6
    monkeypatch.setattr("sys.stdin", io.StringIO("a.jpg\n\nb c.jpg\n"))
    assert list(given_names(["-"])) == ["a.jpg", "b c.jpg"]
    odd = io.TextIOWrapper(io.BytesIO(b"caf\xe9.jpg\nb.jpg\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", odd)
    assert list(given_names(["-"])) == [os.fsdecode(b"caf\xe9.jpg"), "b.jpg"]
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(UserError, match="no column `path`"):
        list(photo_names([str(tmp_path / "bad.csv")]))


def test_a_full_disk_is_reported_and_leaves_no_table(run, photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prediction_table, "as_cells", full)
    out = tmp_path / "table.csv"
    with pytest.raises(UserError, match=r"table\.csv: cannot be written \(No space left"):
        predict(Predict(run=run, photos=(str(photos / "test"),), out=out, device="cpu"))
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_photos(run, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((400, 500, 3), np.uint8)).save(path)
    loaded = load_run(run, "cpu")
    peaks = []
    for count in (4, 60, 240):  # the first photo warms up; a few photos are always read ahead
        tracemalloc.start()
        rows = predict_stream(loaded, (str(path) for _ in range(count)), batch_size=2)
        assert sum(1 for _ in rows) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1] + 600_000  # one photo is 600,000 bytes


def test_large_photos_come_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(room, "MAX_PADDED", 1000)
    small, large = np.zeros((3, 10, 20)), np.zeros((3, 30, 30))
    given = [("a", small), ("b", small), ("c", large), ("d", "broken"), ("e", small)]
    names = [[name for name, _ in batch] for batch in batches(iter(given), 4)]
    assert names == [["a", "b"], ["c", "d"], ["e"]]


def test_looking_stops_when_the_belief_is_high_enough(run, photos):
    model = load_run(run, "cpu").model
    pixels = torch.randint(0, 256, (5, 3, 20, 28), dtype=torch.uint8)
    batch = model.photos(pixels)
    trace = model(batch)
    whole = look_until(model, batch)
    torch.testing.assert_close(whole.beliefs_BN, trace.logits_BTN[:, -1].softmax(1))
    torch.testing.assert_close(whole.locations_BT2, trace.locations_BTS2[:, :, 0])
    assert whole.glimpses_B.tolist() == [3] * 5
    beliefs_BTN = trace.logits_BTN.softmax(2)
    sure_BT = beliefs_BTN.amax(2)
    threshold = sure_BT[:, :2].flatten().median().item()
    early = look_until(model, batch, threshold)
    for row in range(5):
        enough = [step for step in range(3) if sure_BT[row, step] >= threshold]
        used = min(enough, default=2) + 1
        assert early.glimpses_B[row] == used
        torch.testing.assert_close(
            early.beliefs_BN[row], beliefs_BTN[row, used - 1], atol=1e-5, rtol=1e-4
        )
        assert early.locations_BT2[row, used:].isnan().all()
    assert early.glimpses_B.min() < 3


def test_nothing_heavy_is_imported_for_a_model_without_a_backbone(run):
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import sys; from stacked_ram.cli.main import main\n"
        f"main(['predict', {str(run)!r}, 'gone.png'])\n"
        "print([n for n in ('timm', 'torchvision', 'pandas', 'sklearn', 'matplotlib')"
        " if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr

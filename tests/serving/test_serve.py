"""The server in this process, and once behind a real socket."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import draw_shapes, shapes_config
from tiny import tiny_config, tiny_photos

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("uvicorn")
pytest.importorskip("multipart")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from stacked_ram.evaluation.calibration import calibrated
from stacked_ram.evaluation.cost import photo_cost
from stacked_ram.evaluation.predict import Row, predict_stream
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.serving import server as room
from stacked_ram.serving.batcher import Batcher
from stacked_ram.serving.limits import Budget, Rate, Refused
from stacked_ram.serving.server import create_app
from stacked_ram.serving.settings import Settings
from stacked_ram.trained import Model
from stacked_ram.training.run import train_run

ROOT = Path(__file__).parents[2]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs requirements-fast.txt"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = tiny_photos(tmp_path_factory.mktemp("data") / "photos")
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(tiny_config(data, epochs=1, num_glimpses=3), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run, "cpu")


@pytest.fixture(scope="module")
def files(loaded):
    return sorted((Path(loaded.config.data.dataset) / "test").rglob("*.png"))


def client(loaded, host="127.0.0.1", **settings):
    app = create_app(loaded, Settings(**settings), host)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def same(answer: dict, row: Row) -> bool:
    return (
        [each["class"] for each in answer["top"]] == [name for name, _ in row.top]
        and all(
            abs(each["probability"] - value) < 2e-6
            for each, (_, value) in zip(answer["top"], row.top, strict=True)
        )
        and answer["glimpses"] == row.glimpses
        and [tuple(each["location"]) for each in answer["path"]] == list(row.locations)
    )


@pytest.mark.parametrize("settings", [{}, {"stop_at": 0.4, "top": 2}])
def test_answers_are_those_of_predict_alone_and_together(loaded, files, settings):
    rows = list(predict_stream(loaded, map(str, files), **{"top": 5} | settings))
    with (
        client(loaded, batch_size=4, batch_wait=200, **settings) as server,
        ThreadPoolExecutor(len(files)) as threads,
    ):
        alone = [server.post("/look", content=file.read_bytes()).json() for file in files[:2]]
        together = list(
            threads.map(
                lambda file: server.post("/look", files={"photo": file.read_bytes()}).json(), files
            )
        )
        figures = server.get("/metrics").text
    assert all(map(same, alone, rows)) and all(map(same, together, rows))
    batches, photos = (
        float(figures.split(f"stacked_ram_batch_photos_{name} ")[1].split()[0])
        for name in ("count", "sum")
    )
    assert photos == len(files) + 2 and batches < photos  # some were looked at together
    assert f'stacked_ram_requests_total{{status="200"}} {photos}' in figures


def test_boxes_are_in_pixels_of_the_sent_photo_whatever_its_orientation(loaded, files):
    photo = Image.open(files[0]).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    content = io.BytesIO()
    photo.transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    with client(loaded) as server:
        answer = server.post("/look", content=content.getvalue()).json()
    assert (answer["width"], answer["height"]) == (90, 60)
    result = Model(loaded).look(photo)
    boxes = [glimpse["boxes"] for glimpse in answer["path"]]
    assert boxes == pytest.approx(result.boxes, abs=0.02)
    assert answer["gmacs"] == pytest.approx(photo_cost(loaded.model, 60, 90).total, rel=1e-3)


def test_a_picture_on_request(loaded, files):
    content = files[0].read_bytes()
    with client(loaded, stop_at=0.4) as server:
        answer = server.post("/look?picture=true", content=content).json()
        png = server.post("/look.png", content=content)
        assert "picture" not in server.post("/look", content=content).json()
    assert png.headers["content-type"] == "image/png"
    assert base64.b64decode(answer["picture"]) == png.content
    assert Image.open(io.BytesIO(png.content)).width > 300


def test_what_is_not_wanted_is_refused_in_a_line_and_the_server_goes_on(loaded, files, monkeypatch):
    monkeypatch.setattr(room, "MOST_BYTES", 200_000)
    monkeypatch.setattr("stacked_ram.images.uploads.MOST_BYTES", 200_000)
    good = files[0].read_bytes()
    large = io.BytesIO()
    Image.new("L", (400, 300)).save(large, "PNG")
    bomb = large.getvalue()
    with client(loaded, megapixels=0.1) as server:

        def post(content=None, **how):
            response = server.post("/look", content=content, **how)
            error = response.json().get("error", "")
            assert "/" not in error and "\n" not in error and response.status_code < 500
            return response.status_code, error

        form = {"headers": {"content-type": "multipart/form-data; boundary=x"}}
        refused = {
            "nothing": (400, "no photo", post(b"")),
            "text": (400, "not an image", post(b"hello")),
            "cut off": (400, "cannot read this photo", post(good[: len(good) // 2])),
            "pixels": (413, "0.1 million pixels", post(bomb)),
            "bytes": (413, "MB", post(bytes(200_001))),
            "bytes unannounced": (413, "MB", post(bytes(1000) for _ in range(10_000))),
            "bytes in a form": (413, "MB", post(files={"photo": bytes(300_000)})),
            "two files": (400, "form", post(files=[("a", good), ("b", good)])),
            "no file": (400, "no photo", post(files={"photo": (None, "cat.jpg")})),
            "broken form": (400, "", post(b"--x\r\nnonsense", **form)),
            "no boundary": (
                400,
                "form",
                post(b"--x", headers={"content-type": "multipart/form-data"}),
            ),
            "bad option": (400, "picture", post(good, params={"picture": "maybe"})),
        }
        for what, (status, text, found) in refused.items():
            assert found[0] == status and text in found[1], (what, found)
        assert server.get("/look").status_code == 405
        assert server.get("/elsewhere").json() == {"error": "Not Found"}
        assert post(good)[0] == 200
        assert server.get("/health").json()["in_hand"] == 0
        assert 'requests_total{status="413"} 4.0' in server.get("/metrics").text


def test_no_photo_stays_on_the_disk_and_no_path_is_shown(run, loaded, files):
    app = create_app(loaded, Settings())
    with TestClient(app, base_url="http://127.0.0.1") as server:
        shown = [server.post("/look", content=files[0].read_bytes()).text]
        shown += [server.post("/look", content=each).text for each in (b"GIF89a", b"\x89PNG\r\n")]
        shown += [server.get(page).text for page in ("/health", "/openapi.json", "/docs", "/x")]
        left = list(Path(room.tempfile.gettempdir()).glob("stacked_ram_serve_*/*"))
    assert not left
    for path in (str(run), str(run.parent), room.tempfile.gettempdir(), str(ROOT)):
        assert not any(path in text for text in shown)
    assert '"model":"run"' in shown[3]
    assert "http" not in shown[5].replace("http://127.0.0.1", "")  # the page works offline


def test_too_many_and_too_slow_requests_are_refused(loaded, files, monkeypatch):
    content = files[0].read_bytes()
    with client(loaded, rate=1) as server:
        codes = [server.post("/look", content=content).status_code for _ in range(4)]
    assert codes[:2] == [200, 200] and 429 in codes[2:]

    started, go_on = threading.Event(), threading.Event()
    look = room.Looker.look

    def slow(self, photos):
        if server is not None:
            started.set()
            go_on.wait(20)
        return look(self, photos)

    server = None
    monkeypatch.setattr(room.Looker, "look", slow)
    with client(loaded, queue=1, rate=0) as entered, ThreadPoolExecutor(1) as thread:
        server = entered
        first = thread.submit(server.post, "/look", content=content)
        assert started.wait(20)
        second = server.post("/look", content=content)
        go_on.set()
        assert first.result().status_code == 200
    assert second.status_code == 503 and "1 photos are in hand" in second.json()["error"]
    assert second.headers["retry-after"] == "1"

    go_on.clear()
    server = None
    with client(loaded, time_limit=0.3, rate=0) as entered:
        server = entered
        late = server.post("/look", content=content)
        go_on.set()
        assert late.status_code == 503 and "no answer within 0.3 s" in late.json()["error"]
        assert server.get("/health").json()["in_hand"] == 0


def test_a_failure_is_not_the_photos_fault_and_hits_no_other(loaded, files, monkeypatch, caplog):
    look = room.Looker.look
    contents = [file.read_bytes() for file in files[:3]]

    def failing(self, photos):
        if any(sent.path.read_bytes() == contents[1] for sent in photos):
            raise RuntimeError("out of memory at /secret/path")
        return look(self, photos)

    monkeypatch.setattr(room.Looker, "look", failing)
    with client(loaded, batch_wait=300) as server, ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda content: server.post("/look", content=content), contents))
        assert [each.status_code for each in found] == [200, 500, 200]
        assert "secret" not in found[1].text

        def full(*_):
            raise OSError(28, "No space left on device", "/secret/path")

        monkeypatch.setattr(Path, "write_bytes", full)
        response = server.post("/look", content=contents[0])
    assert response.status_code == 503 and "secret" not in response.text
    assert "No space left" in response.json()["error"]


def test_a_photo_may_have_several_labels(tmp_path):
    draw_shapes(tmp_path / "raw")
    words = {"multi_label": True, "workers": 1}
    prepare(PrepareOptions(source=tmp_path / "raw", dest=tmp_path / "set", **words))
    train_run(shapes_config(tmp_path / "set", epochs=1), tmp_path / "run")
    several = load_run(tmp_path / "run", "cpu")
    files = sorted((tmp_path / "raw").glob("*.png"))[:8]
    rows = list(predict_stream(several, map(str, files), stop_at=0.3))
    with client(several, stop_at=0.3) as server:
        answers = [server.post("/look", content=file.read_bytes()).json() for file in files]
        png = server.post("/look.png", content=files[0].read_bytes()).content
        counted = server.get("/metrics").text
        several.model.thresholds = (0.9999,) * 3
        none = server.post("/look", content=files[0].read_bytes()).json()
    assert all(map(same, answers, rows))
    said = [[(each["class"], each["probability"]) for each in one["labels"]] for one in answers]
    assert [[name for name, _ in each] for each in said] == [
        [name for name, _ in row.labels or ()] for row in rows
    ]
    name, _ = next(each for each in said if each)[0]
    assert f'stacked_ram_answers_total{{predicted="{name}"}}' in counted
    assert none["labels"] == [] and len(none["top"]) == 3
    assert Image.open(io.BytesIO(png)).width > 300


def test_on_loopback_it_answers_to_no_other_name(loaded):
    page = {"Host": "elsewhere.example"}
    with client(loaded) as server:
        assert server.get("/health", headers=page).status_code == 400
    with client(loaded, host="0.0.0.0") as server:
        assert server.get("/health", headers=page).status_code == 200


def test_coverage_marks_the_unknown_after_calibration(run, loaded, files, tmp_path):
    with pytest.raises(UserError, match="calibrate"):
        create_app(loaded, Settings(coverage=0.5))
    shutil.copytree(run, tmp_path / "run")
    honest = load_run(tmp_path / "run", "cpu")
    beliefs = np.random.default_rng(0).dirichlet((2, 1, 1), 40)
    calibrated(honest, beliefs, np.zeros(40, np.int64))
    rows = list(predict_stream(honest, map(str, files), coverage=0.3))
    with client(honest, coverage=0.3) as server:
        answers = [server.post("/look", content=file.read_bytes()).json() for file in files]
    assert [answer["unknown"] for answer in answers] == [row.unknown for row in rows]
    assert all(map(same, answers, rows))


@pytest.mark.parametrize(
    "wrong", [{"stop_at": 2}, {"queue": 0}, {"rate": -1}, {"stop_by": "stop"}, {"time_limit": 0}]
)
def test_settings_out_of_range_are_named(loaded, wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=name.replace("_", "[-_]")):
        create_app(loaded, Settings(**wrong))


def test_a_client_that_slows_down_is_served_again():
    now = 0.0
    rate = Rate(2, lambda: now)
    for _ in range(4):
        rate.take("a")
    with pytest.raises(Refused):
        rate.take("a")
    rate.take("b")
    now = 0.5
    rate.take("a")
    with pytest.raises(Refused):
        rate.take("a")


def test_a_budget_is_waited_for_and_one_alone_may_exceed_it():
    async def work():
        budget, order = Budget(10), []

        async def use(name, amount, seconds):
            async with budget.use(amount) as shrink:
                order.append(name)
                await asyncio.sleep(seconds)
                shrink(1)
                await asyncio.sleep(seconds)

        await asyncio.gather(use("huge", 100, 0.02), use("small", 5, 0), use("other", 5, 0))
        return order, budget.used

    assert asyncio.run(work()) == (["huge", "small", "other"], 0)


def test_those_who_gave_up_are_not_worked_for():
    done = []

    def work(items):
        done.extend(items)
        return items

    async def ask():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(work, thread, most=4, wait=0.05)
            task = asyncio.create_task(batcher.run())
            gone = asyncio.create_task(batcher.ask(1))
            kept = asyncio.create_task(batcher.ask(2))
            await asyncio.sleep(0.01)
            gone.cancel()
            assert await kept == 2
            task.cancel()

    asyncio.run(ask())
    assert done == [2]


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_openvino)])
def test_a_real_server_finishes_what_is_in_hand_and_ends_cleanly(run, files, fast):
    command = [sys.executable, "main.py", "serve", str(run), "--port", "0", "--batch-wait", "1500"]
    command += ["--fast"] * fast
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[5]
            base = address.removesuffix("/look")
            with urllib.request.urlopen(f"{base}/health") as response:
                assert json.load(response)["status"] == "ok"
            content = files[0].read_bytes()
            with ThreadPoolExecutor(1) as thread:
                asked = thread.submit(urllib.request.urlopen, address, content)
                while b'"in_hand":0' in urllib.request.urlopen(f"{base}/health").read():
                    pass
                os.kill(process.pid, signal.SIGTERM)
                with asked.result() as response:
                    answer = json.load(response)
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None and process.stderr.read() == ""
    (row,) = predict_stream(load_run(run, "cpu", fast=fast), [str(files[0])])
    assert same(answer, row)

"""The app's server answers to its own name alone, and holds a bounded amount of uploads."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stacked_ram.viz.app_guards import guards


def client_of(tmp_path, host="127.0.0.1", most=1000):
    async def take(request):
        body = await request.body()
        (tmp_path / f"upload{len(list(tmp_path.iterdir()))}").write_bytes(body)
        return PlainTextResponse("taken")

    route = Route("/gradio_api/upload", take, methods=["GET", "POST"])
    app = Starlette(routes=[route], middleware=guards(host, tmp_path, most))
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_another_name_is_refused_on_loopback(tmp_path):
    url = "/gradio_api/upload"
    client = client_of(tmp_path)
    for name, code in {"127.0.0.1:7860": 200, "localhost": 200, "elsewhere.example": 400}.items():
        assert client.get(url, headers={"Host": name}).status_code == code
    opened = client_of(tmp_path, host="0.0.0.0")
    assert opened.get(url, headers={"Host": "elsewhere.example"}).status_code == 200


def test_all_uploads_together_are_limited(tmp_path):
    client = client_of(tmp_path)
    codes = [client.post("/gradio_api/upload", content=bytes(400)).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    unknown = client.post("/gradio_api/upload", content=iter([bytes(10)]))  # without a length
    assert unknown.status_code == 429
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 800

"""Downloads: continued after an interruption, checked, and explained without a network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stacked_ram.preparation import download as downloading
from stacked_ram.preparation.download import RemoteFile, download, fetch
from stacked_ram.runtime.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Server(BaseHTTPRequestHandler):
    """Serve CONTENT, with ranges; stop after `most` bytes of an answer."""

    most = len(CONTENT)
    ranges = True
    requested: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        type(self).requested.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + self.most])

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Server.most, Server.ranges, Server.requested = len(CONTENT), True, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/set.tgz"
    server.shutdown()
    server.server_close()


def test_an_interrupted_transfer_continues(tmp_path: Path, url: str) -> None:
    part = tmp_path / "set.part"
    Server.most = 300_000
    with pytest.raises(OSError, match=r"stopped after|IncompleteRead|more expected"):
        fetch(url, part)
    kept = part.stat().st_size
    assert 0 < kept <= 300_000
    Server.most = len(CONTENT)
    fetch(url, part)
    assert part.read_bytes() == CONTENT
    assert Server.requested == ["", f"bytes={kept}-"]
    fetch(url, part)  # complete: nothing more to fetch
    assert part.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file_again(tmp_path: Path, url: str) -> None:
    part = tmp_path / "set.part"
    part.write_bytes(b"something else entirely")
    Server.ranges = False
    fetch(url, part)
    assert part.read_bytes() == CONTENT


def test_hash_is_checked(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(downloading.OFFICIAL, "flowers17", (RemoteFile(url, right),))
    folder = download("flowers17", tmp_path / "datasets/f17").folder
    assert folder == tmp_path / "datasets/downloads/flowers17"
    assert (folder / "set.tgz").read_bytes() == CONTENT
    count = len(Server.requested)
    download("flowers17", tmp_path / "datasets/f17")
    assert len(Server.requested) == count, "existing files are not fetched again"
    monkeypatch.setitem(downloading.OFFICIAL, "flowers17", (RemoteFile(url, "0" * 32),))
    with pytest.raises(UserError, match=r"set\.tgz.*not the published"):
        download("flowers17", tmp_path / "datasets/f17")


def test_without_a_network_the_error_says_what_to_fetch_by_hand(
    tmp_path: Path, monkeypatch
) -> None:
    dead = RemoteFile("http://127.0.0.1:9/17flowers.tgz")
    monkeypatch.setitem(downloading.OFFICIAL, "flowers17", (dead,))
    with pytest.raises(UserError) as raised:
        download("flowers17", tmp_path / "f17")
    text = str(raised.value)
    assert "by hand" in text and dead.url in text and str(tmp_path / "downloads/flowers17") in text
    assert "\n" not in text

"""A headless Firefox for the tests of pages, through the protocol WebDriver BiDi that it speaks
itself; so no driver beside the browser is needed."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("firefox-esr", "firefox")
PREFERENCES = """
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("app.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
"""


def missing() -> str:
    """Return why Firefox cannot run here; "" if it can."""
    try:
        import websocket  # noqa: F401
    except ImportError:
        return "the package websocket-client (of selenium) is not installed"
    if not any(shutil.which(name) for name in NAMES):
        return "firefox is not installed (Debian: apt-get install firefox-esr)"
    return ""


class Page:
    """A tab of the browser."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.numbers, self.errors = socket, itertools.count(1), list[str]()
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded"])
        (context,) = self.ask("browsingContext.getTree")["contexts"]
        self.context = context["context"]

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command and wait for its result; keeps what the page complains of meanwhile."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                self.errors.append(said["params"]["text"])
            if said.get("id") == number:
                assert said["type"] == "success", said
                return said["result"]

    def open(self, url: str) -> None:
        self.ask("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def run(self, script: str) -> Any:
        """The value of an expression (of a promise, what it gives) in the page, through JSON."""
        found = self.ask(
            "script.evaluate", expression=f"Promise.resolve({script}).then(JSON.stringify)",
            target={"context": self.context}, awaitPromise=True,
        )  # fmt: skip
        assert found["type"] == "success", found
        return json.loads(found["result"].get("value", "null"))


@contextlib.contextmanager
def firefox(width: int = 1280, height: int = 1000) -> Iterator[Page]:
    """Yield a page of a browser with an empty profile."""
    from websocket import create_connection

    profile = Path(tempfile.mkdtemp(prefix="firefox-"))
    (profile / "user.js").write_text(PREFERENCES)
    name = next(name for name in NAMES if shutil.which(name))
    command = [name, "--headless", "--no-remote", "--profile", str(profile),
               "--width", str(width), "--height", str(height),
               "--remote-debugging-port", "0", "about:blank"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={"HOME": str(profile), "PATH": "/usr/bin:/bin:/usr/local/bin"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"ws://\S+", line) for line in process.stderr)))
        socket = create_connection(f"{found[0]}/session", timeout=120, suppress_origin=True)
        try:
            yield Page(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(profile, ignore_errors=True)

"""The app (`viz.py --app`) as a way to read photos, each as an upload, for fault_photos.py."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fault_photos import LIMIT, SILENT, Answer, judged, processor_seconds

ROOT = Path(__file__).resolve().parents[1]


class App:
    """`viz.py RUN --app` on a free port of loopback. Use it as a context manager, which ends it."""

    def __init__(self, run: Path, log: Path) -> None:
        self.run, self.log = run, log

    def __enter__(self) -> App:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(ROOT / "viz.py"), str(self.run), "--app", "--device", "cpu"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], stdout=log, stderr=log
            )
        while b"open http" not in self.log.read_bytes():
            if self.process.poll() is not None:
                raise SystemExit(f"the app did not start: {self.log.read_text()}")
            time.sleep(0.2)
        asks = json.loads(self.request("GET", "/config"))["dependencies"]
        self.function = next(each["id"] for each in asks if len(each["inputs"]) == 5)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def __call__(self, files: list[Path]) -> Iterator[Answer]:
        for file in files:
            before = processor_seconds(self.process.pid)
            try:
                said = self.look(file)
            except (OSError, http.client.HTTPException, ValueError) as error:
                said = f"{type(error).__name__}: {error}"
            if self.process.poll() is not None:
                yield file.name, f"the app ended with exit code {self.process.returncode}"
                self.__enter__()
                continue
            if processor_seconds(self.process.pid) - before > LIMIT:
                said = f"more than {LIMIT} s of processor time, and {said}"
            yield file.name, said
        log = self.log.read_text(errors="replace")
        if "Traceback" in log:
            self.log.write_text("")
            yield "log", log[log.index("Traceback") :][:2000]

    def look(self, file: Path) -> str:
        """Upload a photo and let the page look at it; what the page says."""
        edge = b"--edge\r\n"
        form = edge + b'Content-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        form = form % (file.name.encode(), file.read_bytes()) + b"--edge--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        (path,) = json.loads(self.request("POST", "/gradio_api/upload", form, kind))
        photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [photo, self.run.name, 1, 1.0, None], "fn_index": self.function,
                 "session_hash": file.name, "event_data": None}  # fmt: skip
        kind = {"Content-Type": "application/json"}
        self.request("POST", "/gradio_api/queue/join", json.dumps(asked).encode(), kind)
        said = self.request("GET", f"/gradio_api/queue/data?session_hash={file.name}").decode()
        messages = [json.loads(line[5:]) for line in said.splitlines() if line[:5] == "data:"]
        end = next(each for each in messages if each["msg"] == "process_completed")
        if end["success"]:
            shown = end["output"]["data"][0].startswith("###")
            return "read" if shown else f"no answer: {end['output']['data'][0]}"
        return judged(file.name + (end["output"]["error"] or "\nno reason"), file.name)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: dict[str, str] | None = None
    ) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SILENT)
        try:
            connection.request(method, path, body, kind or {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{path}: status {answer.status}: {content[:200]!r}")
        return content

    @property
    def peak(self) -> int:
        """The most memory that the app has held, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

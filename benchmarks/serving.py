"""How many photos a second `serve` answers, with batching and without, beside single predictions.

    python benchmarks/serving.py RUN PHOTOS [--clients 16] [--rounds 3] [--count 200]
    python benchmarks/serving.py --quick       the model that comes along, photos made for it

Two servers are started on loopback, one that looks at up to 16 photos together and one that looks
at each alone. They and a loop over `predict` (a batch of one photo, without a server) take turns:
`count` photos each in a round, from `clients` connections that send one photo after the other. The
clients share the machine with the server. At last bad uploads are sent to the first server.
Memory is the server's resident memory, as its /metrics says.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import repository  # noqa: F401
from PIL import Image

from stacked_ram.evaluation.predict import photo_names, predict_stream
from stacked_ram.runs.checkpoint import load_run

ROOT = Path(__file__).parents[1]
SIDES = {
    "in batches": ("--batch-size", "16"),
    "each alone": ("--batch-size", "1", "--batch-wait", "0"),
}
WARM_UP = 20  # photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "stacked_ram/runs/demo")
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photos")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=200, help="photos of each side in a round")
    parser.add_argument("--quick", action="store_true", help="one round of a few photos")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.count = 1, 24
    with tempfile.TemporaryDirectory() as folder:
        names = list(photo_names([str(options.photos or made_photos(Path(folder)))]))
        contents = [Path(name).read_bytes() for name in names]
        servers = {side: Server(options.run, flags) for side, flags in SIDES.items()}
        try:
            measure(servers, contents, names, options)
        finally:
            for server in servers.values():
                server.end()


class Server:
    """`main.py serve` on a free port of loopback."""

    def __init__(self, run: Path, flags: tuple[str, ...]) -> None:
        command = [sys.executable, str(ROOT / "main.py"), "serve", str(run), "--port", "0",
                   "--rate", "0", *flags]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = line.split("http://")[1].split("/")[0]
        while True:  # it listens before it is ready
            try:
                self.ask("GET", "/health")
                return
            except OSError:
                time.sleep(0.1)

    def ask(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, content)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def megabytes(self) -> float:
        text = self.ask("GET", "/metrics")[1].decode()
        return float(text.split("\nprocess_resident_memory_bytes ")[1].split()[0]) / 1e6

    def load(self, contents: list[bytes], count: int, clients: int) -> tuple[float, list[float]]:
        """Send `count` photos from so many connections; returns the seconds that all of them took,
        and those of each."""
        turns = iter(range(count))

        def client() -> list[float]:
            connection, taken = http.client.HTTPConnection(self.address, timeout=120), []
            for turn in turns:
                started = time.perf_counter()
                connection.request("POST", "/look", contents[turn % len(contents)])
                response = connection.getresponse()
                body = response.read()
                taken.append(time.perf_counter() - started)
                assert response.status == 200, body
            connection.close()
            return taken

        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            parts = [thread.result() for thread in [threads.submit(client) for _ in range(clients)]]
        return time.perf_counter() - started, list(itertools.chain(*parts))

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


def measure(
    servers: dict[str, Server], contents: list[bytes], names: list[str], options: argparse.Namespace
) -> None:
    loaded = load_run(options.run, "cpu")
    count = options.count
    cycle = itertools.cycle(names)

    def loop(photos: int) -> float:
        started = time.perf_counter()
        for name in itertools.islice(cycle, photos):
            (row,) = predict_stream(loaded, [name], batch_size=1)
            assert not row.error
        return time.perf_counter() - started

    loop(WARM_UP)
    for server in servers.values():
        server.load(contents, WARM_UP, options.clients)
    before = {side: server.megabytes() for side, server in servers.items()}
    rates: dict[str, list[float]] = {side: [] for side in [*servers, "loop"]}
    seconds: dict[str, list[float]] = {side: [] for side in servers}
    for _ in range(options.rounds):
        for side, server in servers.items():
            whole, each = server.load(contents, count, options.clients)
            rates[side].append(count / whole)
            seconds[side] += each
        rates["loop"].append(count / loop(count))
    single = statistics.median(rates["loop"])
    print(f"{len(contents)} photos of {np.mean([len(each) for each in contents]) / 1e3:.0f} KB on"
          f" average, {options.clients} clients, {options.rounds} rounds of {count}\n")  # fmt: skip
    print(f"{'':<14}{'photos/s':>10}{'to the loop':>13}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}"
          f"{'MB before':>11}{'MB after':>10}")  # fmt: skip
    for side, server in servers.items():
        p50, p95, p99 = np.percentile(seconds[side], [50, 95, 99]) * 1e3
        rate = statistics.median(rates[side])
        print(f"{side:<14}{rate:>10.1f}{rate / single:>13.2f}{p50:>8.0f}{p95:>8.0f}{p99:>8.0f}"
              f"{before[side]:>11.0f}{server.megabytes():>10.0f}")  # fmt: skip
    print(f"{'loop':<14}{single:>10.1f}{1:>13.2f}")
    print("photos/s of each round: " + "; ".join(
        f"{side} {', '.join(f'{rate:.0f}' for rate in each)}" for side, each in rates.items()
    ))  # fmt: skip
    server = servers["in batches"]
    good = contents[0]
    bad = {"no photo": b"hello", "cut off": good[: len(good) // 2], "empty": b"",
           "21 MB": bytes(21_000_000)}  # fmt: skip
    found = {}
    for what, content in bad.items():
        try:
            status, text = server.ask("POST", "/look", content)
            found[what] = f"{status} {json.loads(text)['error']!r}"
        except (ConnectionError, BrokenPipeError):  # it was refused before all of it was sent
            found[what] = "refused while it was sent"
    print("bad uploads: " + "; ".join(f"{what}: {answer}" for what, answer in found.items()))
    status, _ = server.ask("POST", "/look", good)
    print(f"a good photo after them: {status}; {server.megabytes():.0f} MB")


def made_photos(folder: Path) -> Path:
    """Smooth coloured JPEGs of 96x72."""
    rng = np.random.default_rng(0)
    for number in range(32):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        large = small.resize((96, 72), Image.Resampling.BICUBIC)
        large.save(folder / f"{number}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()

"""Memory, open files and threads of a long run: training, predict, the server, the app.

    python benchmarks/long_runs.py train [--minutes 60]
    python benchmarks/long_runs.py predict [--photos 100000]
    python benchmarks/long_runs.py serve [--minutes 60] [--pause 0.25]
    python benchmarks/long_runs.py app [--minutes 60] [--pause 1]

`train` trains a small model on made photos, with loader workers and two saved states a minute,
until the time is over, and ends it as Ctrl-C does. `predict` looks at the same 1,000 photos again
and again, by a table of names. `serve` and `app` get photos of many sizes, one after the other with
a pause between; every tenth is cut off and must be refused. Every few seconds the processes are
read from /proc (Linux): memory that is theirs alone and their share of the rest (PSS), open files,
threads. A row for each tenth of the run, medians. The first two tenths are for warming up: the exit
code is 1 if the last tenth has 5 % more memory than the third, or more than two more open files or
threads. docs/reliability.md holds the figures.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import repository  # noqa: F401  first, so that the package is found
from PIL import Image
from serving import Server

from stacked_ram.runs.folder import save_config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny import tiny_config, tiny_photos  # noqa: E402

MEMORY, FILES, THREADS = "MB", "files", "threads"
MORE = 1.05  # of memory is growth
TENTHS = 10


class Watch(threading.Thread):
    """Read a process and its children from /proc until it ends, or until `stop` is called."""

    def __init__(self, pid: int, every: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.every = pid, every
        self.samples: list[dict[str, float]] = []
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(self.every):
            sample = Counter[str]()
            for process in family(self.pid):
                try:
                    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
                    found = {
                        MEMORY: int(rollup.split("\nPss:")[1].split()[0]) / 1024,
                        FILES: len(os.listdir(f"/proc/{process}/fd")),
                        THREADS: len(os.listdir(f"/proc/{process}/task")),
                    }
                except (OSError, IndexError):  # it has just ended
                    continue
                sample.update(found)
            if sample:
                self.samples.append(sample)

    def stop(self) -> list[dict[str, float]]:
        self.over.set()
        self.join()
        return self.samples


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [
            int(child)
            for task in tasks
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in family(child))]


def train(home: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    config = tiny_config(
        tiny_photos(home / "photos", (600, 60, 60)), epochs=1_000_000, workers=2, save_every=0.5,
        retina="conv", patch_size=8, estimator="leave_one_out", rollouts=2, flip=True,
        pictures_every=50,
    )  # fmt: skip
    save_config(config, home / "config.yaml")
    command = [sys.executable, str(ROOT / "main.py"), "train", str(home / "config.yaml")]
    with open(home / "log", "w") as log:
        process = subprocess.Popen([*command, "--out", str(home / "run")], stdout=log)
        watch = Watch(process.pid, given.every)
        try:
            process.wait(60 * given.minutes)
        except subprocess.TimeoutExpired:
            samples = watch.stop()
            process.send_signal(signal.SIGINT)
            process.wait(120)
        else:
            raise SystemExit(f"the training ended: {(home / 'log').read_text()[-500:]}")
    epochs = len((home / "run" / "metrics.csv").read_text().splitlines()) - 1
    print(f"{epochs} epochs of 600 photos; ended with exit code {process.returncode}")
    return samples


def predict(home: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    names = made_photos(home / "photos")
    (home / "names.csv").write_text(
        "path\n" + "".join(f"{names[row % len(names)]}\n" for row in range(given.photos))
    )
    command = [sys.executable, str(ROOT / "main.py"), "predict", str(given.run)]
    table = home / "table.csv"
    process = subprocess.Popen(
        [*command, str(home / "names.csv"), "--out", str(table)], stderr=subprocess.DEVNULL
    )
    watch = Watch(process.pid, given.every)
    process.wait()
    rows = len(table.read_text().splitlines()) - 1
    print(f"{rows:,} rows; exit code {process.returncode}")
    return watch.stop()


def serve(home: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    photos = [Path(name).read_bytes() for name in made_photos(home / "photos")]
    server = Server(given.run, ("--batch-size", "16"))
    watch, found = Watch(server.process.pid, given.every), Counter[str]()
    end = time.monotonic() + 60 * given.minutes
    while time.monotonic() < end:
        sent = sum(found.values())
        bad = sent % 10 == 9
        content = photos[sent % len(photos)]
        status, said = server.ask("POST", "/look", content[: len(content) // 2] if bad else content)
        expected = status == (400 if bad else 200)
        found[("refused" if bad else "answered") if expected else f"FAULT {status} {said!r}"] += 1
        time.sleep(given.pause)
    samples = watch.stop()
    server.end()
    print(", ".join(f"{count:,} {what}" for what, count in found.items()))
    return samples


def app(home: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    from fault_app import App

    names = made_photos(home / "photos")
    found = Counter[str]()
    with App(given.run, home / "log") as page:
        watch, end = Watch(page.process.pid, given.every), time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            sent = sum(found.values())
            file = home / f"{sent}.jpg"
            content = Path(names[sent % len(names)]).read_bytes()
            file.write_bytes(content[: len(content) // 2] if sent % 10 == 9 else content)
            try:
                found[page.look(file)] += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                found[f"FAULT {error}"] += 1
            file.unlink()
            time.sleep(given.pause)
        samples = watch.stop()
    print(", ".join(f"{count:,} {what}" for what, count in found.items()))
    return samples


def made_photos(folder: Path) -> list[str]:
    """Write 1,000 JPEGs with sides of 30 to 300 pixels; returns their names."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    names = []
    for number in range(1000):
        small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        stream = io.BytesIO()
        width, height = rng.integers(30, 300, 2).tolist()
        small.resize((width, height), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=90)
        names.append(str(folder / f"{number}.jpg"))
        Path(names[-1]).write_bytes(stream.getvalue())
    return names


def grew(samples: list[dict[str, float]]) -> bool:
    """Print a row for each tenth of the samples; whether one of the figures grew."""
    size = max(1, len(samples) // TENTHS)
    parts = [samples[start : start + size] for start in range(0, size * TENTHS, size)]
    rows = [
        {what: statistics.median(each[what] for each in part) for what in (MEMORY, FILES, THREADS)}
        for part in parts
        if part
    ]
    print(f"{'tenth':>6}" + "".join(f"{what:>10}" for what in (MEMORY, FILES, THREADS)))
    for number, row in enumerate(rows, 1):
        print(f"{number:>6}" + "".join(f"{value:>10.0f}" for value in row.values()))
    early, last = rows[min(2, len(rows) - 1)], rows[-1]
    return last[MEMORY] > MORE * early[MEMORY] or any(
        last[what] > early[what] + 2 for what in (FILES, THREADS)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["train", "predict", "serve", "app"])
    parser.add_argument("--run", type=Path, default=ROOT / "stacked_ram/runs/demo",
                        help="the model of predict, serve and app")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between two photos")
    parser.add_argument("--every", type=float, default=5, help="seconds between two readings")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        work = {"train": train, "predict": predict, "serve": serve, "app": app}[given.what]
        samples = work(Path(home), given)
    print(f"{given.what}: {(time.monotonic() - start) / 60:.1f} minutes, {len(samples)} readings")
    return int(grew(samples))


if __name__ == "__main__":
    sys.exit(main())

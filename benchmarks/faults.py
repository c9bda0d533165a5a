"""Damage files and kill trainings at random; count what is refused in a line, and what is not.

    python benchmarks/faults.py config --cases 500 --seed 0
    python benchmarks/faults.py train --cases 20 --seed 0
    python benchmarks/faults.py predict --cases 200 --seed 0
    python benchmarks/faults.py photos --cases 10000 --seed 0

A row is one kind of file, `photos` (fault_photos.py says what it does), `train`, or another
command. A damaged file must be refused in one line that names it (UserError), or be read; anything
else, and more than LIMIT seconds, is a fault and is printed with its case. `train` kills a small
training (SIGKILL) again and again at random moments and resumes it each time: its table and weights
must be those of the undisturbed one, to the last bit. The other commands are killed and given
again: after each kill, what stands under its final name must be what the undisturbed command
writes. The exit code is 1 if there was a fault.
docs/reliability.md holds the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import repository  # noqa: F401  first, so that the package is found
import scipy.io
import torch

from stacked_ram.config.yaml import load_config
from stacked_ram.data.dataset import open_dataset
from stacked_ram.evaluation.predict import photo_names
from stacked_ram.preparation.idx import read_idx
from stacked_ram.preparation.sources.common import read_mat, whole_numbers
from stacked_ram.runs.checkpoint import load_run, restore, state_files
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny import raw_photos, tiny_config, tiny_digits, tiny_photos  # noqa: E402

LIMIT = 20  # seconds a case
OUTPUTS = ("metrics.csv", "best.safetensors", "last.safetensors")
WORDS = [b"", b"\0", b"\n", b"nan", b"-1", b"1e400", b"[", b"{", b"&a *a", b"!!int x", b"\xff\xfe",
         b"999999999999", b"2026-13-45", b"null", b"../../x", b",", b'"', b": "]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three changes: bits, words, parts lost, repeated or exchanged."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice([1, 4, 30, len(changed)]))
        kind = rng.randrange(5)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[start:end] = rng.choice(WORDS)
        elif kind == 2:
            del changed[start:end]
        elif kind == 3:
            changed[start:start] = changed[start:end]
        else:
            changed[start:start] = rng.choice(WORDS)
    return bytes(changed)


@dataclasses.dataclass
class Row:
    """A file to damage, and what reads it."""

    file: Path
    read: Callable[[], object]


def rows(home: Path) -> dict[str, Row]:
    """Every kind of file, in a small run and small data sets."""
    photos, digits = tiny_photos(home / "photos"), tiny_digits(home / "digits")
    run = home / "run"
    config = tiny_config(photos, epochs=1)
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config, run)
    state = home / "state"
    state.mkdir()
    table = home / "table.csv"
    table.write_text("path,more\n" + "".join(f"photos/{n}.jpg,text {n}\n" for n in range(9)))
    idx = home / "images.idx"
    idx.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, *range(24)]))
    mat = home / "imagelabels.mat"
    scipy.io.savemat(mat, {"labels": [[1, 2, 3, 4, 5]]}, do_compression=True)
    damaged_state = state / state_files(run)[0].name

    def read_state() -> object:
        from stacked_ram.runs.checkpoint import checksum

        content = damaged_state.read_bytes()  # under the name that suits its content
        path = state / f"state-000000001-{checksum(content)}.pt"
        path.write_bytes(content)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return restore(path.parent, lambda found: torch.tensor(found["epoch"]))
        finally:
            path.unlink()

    damaged_state.write_bytes(state_files(run)[0].read_bytes())
    both = {"photos": config.data, "digits": tiny_config(digits).data}
    return {
        "config": Row(run / "config.yaml", lambda: load_config(run / "config.yaml")),
        "weights": Row(run / "best.safetensors", lambda: load_run(run, "cpu")),
        "state": Row(damaged_state, read_state),
        "manifest": Row(photos / "manifest.csv", lambda: open_dataset(both["photos"], "train")),
        "dataset": Row(photos / "dataset.yaml", lambda: open_dataset(both["photos"], "train")),
        "digits": Row(digits / "dataset.yaml", lambda: open_dataset(both["digits"], "train")),
        "csv": Row(table, lambda: list(photo_names([str(table)]))),
        "idx": Row(idx, lambda: read_idx(idx)),
        "mat": Row(mat, lambda: whole_numbers(mat, "labels", read_mat(mat, ["labels"])["labels"])),
    }


def outcome(row: Row, content: bytes) -> str:
    """`read`, `refused`, or what went wrong with this content of the row's file."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    row.file.write_bytes(content)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            row.read()
    except UserError as error:
        return "refused" if "\n" not in str(error).strip() else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return "read"


def damage(row: Row, cases: int, seed: int) -> Counter[str]:
    """Count what becomes of the row's file with this many damages; the file is whole again after
    it. Faults are printed."""
    rng = random.Random(seed)
    whole, found = row.file.read_bytes(), Counter[str]()
    if outcome(row, whole) != "read":
        raise SystemExit(f"{row.file}: cannot be read undamaged")
    for case in range(cases):
        said = outcome(row, mutated(whole, rng))
        found[said if said in ("read", "refused") else "faults"] += 1
        if said not in ("read", "refused"):
            print(f"case {case}: {said}")
    row.file.write_bytes(whole)
    return found


def damage_photos(cases: int, seed: int, home: Path) -> Counter[str]:
    """Count what becomes of damaged photos in each way in which they are read."""
    import fault_app  # needs pyvips and Gradio, which are optional
    import fault_photos

    run = home / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(tiny_config(tiny_photos(home / "photos"), epochs=1), run)
    with fault_app.App(run, home / "log") as app:
        return fault_photos.damage_photos(range(cases), seed, home, run, app)


def kill_trainings(cases: int, seed: int, home: Path) -> Counter[str]:
    """Kill one training `cases` times, resuming it each time; then compare."""
    config = tiny_config(
        tiny_photos(home / "photos"), epochs=30, workers=1, save_every=0.0, ema_decay=0.9
    )
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config, home / "whole")
    save_config(config, home / "config.yaml")
    rng, found, run = random.Random(seed), Counter[str](), home / "killed"
    main = [sys.executable, str(ROOT / "main.py"), "train"]
    for _ in range(cases + 1):
        last = found["killed"] == cases
        fresh = not (run / "config.yaml").exists()
        given = [str(home / "config.yaml"), "--out", str(run)] if fresh else ["--resume", str(run)]
        had = set(state_files(run))
        process = subprocess.Popen([*main, *given], stdout=subprocess.DEVNULL)
        while not last and process.poll() is None and not set(state_files(run)) - had:
            time.sleep(0.001)  # each attempt saves something, so that it comes to its end
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(None if last else rng.uniform(0, 0.3))
        if process.poll() is None:
            process.kill()
            found["killed"] += 1
        if process.wait() > 0:
            found["faults"] += 1
            print(f"exit code {process.returncode}")
        if process.returncode == 0:
            break
    same = all((run / n).read_bytes() == (home / "whole" / n).read_bytes() for n in OUTPUTS)
    found["ended with the same bits" if same else "faults"] += 1
    return found


KILLED = ("prepare", "test", "predict", "export", "viz")


def command_of(name: str, home: Path, out: Path) -> list[str]:
    """Return the command, one of KILLED, that is killed and given again; it writes into `out`."""
    main, run = [sys.executable, str(ROOT / "main.py")], str(out / "run")
    photos = str(home / "photos" / "test")
    return {
        "prepare": [sys.executable, str(ROOT / "prepare_data.py"), str(home / "raw"),
                    str(out / "data"), "--valid-ratio", "0.2", "--test-ratio", "0.2"],
        "test": [*main, "test", run, "--controls"],
        "predict": [*main, "predict", run, photos, "--out", str(out / "table.csv")],
        "export": [*main, "export", run, "--no-onnx"],
        "viz": [sys.executable, str(ROOT / "viz.py"), run, "--limit", "2"],
    }[name]  # fmt: skip


def written(folder: Path) -> dict[str, bytes]:
    """The files under a folder that have their final names, without the time of writing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            with contextlib.suppress(ValueError):  # half of a file is compared as it is
                values = json.loads(content)
                content = json.dumps({k: v for k, v in values.items() if k != "when"}).encode()
        found[str(name)] = content
    return found


def kill_command(name: str, cases: int, seed: int, home: Path) -> Counter[str]:
    """Kill a command at random moments, give it again and again; compare what it leaves."""
    out, rng, found = home / "out", random.Random(seed), Counter[str]()
    raw_photos(home / "raw")
    config = tiny_config(tiny_photos(home / "photos"), epochs=1)
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config, home / "new" / "run")

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(home / "new", out)

    fresh()
    command = command_of(name, home, out)
    before, silent = written(out), dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start = time.monotonic()
    subprocess.run(command, check=True, **silent)
    seconds, whole = time.monotonic() - start, written(out)
    fresh()
    while found["killed"] < cases:
        process = subprocess.Popen(command, start_new_session=True, **silent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, seconds))
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
        found["ended first" if ended else "killed"] += 1
        wrong = [
            file
            for file, content in written(out).items()
            if content not in (whole.get(file), before.get(file))
        ]
        if wrong or (ended and process.returncode != 0):
            found["faults"] += 1
            print(f"case {found['killed']}: exit {process.returncode}; not whole: {wrong}")
            fresh()
        elif ended:
            fresh()
    subprocess.run(command, check=True, **silent)
    found["ended with the same files" if written(out) == whole else "faults"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help="config, weights, state, manifest, dataset, digits, csv, idx,"
                        " mat; photos; train; prepare, test, predict, export or viz")  # fmt: skip
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        if given.row == "train":
            found = kill_trainings(given.cases, given.seed, Path(home))
        elif given.row == "photos":
            found = damage_photos(given.cases, given.seed, Path(home))
        elif given.row in KILLED:
            found = kill_command(given.row, given.cases, given.seed, Path(home))
        else:
            found = damage(rows(Path(home))[given.row], given.cases, given.seed)
    counts = ", ".join(f"{count} {what}" for what, count in found.items() if what != "faults")
    print(
        f"{given.row}, seed {given.seed}: {given.cases} cases; {counts}; {found['faults']} faults"
    )
    return int(found["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())

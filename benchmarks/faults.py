"""Damage files and kill trainings at random; count what is refused in a line, and what is not.

    python benchmarks/faults.py config --cases 500 --seed 0
    python benchmarks/faults.py train --cases 20 --seed 0
    python benchmarks/faults.py predict --cases 200 --seed 0
    python benchmarks/faults.py photos --cases 10000 --seed 0

A row is one kind of file, `photos` (fault_photos.py says what it does), a command, which is killed
(fault_kills.py says how), or `disturb` (fault_disturb.py: signals, a full disk, folders that are
moved away). A damaged file must be refused in one line that names it
(UserError), or be read; anything else, and more than LIMIT seconds, is a fault and is printed with
its case. The exit code is 1 if there was a fault. docs/reliability.md holds the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fault_disturb
import fault_kills
import repository  # noqa: F401  first, so that the package is found
import scipy.io
import torch

from stacked_ram.config.yaml import load_config
from stacked_ram.data.dataset import open_dataset
from stacked_ram.evaluation.predict import photo_names
from stacked_ram.preparation.idx import read_idx
from stacked_ram.preparation.sources.common import read_mat, whole_numbers
from stacked_ram.runs.checkpoint import load_run, restore, state_files
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.run import train_run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny import tiny_config, tiny_digits, tiny_photos  # noqa: E402

LIMIT = 20  # seconds a case
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "row",
        help="config, weights, state, manifest, dataset, digits, csv, idx, mat; photos; disturb; "
        + ", ".join(fault_kills.KILLED),
    )
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        if given.row in fault_kills.KILLED:
            found = fault_kills.kill(given.row, given.cases, given.seed, Path(home))
        elif given.row == "disturb":
            found = fault_disturb.disturb(given.cases, given.seed, Path(home))
        elif given.row == "photos":
            found = damage_photos(given.cases, given.seed, Path(home))
        else:
            found = damage(rows(Path(home))[given.row], given.cases, given.seed)
    counts = ", ".join(f"{count} {what}" for what, count in found.items() if what != "faults")
    print(
        f"{given.row}, seed {given.seed}: {given.cases} cases; {counts}; {found['faults']} faults"
    )
    return int(found["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Disturb trainings otherwise than by SIGKILL: for benchmarks/faults.py.

A training of fault_kills.TRAININGS is met at a random moment by one of KINDS: a signal, once or
twice; a killed loader worker; a full disk; a run folder or a data set that is moved away. It must
end with the exit code that the manual gives, without a traceback, and say in a line what was wrong.
Then the disk has room again, the data set is back, and the training is resumed: its table and
weights must be those of the undisturbed one, to the last bit. Needs the right to mount (Linux,
root).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fault_kills import TRAININGS, Run, import_libraries, same_results, save_training, undisturbed
from tiny import tiny_digits, tiny_photos

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
KINDS = (*SIGNALS, "SIGINT twice", "worker killed", "disk full", "run gone", "data gone")
SPACE = 24  # MB, of the disk that gets full


def disturb(cases: int, seed: int, home: Path) -> Counter[str]:
    """Disturb so many trainings; count how they ended. Faults are printed."""
    import_libraries()
    photos, digits = tiny_photos(home / "photos"), tiny_digits(home / "digits", (24, 9, 9))
    rng, found, wholes = random.Random(seed), Counter[str](), dict[str, float]()
    titles = list(TRAININGS)
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPACE}m", "tmpfs", disk], check=True)
    try:
        for case in range(cases):
            kind, title = KINDS[case % len(KINDS)], rng.choice(titles)
            if kind == "worker killed":
                title = rng.choice([each for each in titles if TRAININGS[each].get("workers")])
            data = digits if title == "digits" else photos
            config = home / f"{titles.index(title)}.yaml"
            whole = home / f"whole-{titles.index(title)}"
            if title not in wholes:
                save_training(title, photos, digits, config)
                wholes[title] = undisturbed("main", "train", config, "--out", whole)
            shutil.rmtree(disk / "run", ignore_errors=True)
            process = Run("main", "train", config, "--out", disk / "run")
            process.wait(until=(disk / "run" / "config.yaml").exists)
            process.wait(rng.uniform(0, 0.7 * wholes[title]))
            wrong = meet(process, kind, disk, data, rng)
            if not wrong and kind != "run gone":
                wrong = finished(disk / "run", whole)
                wrong += wrong and f"; before, exit code {process.code}: {process.text()[-1500:]}"
            found["faults" if wrong else f"{kind}: right"] += 1
            if wrong:
                print(f"case {case}, {kind}, {title}: {wrong}", flush=True)
    finally:
        subprocess.run(["umount", disk], check=True)
    return found


def meet(process: Run, kind: str, disk: Path, data: Path, rng: random.Random) -> str:
    """Disturb a training and undo what was done; returns what is wrong with how it ended, or ""."""
    expected = {0, 1, 2}
    away = disk.parent / "away"
    shutil.rmtree(away, ignore_errors=True)
    if kind in SIGNALS:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, getattr(signal, kind))  # as a terminal does
        # before the training begins a signal ends the process, as it does any
        expected = {0, SIGNALS[kind], -getattr(signal, kind)}
    elif kind == "SIGINT twice":
        for pause in (rng.uniform(0, 0.3), 0):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(pause)
        expected = {0, 130, -signal.SIGINT}
    elif kind == "worker killed":
        workers = children(process.pid)
        if workers:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
        expected = {0, 1}
    elif kind == "disk full":
        with suppress(OSError), open(disk / "filler", "wb") as filler:
            while True:
                filler.write(bytes(100_000))
                filler.flush()
    elif kind == "run gone":
        (disk / "run").rename(disk / "moved")
    else:
        data.rename(away)
    process.wait(60)
    if kind == "run gone":
        shutil.rmtree(disk / "moved", ignore_errors=True)
    (disk / "filler").unlink(missing_ok=True)
    if away.exists():
        away.rename(data)
    if process.kill():
        return "it went on for a minute"
    text = process.text()
    if process.code not in expected or "Traceback" in text:
        return f"exit code {process.code}: {text[-1500:]}"
    if kind == "worker killed" and process.code == 1 and "--resume" not in text:
        return f"no hint at --resume: {text[-500:]}"
    return ""


def finished(run: Path, whole: Path) -> str:
    """Resume a training to its end; returns what is wrong with its results, or ""."""
    fresh = not (run / "config.yaml").exists()
    given = [whole.parent / f"{whole.name.split('-')[1]}.yaml", "--out", run]
    process = Run("main", "train", *(given if fresh else ["--resume", run])).wait(120)
    if process.kill() or process.code:
        return f"resumed, exit code {process.code}: {process.text()[-1500:]}"
    return "" if same_results(run, whole) else "other bits"


def children(pid: int) -> list[int]:
    time.sleep(0.01)
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []

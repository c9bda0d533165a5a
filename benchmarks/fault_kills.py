"""Kill commands at random moments and give them again: for benchmarks/faults.py.

A command runs in a process forked from this one, in which the libraries are imported already, so
that a kill meets the command's own work and not the import of PyTorch. SIGKILL goes to it and to
all its workers. What must hold:

- `train`: each of TRAININGS is killed and resumed until it ends. Its table and its weights are then
  those of the undisturbed training, to the last bit.
- `tune`: after a kill the same command goes on. In the end the study has as many finished trials as
  were asked for, none of them said to be running, and its files can be read.
- `prepare`, `test`, `predict`, `export`, `viz`: after each kill, what stands under a final name is
  what was there before or what the undisturbed command writes. In the end all files are those of
  the undisturbed command (of JSON files, but for the time of writing).
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import repository  # noqa: F401  first, so that the package is found

from stacked_ram.config.yaml import load_config
from stacked_ram.runs.checkpoint import state_files
from stacked_ram.runs.folder import save_config
from stacked_ram.training.tune import STUDY

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tiny import raw_photos, tiny_config, tiny_digits, tiny_photos

KILLED = ("train", "tune", "prepare", "test", "predict", "export", "viz")
LIBRARIES = ("main", "train", "tune", "prepare", "test", "predict", "export", "viz")  # of cli
MORE_LIBRARIES = (
    "stacked_ram.training.run", "stacked_ram.viz.draw", "stacked_ram.models.build", "numba", "timm",
    "albumentations", "sklearn.metrics", "optuna.visualization.matplotlib", "torch._dynamo",
    "torch.utils.tensorboard", "pandas", "alembic.command",
)  # fmt: skip
RESULTS = ("metrics.csv", "best.safetensors", "last.safetensors")
GLANCE = dict(retina="backbone", backbone="test_efficientnet", patch_size=32, glance=(64, 64))
FROZEN = GLANCE | dict(policy="categorical", regions=(2, 2), freeze_backbone=True)
TRAININGS: dict[str, dict[str, object]] = {
    "averaged weights, accumulation, dropout": dict(
        ema_decay=0.9, accumulation_steps=2, dropout=0.3
    ),
    "conv retina, two loader workers": dict(
        retina="conv", patch_size=8, estimator="leave_one_out", rollouts=2, workers=2
    ),
    "stack of dense retinas": dict(num_levels=2, stack="rnn"),
    "stack of conv retinas": dict(
        num_levels=2, stack="conv", retina="conv", patch_size=8, workers=2
    ),
    "PPO": dict(estimator="ppo", rollouts=2, ppo_epochs=2),
    "PPO with cells and a glance": GLANCE
    | dict(estimator="ppo", rollouts=2, policy="categorical", regions=(2, 2)),
    "self-critical": dict(estimator="self_critical", ema_decay=0.9),
    "pathwise": dict(estimator="pathwise", snap=False),
    "soft attention": GLANCE | dict(attention="soft", regions=(2, 2)),
    "drop in loss, learned stop": dict(
        reward="drop", estimator="leave_one_out", rollouts=2, learned_stop=True, glimpse_cost=0.1
    ),
    "zoom and inhibition": dict(policy="categorical", regions=(3, 3), num_zooms=2, inhibition=1),
    "frozen backbone, glances in memory": FROZEN | dict(cache="memory"),
    "frozen backbone, glances on disk": FROZEN | dict(cache="disk", workers=2),
    "frozen backbone, no cache": FROZEN,
    "backbone thawed later": GLANCE | dict(pretrain_epochs=1),
    "photos in memory": dict(cache="memory", photo_size=(16, 16)),
    "photos on disk": dict(cache="disk", photo_size=(16, 16), workers=2),
    "augmentation, two loader workers": dict(
        flip=True, rotate=20.0, crop_area=(0.5, 1.0), workers=2
    ),
    "plateau and patience": dict(schedule="plateau", patience=2, optimizer="sgd"),
    "transformer core, weights by class": dict(core="transformer", class_weights=True),
    "digits": dict(shift=1, core="gru", balanced_sampler=True),
}  # fmt: skip


def kill(name: str, cases: int, seed: int, home: Path) -> Counter[str]:
    """Kill a command `cases` times at random moments; count how it went. Faults are printed."""
    import_libraries()
    rng = random.Random(seed)
    if name == "train":
        return kill_trainings(cases, rng, home)
    if name == "tune":
        return kill_search(cases, rng, home)
    return kill_command(name, cases, rng, home)


def import_libraries() -> None:
    for library in LIBRARIES:
        importlib.import_module(f"stacked_ram.cli.{library}")
    for library in MORE_LIBRARIES:
        importlib.import_module(library)


class Run:
    """A command of the toolkit in a process, and a session, of its own; what it says is kept."""

    def __init__(self, entry: str, *arguments: object) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the run is of interest
        self.code: int | None = None  # minus the signal, if it was killed
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                for stream in (1, 2):
                    os.dup2(self.said.fileno(), stream)
                sys.argv = [entry, *map(str, arguments)]
                code = importlib.import_module(f"stacked_ram.cli.{entry}").main() or 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float = 1e9, until: Callable[[], bool] = lambda: False) -> Run:
        """Wait so long, or until it has ended, or until something else holds."""
        end = time.monotonic() + seconds
        while not self.ended() and not until() and time.monotonic() < end:
            time.sleep(0.001)
        return self

    def text(self) -> str:
        self.said.seek(0)
        return self.said.read().strip()

    def last_line(self) -> str:
        return (self.text().splitlines() or [""])[-1]

    def kill(self) -> bool:
        """Kill it and its workers; whether it was still there."""
        alive = not self.ended()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        return alive


def undisturbed(entry: str, *arguments: object) -> float:
    """Run a command to its end; returns the seconds."""
    start = time.monotonic()
    run = Run(entry, *arguments).wait()
    if run.code:
        raise SystemExit(f"undisturbed, exit code {run.code}: {run.last_line()}")
    return time.monotonic() - start


def kill_trainings(cases: int, rng: random.Random, home: Path) -> Counter[str]:
    """Kill and resume each training in turn until so many were killed; compare what they end with.

    Every second attempt is killed after it saved something, so that the training comes to its end;
    the others at any moment of it.
    """
    photos, digits = tiny_photos(home / "photos"), tiny_digits(home / "digits", (24, 9, 9))
    found: Counter[str] = Counter()
    names = list(TRAININGS)
    for number, title in enumerate(names):
        whole, run = home / f"whole-{number}", home / f"killed-{number}"
        save_training(title, photos, digits, home / "config.yaml")
        seconds = undisturbed("main", "train", home / "config.yaml", "--out", whole)
        due = cases * (number + 1) // len(names)
        while found["killed"] < due:
            shutil.rmtree(run, ignore_errors=True)
            if not kill_training(home / "config.yaml", run, due, seconds, rng, found):
                continue
            if same_results(run, whole):
                found["trainings ended with the same bits"] += 1
            else:
                found["faults"] += 1
                print(f"{title}: other bits", flush=True)
    return found


def save_training(title: str, photos: Path, digits: Path, file: Path) -> None:
    """Write the configuration of one of TRAININGS, which saves its state after every step."""
    data = digits if title == "digits" else photos
    settings = dict(epochs=4, save_every=0.0) | TRAININGS[title]
    save_config(tiny_config(data, **settings), file)


def same_results(run: Path, other: Path) -> bool:
    """Whether two trainings have the same table and weights, to the last bit."""
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def kill_training(
    config: Path, run: Path, due: int, seconds: float, rng: random.Random, found: Counter[str]
) -> bool:
    """Start a training, kill it and resume it until it ends; whether it ended well."""
    for attempt in itertools.count():
        fresh = not (run / "config.yaml").exists()
        given = [config, "--out", run] if fresh else ["--resume", run]
        had = set(state_files(run))
        process = Run("main", "train", *given)
        if found["killed"] < due:
            if attempt % 2:
                process.wait(until=lambda had=had: bool(set(state_files(run)) - had))
                process.wait(rng.uniform(0, 0.1 * seconds))
            else:
                process.wait(rng.uniform(0, seconds))
            found["killed"] += process.kill()
        process.wait()
        if process.code == 0:
            return True
        if process.code != -signal.SIGKILL:
            found["faults"] += 1
            print(f"exit code {process.code}: {process.last_line()}", flush=True)
            return False


def kill_search(cases: int, rng: random.Random, home: Path) -> Counter[str]:
    """Kill a search and give it again, until so many were killed and the last one ended."""
    import optuna

    found: Counter[str] = Counter()
    trials = 4
    save_config(tiny_config(tiny_digits(home / "digits", (24, 9, 9)), epochs=1), home / "tune.yaml")

    def command(study: Path) -> list[object]:
        search = ["--search", "learning_rate=1e-4:1e-1:log", "std=0.05:0.5"]
        return ["tune", home / "tune.yaml", "--out", study, "--trials", trials, *search]

    seconds = undisturbed("main", *command(home / "whole"))
    while found["killed"] < cases:
        study = home / f"study-{found['killed']}"
        code: int | None = None
        while code is None or code == -signal.SIGKILL:
            process = Run("main", *command(study))
            if found["killed"] < cases:
                process.wait(rng.uniform(0, seconds))
                found["killed"] += process.kill()
            code, said = process.wait().code, process.last_line()
        storage = f"sqlite:///{study / 'study.db'}"
        kinds = Counter(
            trial.state.name
            for trial in optuna.load_study(study_name=STUDY, storage=storage).get_trials()
        )
        finished = kinds["COMPLETE"] + kinds["PRUNED"]
        load_config(study / "best.yaml")
        rows = len((study / "trials.csv").read_text().splitlines()) - 1
        if code or finished != trials or kinds["RUNNING"] or rows < trials:
            found["faults"] += 1
            print(f"exit code {code}: {said}; {dict(kinds)}, {rows} rows", flush=True)
        else:
            found["searches ended whole"] += 1
        shutil.rmtree(study)
    return found


def kill_command(name: str, cases: int, rng: random.Random, home: Path) -> Counter[str]:
    """Kill a command at random moments and give it again and again; compare what it leaves."""
    out, found = home / "out", Counter[str]()
    raw_photos(home / "raw")
    save_config(tiny_config(tiny_photos(home / "photos"), epochs=1), home / "config.yaml")
    undisturbed("main", "train", home / "config.yaml", "--out", home / "new" / "run")
    command: tuple[object, ...] = {
        "prepare": ("prepare", home / "raw", out / "data", "--valid-ratio", 0.2,
                    "--test-ratio", 0.2),
        "test": ("main", "test", out / "run", "--controls"),
        "predict": ("main", "predict", out / "run", home / "photos" / "test", "--out",
                    out / "table.csv"),
        "export": ("main", "export", out / "run", "--no-onnx"),
        "viz": ("viz", out / "run", "--limit", 2),
    }[name]  # fmt: skip

    def anew() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(home / "new", out)

    anew()
    before = written(out)
    seconds, whole = undisturbed(*command), written(out)
    anew()
    while found["killed"] < cases:
        process = Run(*command).wait(rng.uniform(0, seconds))
        killed = process.kill()
        found["killed" if killed else "ended first"] += 1
        wrong = [
            file
            for file, content in written(out).items()
            if content not in (whole.get(file), before.get(file))
        ]
        if wrong or (not killed and process.code):
            found["faults"] += 1
            print(f"exit code {process.code}: {process.last_line()}; not whole: {wrong}")
        if wrong or not killed:
            anew()
    undisturbed(*command)
    found["ended with the same files" if written(out) == whole else "faults"] += 1
    return found


def written(folder: Path) -> dict[str, bytes]:
    """The files under a folder that have their final names, without the time of writing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            with suppress(ValueError):  # half of a file is compared as it is
                values = json.loads(content)
                content = json.dumps({k: v for k, v in values.items() if k != "when"}).encode()
        found[str(name)] = content
    return found

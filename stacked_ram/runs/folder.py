"""The run folder: the files of one run.

RUN/config.yaml        the resolved configuration
RUN/run.json           command, git revision, versions, machine, seed; every start and resume
RUN/metrics.csv        one row per epoch (no times: the same seed gives the same file)
RUN/log.txt            the printed lines, with date and time
RUN/tensorboard/       the metrics and more, as curves
RUN/best.safetensors   weights of the best epoch; last.safetensors: of the last one
RUN/state-*.pt         the training states for --resume; the last two are kept
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import dump_yaml, load_config, to_dict
from stacked_ram.runtime.errors import NotWritten, UserError, discard_output
from stacked_ram.runtime.program import program
from stacked_ram.runtime.version import __version__

RESULTS = Path("results")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "albumentations", "safetensors")
BEST_BY = ("valid_accuracy", "valid_mAP")  # columns of metrics.csv
OURS = (
    "config.yaml", "run.json", "metrics.csv", "log.txt", "best.safetensors", "last.safetensors"
)  # fmt: skip
STATES = "state-*.pt"
# what a write that was killed leaves of these
LEFT = re.compile(rf"\.({'|'.join(map(re.escape, OURS))}|state-.*\.pt)\.\d+\.tmp")
# files that `test` writes: these follow the name of the split
TESTED = (
    ".json", "_per_class.csv", "_confusion.csv", "_confusion.png", "_photos.csv", "_early_exit.csv",
    "_reliability.png",
)  # fmt: skip


def default_folder(preset: str | Path | None, config: Config) -> Path:
    """Return the default run folder: results/ and the name of the preset or YAML file, or, without
    one or on another data set than its own, the name of the data set."""
    if preset is not None and load_config(preset).data.dataset == config.data.dataset:
        return RESULTS / Path(preset).stem
    return RESULTS / Path(config.data.dataset).resolve().name


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none: under a temporary name, flushed to disk, then renamed.

    Raises NotWritten, which names the file, if that fails; an earlier file then stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise NotWritten(f"{path}: cannot be written ({error.strerror})") from None


def check_folder(path: Path) -> None:
    """Raise UserError if this folder cannot be made or written to."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file; choose another folder with --out")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{nearest}: cannot be written; choose another folder with --out")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV; the columns are all their keys, in the order of first use."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def metric_column(metric: str, columns: Collection[str]) -> str:
    """The column of metrics.csv by which the best epoch is chosen; where it has mAP, as with
    several labels, that stands in for the accuracy."""
    if metric == "accuracy" and "valid_mAP" in columns:
        return "valid_mAP"
    return f"valid_{metric}"


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML that `load_config` reads."""
    write_atomically(path, dump_yaml(to_dict(config)).encode())


_LOCKED: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def lock_file(path: Path, wait: bool = False) -> IO[str]:
    """Lock a file until it is closed or this process ends, whatever becomes of its children.

    wait: until another process has released it. Raises BlockingIOError otherwise.
    """
    file = open(path, "w")  # noqa: SIM115 (kept open on purpose)
    _LOCKED.add(file)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except ImportError:  # Windows has no such lock
        pass
    except BlockingIOError:
        file.close()
        raise
    return file


def _close_locks() -> None:
    """Close the copies of a forked process (of a loader): they would hold the locks of a parent
    that was killed."""
    for file in list(_LOCKED):
        file.close()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_close_locks)


class RunFolder:
    """The folder of one run. `start` and `go_on` lock it until `close`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None
        self._echo: Callable[[str], None] = print

    def check_free(self, overwrite: bool = False) -> None:
        """Raise UserError if the folder holds a run already, unless `overwrite`."""
        check_folder(self.path)
        if (self.path / "dataset.yaml").exists():
            raise UserError(f"{self.path}: is a data set; choose another folder with --out")
        self._check_tensorboard()
        taken = [name for name in OURS if (self.path / name).exists()]
        taken += [state.name for state in self.path.glob(STATES)]
        if taken and not overwrite:
            raise UserError(
                f"{self.path}: holds a run already ({taken[0]}); go on with `{program()} train"
                f" --resume {self.path}`, start it anew with --overwrite, or choose another --out"
            )

    def start(self, config: Config, overwrite: bool = False) -> None:
        """Start a new run. Raises UserError as `check_free` does."""
        self.check_free(overwrite)
        self._take()
        self._clear()
        self.save_config(config)
        self._note_start(config.training.seed, "started")

    def go_on(self) -> None:
        """Continue the run that is in the folder."""
        config = self.config()
        self._check_tensorboard()
        self._take()
        self._note_start(config.training.seed, "resumed")

    def config(self) -> Config:
        if not (self.path / "config.yaml").is_file():
            raise UserError(f"{self.path}: is not a run (no config.yaml in it)")
        return load_config(self.path / "config.yaml")

    def save_config(self, config: Config) -> None:
        save_config(config, self.path / "config.yaml")

    def echo_through(self, write: Callable[[str], None]) -> None:
        """Set the function by which `log` prints; a progress bar needs its own."""
        self._echo = write

    def log(self, text: str) -> None:
        """Add a line to log.txt with date and time, and print it."""
        stamp = f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M:%S}"
        # A line of the log does not end a run; a full disk is reported when weights are saved.
        with suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")
        try:
            self._echo(text)
            sys.stdout.flush()
        except OSError:  # the terminal, or the reader (`| head`), has gone; the work goes on
            discard_output()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _check_tensorboard(self) -> None:
        """Raise UserError where no curves could be written."""
        place = self.path / "tensorboard"
        if place.exists() and not place.is_dir():
            raise UserError(f"{place}: is a file, where the folder of the curves goes; move it")

    def _take(self) -> None:
        """Lock the folder until `close` or the end of the process, and sweep it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(self.path / ".lock")
            for path in self.path.glob(".*.tmp"):
                if LEFT.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is training this run") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _clear(self) -> None:
        """Remove the files of an earlier run, and no others.

        The states go first, then the config: what is left when this is killed cannot be resumed,
        and is still known as a run until all of it is gone.
        """
        for state in self.path.glob(STATES):
            state.unlink()
        if not any((self.path / name).exists() for name in OURS):
            return
        config, *others = OURS
        tested = [split + name for split in ("train", "valid", "test") for name in TESTED]
        for name in (config, *tested):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        for name in others:
            (self.path / name).unlink(missing_ok=True)

    def _note_start(self, seed: int, what: str) -> None:
        """Add this start to run.json."""
        path = self.path / "run.json"
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
            starts = [*notes.setdefault("starts", [])]
        except (OSError, ValueError, RecursionError, AttributeError, TypeError):  # it was changed
            notes, starts = {}, []
        start = {what: now(), "command": command_line(), **environment()}
        notes = {"seed": seed, **notes, "starts": [*starts, start]}
        write_atomically(path, (json.dumps(notes, indent=2) + "\n").encode())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Describe the code's revision, the versions of packages, and the machine."""
    versions = {"python": platform.python_version(), "stacked_ram": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "none"
    return {
        "git": git_revision(),
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores of"
        f" {processor()}, GPU {gpu}",
    }


def git_revision() -> str:
    """Return the code's revision, with `+changes` if files differ from it; `none` outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "none"


def processor() -> str:
    """Return the processor's name, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "an unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

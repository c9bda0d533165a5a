"""The command line: `main.py COMMAND ...`, parsed by tyro from the dataclasses below.

Nothing heavy is imported here: `--help` answers at once. Each command's work is in the room that
is named for it, imported when the command runs.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from stacked_ram import __version__
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import RENAMED, RENAMED_VALUES, load_config
from stacked_ram.runtime.errors import UserError, nearest, run_entry_point
from stacked_ram.runtime.program import program

Fields = Annotated[Config, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model as a configuration says. Any field of it can be set by its own flag.

    Several processes: torchrun --nproc-per-node N main.py train CONFIG.
    """

    config: Positional[Path | None] = None
    """Preset (flowers17_lite0) or YAML file of the experiment (with --resume: not needed)."""
    resume: Path | None = None
    """Go on with this run, from its last checkpoint; its own configuration holds."""
    out: Path | None = None
    """Run folder. Default: results/ and the config's name."""
    overwrite: bool = False
    """Start anew where the run folder holds a run already."""
    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, into OUT-seed0 and so on, and compare."""
    profile: bool = False
    """Trace the first batches for TensorBoard."""
    find_learning_rate: bool = False
    """Do not train: try learning rates on a rising ramp and draw the loss over them."""
    fields: Fields = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Test:
    """Measure trained models on a split they were not trained on."""

    runs: Positional[tuple[Path, ...]]
    """Run folders (or files of weights). Of several, the mean and deviation are shown too."""
    split: Literal["test", "valid", "train"] = "test"
    """Which split."""
    controls: bool = False
    """Also look at the centre only, at random places, once only, and with the plain backbone:
    what the policy must beat. And at the object's box, where it is known: what places can win."""
    mc_samples: int = 0
    """Also average the beliefs of this many sampled scan paths a photo, reported apart."""
    crops: Literal[1, 5, 10] = 1
    """Also average the beliefs of this many crops a photo, reported apart: 5, the corners and the
    centre, each 7/8 as high and wide as the photo; 10, and the same mirrored."""
    exit_accuracy: float | None = None
    """Also look at each photo no longer than needed for this accuracy (0 to 1): the threshold of
    belief is chosen on the validation split, and the whole curve written."""
    exit_glimpses: float | None = None
    """The same for a wanted mean number of glimpses (below 1 where the glance can be enough)."""
    stop_at: float | None = None
    """The same with a threshold that was chosen before: that of a run which was trained on train
    alone, for one that has learned the validation split too."""
    out: Path | None = None
    """Folder for test.json and its tables. Default: the run's."""
    dataset: Path | None = None
    """Another prepared data set with the same classes. Default: the run's."""
    batch_size: int | None = None
    """Photos in a batch. Default: the run's."""
    limit_photos: int | None = None
    """Use at most this many photos."""
    workers: int | None = None
    """Processes that read photos. Default: the run's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name what is on photos, and where the model looked, as a table.

    Photos are read and written one after the other: their number is not limited by memory. A
    photo that cannot be read is a row with its error. Under torchrun the photos are shared out.
    """

    run: Positional[Path]
    """Run folder or file of weights."""
    photos: Positional[tuple[str, ...]]
    """Files, folders, globs, CSV files with a column `path`, or - (one name a line on stdin)."""
    out: Path | None = None
    """Table to write: .csv or .jsonl. Default: CSV on stdout."""
    top: int = 5
    """Classes named for each photo."""
    stop_at: float | None = None
    """Look at a photo no more once its belief in one class is at least this (also after the
    glance, where there is one)."""
    stop_by: Literal["belief", "stop"] = "belief"
    """What --stop-at is compared with: the belief, or what the stopping head says (a model trained
    with learned_stop)."""
    batch_size: int = 32
    """Photos in a batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Search fields of a configuration for the best validation metric (Bayesian, with Optuna).

    A study that exists goes on; several processes may work on one at the same time.
    """

    config: Positional[Path | None] = None
    """Preset or YAML file of the experiment."""
    search: tuple[str, ...] = ("std=0.03:0.5:log", "learning_rate=1e-4:1e-2:log")
    """Fields and their ranges: FIELD=LOW:HIGH, FIELD=LOW:HIGH:log, or FIELD=A,B,C for choices.
    `lr` is short for learning_rate."""
    trials: int = 30
    """Trials of the study in all, earlier ones included."""
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    """Tree-structured Parzen estimator, Gaussian process, or chance."""
    prune: bool = True
    """End trials early that are worse than the median of the others."""
    out: Path | None = None
    """Study folder. Default: results/, the config's name and -study."""
    storage: str | None = None
    """Database URL of the study (PostgreSQL, MySQL). Default: SQLite in the study folder."""
    fields: Fields = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model's deterministic pass as a program that runs without this code."""

    run: Positional[Path]
    """Run folder or file of weights."""
    out: Path | None = None
    """Folder for the program and its card. Default: RUN/export."""
    size: tuple[int, int] | None = None
    """Height and width of the photos it takes. Default: those that the model was trained on."""
    batch_size: int = 1
    """Photos that it takes at once."""
    onnx: bool = False
    """Also write ONNX (needs the packages onnx and onnxscript)."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Prepare a small data set of digits on photographs, train on it, test, draw what was seen."""

    out: Path | None = None
    """Run folder. Default: results/demo."""
    quick: bool = False
    """A short run that only shows that everything works."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a run or a configuration: layers, parameters, GMACs."""

    what: Positional[Path]
    """Run folder, file of weights, YAML file, or preset."""
    size: tuple[int, int] | None = None
    """Height and width of the photo that GMACs are counted on. Default: the data set's."""


# Each command: its options, and the room and function that do it.
COMMANDS = {
    "train": (Train, "cli.train:train"),
    "test": (Test, "evaluation.report:test"),
    "predict": (Predict, "evaluation.predict:predict"),
    "tune": (Tune, "cli.tune:tune"),
    "export": (Export, "runs.export:export"),
    "demo": (Demo, "cli.demo:demo"),
    "info": (Info, "cli.info:info"),
}


def main(arguments: list[str] | None = None) -> int:
    return run_entry_point(lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int | None:
    """Parse one command and do it. Raises UserError, and SystemExit (help, misuse, signals)."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command `{name}`{nearest(name, COMMANDS)}")
    options = parse(name, rest)
    room, function = COMMANDS[name][1].split(":")
    return getattr(importlib.import_module(f"stacked_ram.{room}"), function)(options)


def overview() -> str:
    """What `--help` prints: the commands, a line each."""
    lines = [f"usage: {program()} COMMAND [options]", ""]
    for name, (kind, _) in COMMANDS.items():
        lines.append(f"  {name:8} {kind.__doc__.splitlines()[0]}")
    lines += ["", f"`{program()} COMMAND --help` lists a command's options."]
    return "\n".join(lines)


def parse(name: str, arguments: list[str]) -> Any:
    """The options of a command. Those with a configuration start from its YAML, so that `--help`
    shows the YAML's values."""
    kind = COMMANDS[name][0]
    if kind in (Train, Tune):
        arguments = with_new_flags(arguments)

    def parsed(**default: Any) -> Any:
        return tyro.cli(
            kind, prog=f"{program()} {name}", args=arguments, config=(OmitArgPrefixes,), **default
        )

    if kind not in (Train, Tune):
        return parsed()
    source = configuration(arguments)
    options = parsed(default=kind(fields=load_config(source))) if source else parsed()
    if options.config is not None and options.config != Path(source or ""):
        # It was not told from a flag's value; the flags are read again, over its values.
        options = parsed(default=kind(fields=load_config(options.config)))
    return options


def with_new_flags(arguments: list[str]) -> list[str]:
    """The arguments with the flags of earlier versions as they are called now, each noted."""
    result: list[str] = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        sign = "--no-" if flag.startswith("--no-") else "--"
        name = flag.removeprefix(sign).replace("-", "_") if flag.startswith("--") else ""
        after = "".join(arguments[place + 1 : place + 2])
        if name in RENAMED:
            new = [sign + RENAMED[name].replace("_", "-") + equals + value]
        elif name in RENAMED_VALUES and value in RENAMED_VALUES[name]:
            new = [f"{flag}={RENAMED_VALUES[name][value]}"]
        elif result and argument in RENAMED_VALUES.get(result[-1][2:].replace("-", "_"), {}):
            new = [RENAMED_VALUES[result[-1][2:].replace("-", "_")][argument]]
        elif name == "channels_last" and not equals and after not in ("True", "False", "auto"):
            new = ["--channels-last", str(sign == "--")]  # it was a switch without a value
        else:
            new = [argument]
        if new != [argument]:
            print(f"note: {argument} is now {' '.join(new)}", file=sys.stderr)
        result += new
    return result


def configuration(arguments: list[str]) -> str | None:
    """The configuration that a command line starts from: that of the run to be resumed, or the
    first argument, or the first one that is a YAML file."""
    for place, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--resume":
            run_folder = value or "".join(arguments[place + 1 : place + 2])
            if not (Path(run_folder) / "config.yaml").is_file():
                raise UserError(f"{run_folder}: is not a run (no config.yaml in it)")
            return str(Path(run_folder) / "config.yaml")
    for place, argument in enumerate(arguments):
        is_yaml = argument.endswith((".yaml", ".yml"))
        if not argument.startswith("-") and (is_yaml or place == 0):
            return argument
    return None

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

from stacked_ram.cli.export import Export
from stacked_ram.cli.info import Info
from stacked_ram.cli.predict import Predict
from stacked_ram.cli.serve import Serve
from stacked_ram.cli.test import Test
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import RENAMED, RENAMED_VALUES, load_config
from stacked_ram.data.dataset_info import read_dataset_info
from stacked_ram.data.remote import dataset_folder
from stacked_ram.runtime.errors import UserError, nearest, run_entry_point
from stacked_ram.runtime.program import program
from stacked_ram.runtime.threads import sleep_at_barriers_if_busy
from stacked_ram.runtime.version import __version__

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
    """Run folder. Default: results/ and the preset's name; with another --dataset than the
    preset's, the data set's name."""
    overwrite: bool = False
    """Start anew where the run folder holds a run already."""
    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, into OUT-seed0 and so on, and compare."""
    folds: bool = False
    """Train once for each fold of the data set (prepared with --folds), into OUT-fold0 and so on,
    compare, and write what each photo's own run says of it (OUT-out-of-fold.csv)."""
    profile: bool = False
    """Trace the first batches for TensorBoard."""
    log: Literal["tensorboard", "wandb", "mlflow"] = "tensorboard"
    """Where metrics and pictures go besides the run folder. Weights & Biases and MLflow are
    packages of their own."""
    find_learning_rate: bool = False
    """Do not train: try learning rates on a rising ramp and draw the loss over them."""
    fields: Fields = field(default_factory=Config)


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
    """Study folder. Default: the run folder that train would take, and -study."""
    storage: str | None = None
    """Database URL of the study (PostgreSQL, MySQL). Default: SQLite in the study folder."""
    fields: Fields = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Prepare a small data set of digits on photographs, train on it, test, draw what was seen."""

    out: Path | None = None
    """Run folder. Default: results/demo."""
    quick: bool = False
    """A short run that only shows that everything works."""


# Each command: its options, and the room and function that do it.
COMMANDS = {
    "train": (Train, "cli.train:train"),
    "test": (Test, "cli.test:test"),
    "predict": (Predict, "cli.predict:predict"),
    "serve": (Serve, "cli.serve:serve"),
    "tune": (Tune, "cli.tune:tune"),
    "export": (Export, "cli.export:export"),
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
    if (
        isinstance(options, Train | Tune) and options.config is not None
    ):  # before torch: a wrong name is said at once
        read_dataset_info(dataset_folder(options.fields.data.dataset))
    sleep_at_barriers_if_busy()
    room, function = COMMANDS[name][1].split(":")
    return getattr(importlib.import_module(f"stacked_ram.{room}"), function)(options)


def overview() -> str:
    """What `--help` prints: the commands, a line each."""
    lines = [f"usage: {program()} COMMAND [options]", ""]
    for name, (kind, _) in COMMANDS.items():
        lines.append(f"  {name:8} {(kind.__doc__ or '').splitlines()[0]}")
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
        # Before parsing it could not be told from a flag's value: read the flags again, over it.
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

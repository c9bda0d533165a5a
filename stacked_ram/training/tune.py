"""A Bayesian search over fields of a configuration, with Optuna.

    STUDY/study.db               the study (SQLite; --storage puts it in another database)
    STUDY/best.yaml              the configuration with the best values
    STUDY/trials.csv             every trial
    STUDY/history.png            the best value so far, trial by trial
    STUDY/importance.png         which fields matter
    STUDY/trial-0007/            each trial's run (its states are removed when it ends)

All trials have the same seed, so that only their fields differ. The sampler is seeded with that
seed and the number of trials so far, so that a resumed study draws new values.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args, get_type_hints

import optuna
from matplotlib.axes import Axes
from optuna.visualization import matplotlib as plotting

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import RENAMED, SECTIONS, field_sections, parse_yaml, replace_fields
from stacked_ram.runs.checkpoint import state_files
from stacked_ram.runs.folder import (
    check_folder,
    default_folder,
    lock_file,
    metric_column,
    save_config,
    write_atomically,
)
from stacked_ram.runtime.errors import NotWritten, RunFailed, UserError, nearest
from stacked_ram.runtime.program import program
from stacked_ram.runtime.signals import Stopped
from stacked_ram.training.callbacks import Callback, Training
from stacked_ram.training.meters import Row
from stacked_ram.training.run import train_run
from stacked_ram.training.trackers import TensorBoard

SHORT = {"lr": "learning_rate"}
STUDY = "stacked_ram"
FIRST_TRIALS = 5  # drawn at random, and never pruned
MOST_FAILURES = 3  # in a row, after which the search ends
HEARTBEAT = 60  # seconds; a trial without heartbeat counts as dead

_HELD: list[IO[str]] = []  # locks, until the process ends


@dataclass(frozen=True)
class Range:
    """A field and the values to search."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def draw(self, trial: optuna.Trial) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


Sampler = Literal["tpe", "gp", "random"]
Plot = Callable[[optuna.Study], Axes]


def tune_fields(
    config: Config,
    search: Sequence[str],
    folder: Path,
    *,
    trials: int = 30,
    sampler: Sampler = "tpe",
    prune: bool = True,
    storage: str | None = None,
) -> Config:
    """Search fields for the best validation metric; returns the configuration with the best values.

    Args:
        search: fields and their values, as `parse_range` reads them.
        folder: of the study; a study that exists is resumed.
        trials: number of trials, earlier trials of the study included.
        sampler: tree-structured Parzen estimator, Gaussian process, or random.
        prune: end trials early that are worse than the median of the others.
        storage: database URL of the study. None: SQLite in the folder.

    Raises UserError for an invalid range, NotWritten when the disk is full, and RunFailed when
    several trials in a row fail.
    """
    if config.data.train_on != "train":
        raise UserError("train_on: a search chooses by the validation split; leave train_on: train")
    ranges = [parse_range(text, config) for text in search]
    names = [field.name for field in ranges]
    if not names:
        raise UserError("--search: give a field and its range, as std=0.05:0.5")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--search: {twice} is given twice")
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # of processes that start together, one makes the study
    with lock_file(folder / ".study.lock", wait=True):
        study = open_study(config, folder, sampler, prune, storage)
        check_same_ranges(study, ranges)

    def objective(trial: optuna.Trial) -> float:
        return run_trial(trial, config, ranges, folder)

    failures = 0
    try:
        while finished(study) < trials:
            try:
                study.optimize(objective, n_trials=1)
                failures = 0
            except NotWritten as error:
                raise NotWritten(
                    f"{error}; make room, then the same command resumes the study"
                ) from None
            except RunFailed as error:
                failures += 1
                if failures == MOST_FAILURES:
                    raise RunFailed(
                        f"tune: {failures} trials in a row failed, the last: {error}; fix that or"
                        " change --search, then the same command resumes the study"
                    ) from None
    except Stopped:
        print("this trial is lost; the same command resumes the study")
        raise
    finally:
        if any(trial.value is not None for trial in study.get_trials(deepcopy=False)):
            report(study, config, folder)
    return replace_fields(config, study.best_trial.params, "best trial")


def study_folder(preset: str | Path | None, config: Config) -> Path:
    """Return the default folder of a study: the run folder that training would take, and -study."""
    run = default_folder(preset, config)
    return run.with_name(f"{run.name}-study")


def parse_range(text: str, config: Config) -> Range:
    """`std=0.05:0.5`, `learning_rate=1e-5:1e-2:log`, `num_glimpses=2:8`, `core=lstm,gru`.

    Raises UserError for an unknown field and for an invalid range.
    """
    name, _, values = text.partition("=")
    name = (SHORT | RENAMED).get(name, name).replace("-", "_")
    sections = field_sections()
    if name not in sections:
        raise UserError(f"--search: unknown field `{name}`{nearest(name, sections)}")
    kind = get_type_hints(SECTIONS[sections[name]])[name]
    whole = int in (kind, *get_args(kind))
    if ":" not in values:
        choices = tuple(parse_yaml(choice) for choice in values.split(",") if choice)
        if len(choices) < 2:
            raise UserError(f"--search: {text} is neither LOW:HIGH[:log] nor A,B,...")
        for choice in choices:
            replace_fields(config, {name: choice}, f"--search {text}")
        return Range(name, choices=choices)
    low, high, *log = values.split(":")
    try:
        found = Range(name, float(low), float(high), log=log == ["log"], whole=whole)
    except ValueError:
        raise UserError(f"--search: {text}: a range is LOW:HIGH or LOW:HIGH:log") from None
    if not found.low < found.high or (log and log != ["log"]) or (log and found.low <= 0):
        raise UserError(f"--search: {text}: LOW must be below HIGH, and above 0 with :log")
    if whole and not (found.low.is_integer() and found.high.is_integer()):
        raise UserError(f"--search: {text}: {name} takes whole numbers")
    for end in (found.low, found.high):  # both ends must be good values of the field
        replace_fields(config, {name: int(end) if whole else end}, f"--search {text}")
    return found


def hear_loggers() -> None:
    """Let this package's loggers speak again: where a program has set up no logging, the tool that
    prepares the database does, and silences all loggers that were there before."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "stacked_ram" and isinstance(logger, logging.Logger):
            logger.disabled = False


def open_study(
    config: Config, folder: Path, sampler: Sampler, prune: bool, storage: str | None
) -> optuna.Study:
    """The study in this folder, or a new one. Raises UserError if its database cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    seed = config.training.seed
    url = storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    try:
        database = optuna.storages.RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT,
            engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {},
        )
        hear_loggers()
        study = optuna.create_study(
            storage=database,
            study_name=STUDY if storage is None else str(folder),
            direction="minimize" if config.training.metric == "loss" else "maximize",
            load_if_exists=True,
        )
    except Exception as error:  # database drivers raise their own classes
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--storage: {url}: cannot be opened ({first})") from None
    started = len(study.get_trials(deepcopy=False))
    number = process_number(folder)
    study.sampler = make_sampler(sampler, seed + 1000 * started + number)
    if storage is None and alone(folder, number):
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    study.pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=1)
        if prune
        else optuna.pruners.NopPruner()
    )
    return study


def process_number(out: Path) -> int:
    """The number of this process among the processes that work on the study now, from 0, held
    until it ends. With it, processes that start together draw different values."""
    number = 0
    while True:
        try:
            _HELD.append(lock_file(out / f".process-{number}.lock"))
            return number
        except BlockingIOError:
            number += 1


def alone(out: Path, number: int) -> bool:
    """Whether no other process than that of this number works on the study."""
    try:
        for path in out.glob(".process-*.lock"):
            if path.name != f".process-{number}.lock":
                lock_file(path).close()
    except BlockingIOError:
        return False
    return True


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=FIRST_TRIALS)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # constant_liar: processes that work on one study do not try the same values
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=FIRST_TRIALS, multivariate=True, constant_liar=True
    )


def check_same_ranges(study: optuna.Study, ranges: list[Range]) -> None:
    """Raise UserError where a resumed study has other fields, choices or `:log`; its bounds may
    change."""
    wanted = sorted(field.name for field in ranges)
    if study.user_attrs.setdefault("fields", wanted) != wanted:
        raise UserError(
            f"--search: this study searches {', '.join(study.user_attrs['fields'])}; give those,"
            " or another --out"
        )
    drawn: dict[str, Any] = {}
    for trial in study.get_trials(deepcopy=False):
        drawn |= trial.distributions
    for field in ranges:
        before = drawn.get(field.name)
        if before is None:
            continue
        choices, log = getattr(before, "choices", ()), getattr(before, "log", False)
        if (choices, log) != (field.choices, field.log):
            values = ",".join(map(str, choices)) or ("LOW:HIGH:log" if log else "LOW:HIGH")
            raise UserError(
                f"--search: this study searches {field.name}={values}; give that, or another --out"
            )
    study.set_user_attr("fields", wanted)


def finished(study: optuna.Study) -> int:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return sum(trial.state in states for trial in study.get_trials(deepcopy=False))


class Pruning(Callback):
    """Report the metric of each epoch to the study, and end the trial where it is pruned."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        """Report the metric; a value that is not finite counts as the worst. Raises TrialPruned."""
        value = row[metric_column(self.metric, row)]
        worst = math.inf if self.metric == "loss" else -math.inf
        self.trial.report(value if math.isfinite(value) else worst, int(row["epoch"]))
        if self.trial.should_prune():
            raise optuna.TrialPruned


def run_trial(trial: optuna.Trial, config: Config, ranges: list[Range], out: Path) -> float:
    """Train with the values that the study suggests; returns the best validation metric.

    Raises RunFailed.
    """
    values = {field.name: field.draw(trial) for field in ranges}
    tried = replace_fields(config, values, "--search")
    metric = config.training.metric
    folder = out / f"trial-{trial.number:04d}"
    print(f"trial {trial.number}: {as_text(values)}")

    try:
        row = train_run(
            tried, folder, overwrite=True, callbacks=[TensorBoard(), Pruning(trial, metric)]
        )
        column = metric_column(metric, row)
        best = float(row[column])
        if not math.isfinite(best):
            raise RunFailed(f"{column} is not finite")
    except RunFailed as failure:
        # of a full disk the cause alone: the message says how to resume, and a trial cannot be
        error = failure.__cause__ or failure
        print(f"trial {trial.number} failed: {error}")
        raise error from None
    finally:
        for state in state_files(folder):  # a trial cannot be resumed; its weights and table stay
            state.unlink()
    return best


def report(study: optuna.Study, config: Config, out: Path) -> None:
    """Write the best configuration, the table and the plots; print table and best values."""
    best = study.best_trial
    save_config(replace_fields(config, best.params, "best trial"), out / "best.yaml")
    table = study.trials_dataframe(attrs=("number", "value", "params", "state", "duration"))
    table.columns = [name.removeprefix("params_") for name in table.columns]
    write_atomically(out / "trials.csv", table.to_csv(index=False).encode())
    print(table.drop(columns="duration").round(5).to_string(index=False))
    print(
        f"best of {len(table)} trials: {config.training.metric} {best.value:.4f}"
        f" with {as_text(best.params)}"
    )
    print(f"train it with: {program()} train {out / 'best.yaml'}")
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    plots: dict[str, Plot] = {"history": plotting.plot_optimization_history}
    if min(len({trial.value for trial in done}), len({str(trial.params) for trial in done})) > 1:
        plots["importance"] = plotting.plot_param_importances
    for name, plot in plots.items():
        write_atomically(out / f"{name}.png", plot_png(plot, study))


def as_text(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def plot_png(plot: Plot, study: optuna.Study) -> bytes:
    """A plot of Optuna as a PNG."""
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("Agg")  # needs no display, and a notebook does not show the plot
    try:
        with pyplot.rc_context(), warnings.catch_warnings():  # Optuna sets a style for all figures
            warnings.simplefilter("ignore")  # that these plots are experimental
            figure = plot(study).get_figure(root=True)
            assert figure is not None  # Optuna draws on axes of a figure
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
    finally:
        pyplot.switch_backend(before)
    return content.getvalue()

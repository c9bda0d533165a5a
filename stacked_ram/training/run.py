"""Runs from their start to their end: a new run, a resumed one, or one for each of several seeds.

    best = train_run(load_config("configs/demo.yaml"), Path("results/demo"))
    best = resume_run(Path("results/demo"))

Each returns the metrics of its best epoch, a row of metrics.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import field_sections, replace_fields, to_dict
from stacked_ram.runs.folder import RunFolder, write_atomically
from stacked_ram.runtime.distributed import World
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.callbacks import Callback, ProgressBar
from stacked_ram.training.estimators import Estimator
from stacked_ram.training.meters import Row
from stacked_ram.training.trainer import Trainer

# Fields that a resumed run may change: what was trained so far does not depend on them. (A data set
# may have moved: the training state knows the digests of its photos and labels.)
MAY_CHANGE = {"dataset", "epochs", "device", "workers", "cache", "cache_limit", "compile",
              "cuda_graph", "not_finite", "patience", "save_every", "pictures_every",
              "activation_checkpointing"}  # fmt: skip


def train_run(
    config: Config,
    folder: Path,
    world: World | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    *,
    estimator: Estimator | None = None,
) -> Row:
    """Train a new run into a folder and return the metrics of its best epoch.

    world: the processes that train together (`join_world`); None: this one alone. overwrite:
    replace a run that is in the folder. callbacks, estimator: see `Trainer`; a progress bar is
    shown on a terminal.

    Raises UserError if the folder holds a run already or the config cannot be trained, RunFailed
    if the training fails, and Stopped after Ctrl-C or SIGTERM. When torchrun has restarted the
    processes, the run is resumed.
    """
    world = world or World()
    if world.is_restart and (folder / "config.yaml").is_file():
        return resume_run(folder, config, world, callbacks, estimator=estimator)
    run = RunFolder(folder)
    if world.is_main:
        run.check_free(overwrite)
    callbacks = [ProgressBar(), *callbacks]
    return Trainer(config, run, world, callbacks=callbacks, estimator=estimator).fit(overwrite)


def resume_run(
    folder: Path,
    config: Config | None = None,
    world: World | None = None,
    callbacks: Sequence[Callback] = (),
    *,
    estimator: Estimator | None = None,
) -> Row:
    """Resume a run from its last checkpoint and return the metrics of its best epoch.

    config: None for the run's own; another may differ from it only in fields on which the training
    so far does not depend (`MAY_CHANGE`). Raises as `train_run`.
    """
    world = world or World()
    run = RunFolder(folder)
    config = config or run.config()
    check_unchanged(run.config(), config)
    callbacks = [ProgressBar(), *callbacks]
    trainer = Trainer(config, run, world, callbacks=callbacks, estimator=estimator)
    trainer.resume()
    return trainer.fit()


def train_seeds(
    config: Config,
    folder: Path,
    seeds: Sequence[int],
    world: World | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[int, Row]:
    """Train a run for each seed, into FOLDER-seed0 and so on, and return each one's best metrics.

    A finished run is not trained again, and an interrupted one is resumed. The table of the best
    epochs is printed and written to FOLDER-seeds.csv.
    """
    world = world or World()
    rows = {}
    for seed in seeds:
        seeded = replace_fields(config, {"seed": seed}, "--seeds")
        place = seed_folder(folder, seed)
        if (place / "config.yaml").is_file() and not overwrite:
            rows[seed] = resume_run(place, seeded, world, callbacks)
        else:
            rows[seed] = train_run(seeded, place, world, overwrite, callbacks)
    if world.is_main:
        path = folder.with_name(f"{folder.name}-seeds.csv")
        print(seeds_table(rows, path), f"\n{path}")
    return rows


def seed_folder(folder: Path, seed: int) -> Path:
    """FOLDER-seed0 and so on."""
    return folder.with_name(f"{folder.name}-seed{seed}")


def check_unchanged(old: Config, new: Config) -> None:
    """Raises UserError if a field that a resumed run must keep differs."""
    before, after = to_dict(old), to_dict(new)
    for name, section in field_sections().items():
        if before[section][name] != after[section][name] and name not in MAY_CHANGE:
            raise UserError(
                f"--{name.replace('_', '-')}: a resumed run keeps its {name}"
                f" ({before[section][name]}); train a new run with --out for another"
            )


def seeds_table(rows: dict[int, Row], path: Path) -> str:
    """Each seed's metrics at its best epoch, their mean and standard deviation, as text; also
    written to `path` as CSV."""
    import pandas

    shown = ["train_total", "train_accuracy", "valid_loss", "valid_accuracy"]
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table = table[[name for name in shown if name in table]]
    summary = table.agg(["mean", "std"])
    table.index = [f"seed {seed}" for seed in table.index]
    table = pandas.concat([table, summary])
    write_atomically(path, table.to_csv(index_label="run").encode())
    return table.round(4).to_string()

"""Runs from their start to their end: a new run, a resumed one, or one for each of several seeds.

    best = train_run(load_config("configs/demo.yaml"), Path("results/demo"))
    best = resume_run(Path("results/demo"))

Each returns the metrics of its best epoch, a row of metrics.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import field_sections, replace_fields, to_dict
from stacked_ram.data.dataset import folds_of, open_dataset
from stacked_ram.evaluation.evaluate import opened_split
from stacked_ram.evaluation.multi_label import joined
from stacked_ram.evaluation.predictions import predict_split
from stacked_ram.runs.checkpoint import load_run, state_files
from stacked_ram.runs.folder import BEST_BY, RunFolder, write_atomically
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
    trainer = Trainer(
        config, run, world, callbacks=callbacks, estimator=estimator,
        from_state=bool(state_files(folder)),
    )  # fmt: skip
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
    return _train_each(config, folder, "seed", seeds, world, overwrite, callbacks)


def train_folds(
    config: Config,
    folder: Path,
    world: World | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[int, Row]:
    """Train a run for each fold of the data set, into FOLDER-fold0 and so on, as `train_seeds`.

    Each photo outside the test split is in the validation split of one run. What that run says of
    it is written to FOLDER-out-of-fold.csv: path, class, fold, predicted, and each class's
    probability.

    Raises UserError if the data set was prepared without folds.
    """
    folds = folds_of(config.data)
    rows = _train_each(config, folder, "fold", folds, world, overwrite, callbacks)
    if world is None or world.is_main:
        path = folder.with_name(f"{folder.name}-out-of-fold.csv")
        runs = [numbered_folder(folder, "fold", fold) for fold in folds]
        write_atomically(path, out_of_fold(runs).encode())
        print(path)
    return rows


def _train_each(
    config: Config,
    folder: Path,
    field: Literal["seed", "fold"],
    values: Sequence[int],
    world: World | None,
    overwrite: bool,
    callbacks: Sequence[Callback],
) -> dict[int, Row]:
    """Train a run for each value of a field of the config."""
    world = world or World()
    rows = {}
    for value in values:
        changed = replace_fields(config, {field: value}, f"--{field}s")
        place = numbered_folder(folder, field, value)
        if (place / "config.yaml").is_file() and not overwrite:
            rows[value] = resume_run(place, changed, world, callbacks)
        else:
            rows[value] = train_run(changed, place, world, overwrite, callbacks)
    if world.is_main:
        path = folder.with_name(f"{folder.name}-{field}s.csv")
        print(table_of(rows, field, path), f"\n{path}")
    return rows


def numbered_folder(folder: Path, field: str, value: int) -> Path:
    """FOLDER-seed0, FOLDER-fold0 and so on."""
    return folder.with_name(f"{folder.name}-{field}{value}")


def out_of_fold(runs: Sequence[Path]) -> str:
    """The predictions of each run for its validation split, as one CSV, in the order of paths."""
    import pandas

    parts = []
    for run in runs:
        loaded = load_run(run)
        dataset = open_dataset(loaded.config.data, "valid")
        precision = loaded.config.training.precision
        with opened_split(loaded, loaded.config, dataset) as loader:
            found = predict_split(loaded.model, loader, keep_beliefs=True, precision=precision)
        assert found.beliefs_NTC is not None  # keep_beliefs
        names = np.array(loaded.classes)
        if found.multi_label:
            true, said = (
                [joined(loaded.classes, has_C) for has_C in labels_NC]
                for labels_NC in (found.labels_N, found.predicted_N)
            )
        else:
            true, said = names[found.labels_N], names[found.predicted_N]
        table = pandas.DataFrame(
            {
                "path": [dataset.names[row] for row in found.index_N],
                "labels" if found.multi_label else "class": true,
                "fold": loaded.config.data.fold,
                "predicted": said,
            }
        )
        beliefs = pandas.DataFrame(found.beliefs_NTC[:, -1].round(6), columns=list(names))
        parts.append(pandas.concat([table, beliefs.add_prefix("probability ")], axis=1))
    return pandas.concat(parts).sort_values("path").to_csv(index=False, lineterminator="\n")


def check_unchanged(old: Config, new: Config) -> None:
    """Raises UserError if a field that a resumed run must keep differs."""
    before, after = to_dict(old), to_dict(new)
    for name, section in field_sections().items():
        if before[section][name] != after[section][name] and name not in MAY_CHANGE:
            raise UserError(
                f"--{name.replace('_', '-')}: a resumed run keeps its {name}"
                f" ({before[section][name]}); train a new run with --out for another"
            )


def table_of(rows: dict[int, Row], field: str, path: Path) -> str:
    """Each run's metrics at its best epoch, their mean and standard deviation, as text; also
    written to `path` as CSV."""
    import pandas

    shown = ["train_total", "train_accuracy", "train_F1", "valid_loss", *BEST_BY]
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table = table[[name for name in shown if name in table]]
    summary = table.agg(["mean", "std"])
    table.index = [f"{field} {value}" for value in table.index]
    table = pandas.concat([table, summary])
    write_atomically(path, table.to_csv(index_label="run").encode())
    return table.round(4).to_string()

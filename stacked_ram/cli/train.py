"""The train command: a new run, one that goes on, or one for each of several seeds."""

from __future__ import annotations

from pathlib import Path

from stacked_ram.cli.main import Train
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import field_sections, replace_fields, to_dict
from stacked_ram.runs.folder import RunFolder, write_atomically
from stacked_ram.runtime.distributed import World, join_world, leave_world
from stacked_ram.runtime.errors import NotWritten, RunFailed, UserError
from stacked_ram.runtime.program import program
from stacked_ram.training.trainer import Row, Trainer

RESULTS = Path("results")
# Fields that may differ when a run goes on: they do not change what was trained so far. (A data set
# may have moved: its photos and labels are compared with the state's.)
MAY_CHANGE = {"dataset", "epochs", "device", "workers", "cache", "cache_limit", "compile",
              "cuda_graph", "not_finite", "patience", "save_every", "pictures_every",
              "activation_checkpointing"}  # fmt: skip


def train(options: Train) -> None:
    if options.config is None and options.resume is None:
        raise UserError(
            f"train what? give a preset or a YAML file, or --resume: {program()} train demo"
        )
    if options.resume is not None and (options.config or options.out or options.seeds):
        raise UserError("--resume: the run has its config, folder and seed; leave out the others")
    world = join_world()
    try:
        folder = options.resume or options.out or RESULTS / options.config.stem
        if options.find_learning_rate:
            from stacked_ram.training.lr_finder import find_learning_rate

            find_learning_rate(options.fields, folder)
        elif options.seeds:
            train_seeds(options, folder, world)
        elif options.resume is not None:
            resume_run(folder, options.fields, world, profile=options.profile)
        else:
            train_run(options.fields, folder, world, options.overwrite, profile=options.profile)
    finally:
        leave_world()


def train_run(
    config: Config,
    folder: Path,
    world: World | None = None,
    overwrite: bool = False,
    **options,
) -> Row:
    """Train a new run into a folder; returns the metrics of its best epoch. See Trainer for
    options.

    Raises UserError if a run is there already. After a restart by torchrun the run goes on.
    """
    world = world or World()
    if world.is_restart and (folder / "config.yaml").is_file():
        return resume_run(folder, config, world, **options)
    run = RunFolder(folder)
    if world.is_main:
        run.check_free(overwrite)
    trainer = Trainer(config, run, world, **options)  # what cannot be trained leaves no folder
    if world.is_main:
        run.start(config, overwrite)
    return finish(trainer)


def resume_run(folder: Path, config: Config, world: World | None = None, **options) -> Row:
    """Go on with a run from its last checkpoint. `config` may differ from the run's where that
    does not change what was trained so far."""
    world = world or World()
    run = RunFolder(folder)
    check_unchanged(run.config(), config)
    trainer = Trainer(config, run, world, **options)
    started = trainer.resume()
    if world.is_main:
        run.go_on()
        run.save_config(config)
    if started and not trainer.finished:
        trainer.log(f"going on from epoch {trainer.epoch + 1}, step {trainer.learner.step}")
    return finish(trainer)


def finish(trainer: Trainer) -> Row:
    try:
        return trainer.fit()
    except NotWritten as error:
        raise RunFailed(
            f"{error}; make room, then go on from the last checkpoint with --resume"
            f" {trainer.run.path}"
        ) from error
    finally:
        trainer.run.close()


def check_unchanged(old: Config, new: Config) -> None:
    before, after = to_dict(old), to_dict(new)
    for name, section in field_sections().items():
        if before[section][name] != after[section][name] and name not in MAY_CHANGE:
            raise UserError(
                f"--{name.replace('_', '-')}: a run that goes on keeps its {name}"
                f" ({before[section][name]}); train a new run with --out for another"
            )


def train_seeds(options: Train, folder: Path, world: World) -> None:
    """One run for each seed, into FOLDER-seed0 and so on, and a table of their best epochs.

    A run that is finished already is not trained again; one that was stopped goes on.
    """
    rows = {}
    for seed in options.seeds:
        config = replace_fields(options.fields, {"seed": seed}, "--seeds")
        one = folder.with_name(f"{folder.name}-seed{seed}")
        if (one / "config.yaml").is_file() and not options.overwrite:
            rows[seed] = resume_run(one, config, world)
        else:
            rows[seed] = train_run(config, one, world, options.overwrite)
    if world.is_main:
        path = folder.with_name(f"{folder.name}-seeds.csv")
        print(seeds_table(rows, path), f"\n{path}")


def seeds_table(rows: dict[int, Row], path: Path) -> str:
    """Each seed's metrics at its best epoch, their mean and deviation; also written as CSV."""
    import pandas

    shown = ["train_total", "train_accuracy", "valid_loss", "valid_accuracy"]
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table = table[[name for name in shown if name in table]]
    summary = table.agg(["mean", "std"])
    table.index = [f"seed {seed}" for seed in table.index]
    table = pandas.concat([table, summary])
    write_atomically(path, table.to_csv(index_label="run").encode())
    return table.round(4).to_string()

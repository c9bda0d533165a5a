"""The train command: a new run, a resumed one, or one for each of several seeds."""

from __future__ import annotations

from pathlib import Path

from stacked_ram.cli.main import Train
from stacked_ram.runtime.distributed import join_world, leave_world
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program
from stacked_ram.training.run import resume_run, train_run, train_seeds

RESULTS = Path("results")


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
            train_seeds(options.fields, folder, options.seeds, world, options.overwrite)
        elif options.resume is not None:
            resume_run(folder, options.fields, world, profile=options.profile)
        else:
            train_run(options.fields, folder, world, options.overwrite, profile=options.profile)
    finally:
        leave_world()

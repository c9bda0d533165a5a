"""The train command: a new run, a resumed one, or one for each of several seeds."""

from __future__ import annotations

import shlex

from stacked_ram.cli.main import Train
from stacked_ram.runs.folder import default_folder
from stacked_ram.runtime.distributed import join_world, leave_world
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program
from stacked_ram.training.profiling import Profiler
from stacked_ram.training.run import (
    numbered_folder,
    resume_run,
    train_folds,
    train_run,
    train_seeds,
)
from stacked_ram.viz.training_pictures import tracking_callbacks


def train(options: Train) -> None:
    if options.config is None and options.resume is None:
        raise UserError(
            f"train what? give a preset or a YAML file, or --resume: {program()} train demo"
        )
    if options.resume is not None and (
        options.config or options.out or options.seeds or options.folds
    ):
        raise UserError("--resume: the run has its config, folder and seed; leave out the others")
    if options.seeds and options.folds:
        raise UserError("--seeds, --folds: give one of them")
    world = join_world()
    config = options.fields
    folder = options.resume or options.out or default_folder(options.config, config)
    try:
        if options.find_learning_rate:
            from stacked_ram.training.lr_finder import find_learning_rate

            find_learning_rate(config, folder)
            return
        callbacks = tracking_callbacks(options.log)
        if options.profile:
            callbacks.append(Profiler())
        runs = [folder]
        if options.seeds:
            train_seeds(config, folder, options.seeds, world, options.overwrite, callbacks)
            runs = [numbered_folder(folder, "seed", seed) for seed in options.seeds]
        elif options.folds:
            found = train_folds(config, folder, world, options.overwrite, callbacks)
            runs = [numbered_folder(folder, "fold", fold) for fold in found]
        elif options.resume is not None:
            resume_run(folder, config, world, callbacks)
        else:
            train_run(config, folder, world, options.overwrite, callbacks)
        if world.is_main:
            print(f"next: {program()} test {shlex.join(map(str, runs))} --controls")
    finally:
        leave_world()

"""The train command: a new run, a resumed one, or one for each of several seeds."""

from __future__ import annotations

import shlex

from stacked_ram.cli.main import Train
from stacked_ram.runs.folder import default_folder
from stacked_ram.runtime.distributed import join_world, leave_world
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program
from stacked_ram.training.profiling import Profiler
from stacked_ram.training.run import resume_run, seed_folder, train_run, train_seeds
from stacked_ram.viz.training_pictures import tracking_callbacks


def train(options: Train) -> None:
    if options.config is None and options.resume is None:
        raise UserError(
            f"train what? give a preset or a YAML file, or --resume: {program()} train demo"
        )
    if options.resume is not None and (options.config or options.out or options.seeds):
        raise UserError("--resume: the run has its config, folder and seed; leave out the others")
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
            runs = [seed_folder(folder, seed) for seed in options.seeds]
        elif options.resume is not None:
            resume_run(folder, config, world, callbacks)
        else:
            train_run(config, folder, world, options.overwrite, callbacks)
        if world.is_main:
            print(f"next: {program()} test {shlex.join(map(str, runs))} --controls")
    finally:
        leave_world()

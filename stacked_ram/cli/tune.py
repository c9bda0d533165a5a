"""The tune command."""

from __future__ import annotations

from stacked_ram.cli.main import Tune
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program
from stacked_ram.training.tune import study_folder, tune_fields


def tune(options: Tune) -> None:
    if options.config is None:
        raise UserError(
            f"tune what? give a preset or a YAML file: {program()} tune mnist_translated60"
        )
    tune_fields(
        options.fields,
        options.search,
        options.out or study_folder(options.config, options.fields),
        trials=options.trials,
        sampler=options.sampler,
        prune=options.prune,
        storage=options.storage,
    )

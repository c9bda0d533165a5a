"""Refuse configurations that do not go with the photos or labels of their data set."""

from __future__ import annotations

from stacked_ram.config.schema import Config
from stacked_ram.data.dataset import Dataset
from stacked_ram.evaluation.cost import typical_size
from stacked_ram.runtime.errors import UserError


def check_sizes(config: Config, dataset: Dataset) -> None:
    """Raise UserError for photos that are too small for the levels of a stack."""
    levels = config.model.num_levels
    height, width = typical_size(dataset, config.data)
    if config.model.stack == "conv" and min(height, width) < 2 ** (levels - 1):
        raise UserError(
            f"num_levels: photos of {height}x{width} pixels are too small for {levels} levels; each"
            " halves the one before"
        )


def check_labels(config: Config, dataset: Dataset) -> None:
    """Raise UserError for options that do not go with how many labels a photo has."""
    loss, several = config.training.loss, dataset.multi_label
    where = f"{dataset.folder}: its photos have {'several labels' if several else 'one label'} each"
    for wrong, message in (
        (
            several and config.data.balanced_sampler,
            "balanced_sampler: cannot draw classes that share photos equally often; leave it out,"
            " class_weights weights the loss",
        ),
        (
            loss == "asymmetric" and config.training.class_weights,
            "class_weights: loss asymmetric weighs them in its own way; leave one of them out",
        ),
        (
            not several and loss != "auto",
            f"loss {loss}: is for photos with several labels; leave it out",
        ),
    ):
        if wrong:
            raise UserError(f"{message} ({where})")

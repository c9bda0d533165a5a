"""The part `engine` of gpu.py: what `main.py train` does in an epoch of digits: as it is,
recorded, and compiled and recorded."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from gpu_check import apart, bounded
from gpu_digits import EPOCHS, SETTINGS, made_digits
from gpu_parts import Row, Sizes, clocked

from stacked_ram.config.schema import Config, DataConfig, ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from stacked_ram.training.trainer import Trainer

EPOCH = 60_000  # digits of the target
SIDE = 28
COMPARED = 8  # steps after which the weights of both ways are compared


def engine(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    if importlib.util.find_spec("timm") is None:
        yield {"what": "", "left out": "no timm"}
        return
    from stacked_ram.runs.folder import RunFolder
    from stacked_ram.training.trainer import Trainer

    sizes = Sizes(options.quick)
    usual, large = sizes.batch, sizes.large_batch
    ways = [
        ("float32", False, False, usual),
        ("float32", True, False, usual),
        ("bf16", True, False, usual),
    ]
    if not (options.no_compile or options.quick):
        ways += [("bf16", True, True, usual), ("bf16", True, True, large)]
    with tempfile.TemporaryDirectory() as folder:
        dataset = written(Path(folder) / "digits", sizes)
        weights = []
        for precision, graph, compiled, batch in ways:
            config = asked(dataset, batch, options.device, precision, graph, compiled)
            begun = time.monotonic()
            trainer = Trainer(config, RunFolder(Path(folder) / "run"))
            train(trainer, COMPARED)
            made = time.monotonic() - begun
            if precision == "float32":
                weights.append([one.clone() for one in trainer.train_step.model.parameters()])
                if graph:
                    yield bounded("cuda_graph to without", apart(*weights), 1e-2)
            rate = trainer.photos_per_epoch / clocked(lambda t=trainer: train(t))
            what = f"{precision}{', cuda_graph' * graph}{', compile' * compiled}"
            yield {
                "what": f"{what}, batch {batch}",
                "photos/s": rate,
                "made in, s": made,
                f"{EPOCHS} epochs of {EPOCH:,}, s": EPOCHS * EPOCH / rate,
            }


def train(trainer: Trainer, batches: int | None = None) -> None:
    """So many batches of the next epoch, or all."""
    trainer.loader.set_epoch(trainer.loader.epoch + 1)
    for batch in itertools.islice(trainer.loader, batches):
        trainer.train_step(batch)
    trainer.train_step.nonfinite.check()


def asked(
    dataset: Path, batch: int, device: str, precision: str, graph: bool, compiled: bool
) -> Config:
    """The recipe of configs/mnist.yaml, of which a few steps and one epoch are run."""
    size, patches, steps = SETTINGS[SIDE]
    return Config(
        data=DataConfig(dataset=str(dataset), shift=2, workers=0),
        model=ModelConfig(patch_size=size, num_patches=patches, num_glimpses=steps, core="rnn"),
        training=TrainingConfig(
            epochs=EPOCHS, batch_size=batch, step_losses="last", device=device,
            precision=precision, cuda_graph=graph, compile=compiled,
        ),
    )  # fmt: skip


def written(folder: Path, sizes: Sizes) -> Path:
    """Made digits as a prepared data set."""
    import yaml

    whole_batches = sizes.digits // sizes.large_batch * sizes.large_batch
    images, labels = made_digits(whole_batches, torch.device("cpu"))
    for split, count in (("train", whole_batches), ("valid", 10), ("test", 10)):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", images[:count].numpy())
        np.save(folder / split / "labels.npy", labels[:count].numpy())
    facts = {
        "format": 1, "kind": "digits", "name": "made", "classes": [str(n) for n in range(10)],
        "channels": 1, "mean": [0.0], "std": [1.0], "canvas": [SIDE, SIDE],
    }  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(facts))
    return folder

"""Small untrained models and runs whose scan paths move."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from tiny import CLASSES, tiny_config

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.runs.checkpoint import LoadedRun, Metadata, save_weights
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.photos import Photo
from stacked_ram.viz.records import record_batch


def lively(model: RAM) -> RAM:
    """Give an untrained model moving glimpses and confident beliefs."""
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    for level in model.levels:
        if hasattr(level.attention, "layers"):
            torch.nn.init.normal_(level.attention.layers[-1].weight, std=1.5)
    return model.eval()


def tiny_model(channels: int = 3, **fields: object) -> RAM:
    torch.manual_seed(0)
    small = {"patch_size": 4, "num_glimpses": 3, "what_size": 16, "where_size": 8,
             "feature_size": 16, "core_size": 16, "first_location": "learned"}  # fmt: skip
    model = build_model(
        ModelConfig(**{**small, **fields}), num_classes=len(CLASSES), channels=channels,
        mean=(0.2,) * channels, std=(0.25,) * channels,
    )  # fmt: skip
    return lively(model)


def tiny_run(**fields: object) -> LoadedRun:
    """Return a loaded run with `tiny_model`, without files."""
    model = tiny_model(**fields)
    config = dataclasses.replace(tiny_config("nowhere"), model=model.config)
    metadata = Metadata(config, tuple(CLASSES), len(model.mean), (), ())
    return LoadedRun(model, metadata, Path("nowhere/best.safetensors"), torch.device("cpu"), config)


def recorded(model: RAM, photo: Photo, **how: object) -> PhotoRecord:
    """Return the record of a photo."""
    (record,) = record_batch(model, [photo], CLASSES, **how)
    return record


def noise_photo(height: int = 24, width: int = 32, channels: int = 3, label: int | None = 1):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (channels, height, width)).astype(np.uint8)
    return Photo("noise.png", pixels, (height, width), label)


def words_of(figure: Figure) -> list[str]:
    """Return all texts that a figure holds."""
    return [text.get_text() for text in figure.findobj(Text)]


def save_run(folder: Path, dataset: Path, channels: int, seed: int = 0, **fields: object) -> Path:
    """Write a run folder with weights, as training does."""
    config = tiny_config(dataset, **fields)
    torch.manual_seed(seed)
    mean, std = (0.2,) * channels, (0.25,) * channels
    model = lively(
        build_model(config.model, num_classes=len(CLASSES), channels=channels, mean=mean, std=std)
    )
    metadata = Metadata(config, tuple(CLASSES), channels, mean, std, epoch=3)
    save_weights(folder / "best.safetensors", model.state_dict(), metadata)
    (folder / "metrics.csv").write_text(
        "epoch,train_accuracy,train_classification,train_total,valid_accuracy,valid_loss\n"
        "1,0.3,1.1,1.3,0.3,1.2\n2,0.5,0.9,1.1,0.4,1.0\n3,0.7,0.7,0.9,,\n"
    )
    return folder

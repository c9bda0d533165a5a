"""Small prepared data sets, as prepare_data.py writes them."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from stacked_ram.config.schema import Config, DataConfig, TrainingConfig
from stacked_ram.config.yaml import dump_yaml
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import Loader, make_loader

SIZES = ((30, 44), (48, 32), (36, 36), (40, 52))  # (height, width)
COUNTS = {"train": 23, "valid": 7, "test": 5}


def make_photos(
    folder: Path,
    counts: dict[str, int] | None = None,
    *,
    classes: tuple[str, ...] = ("a", "b", "c"),
    sizes: tuple[tuple[int, int], ...] = SIZES,
    suffix: str = "png",
    folds: int = 0,
    **info: object,
) -> Path:
    """Write photos of noise with a white box at (5, 6, 20, 18), as PNG, which is lossless."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in (counts or COUNTS).items():
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            pixels = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
            pixels[6:18, 5:20] = 255
            name = classes[number % len(classes)]
            path = f"{split}/{name}/{number}.{suffix}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path)
            row = {
                "path": path,
                "class": name,
                "split": split,
                "width": width,
                "height": height,
                "sha256": "",
                "box_left": 5,
                "box_top": 6,
                "box_right": 20,
                "box_bottom": 18,
            }
            if folds:
                row["fold"] = "" if split == "test" else number // 3 % folds
            rows.append(row)  # fmt: skip
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    write_info(folder, kind="photos", classes=list(classes), **info)
    return folder


def make_digits(folder: Path, count: int = 40, **info: object) -> Path:
    """Write 8x8 digits without zeros; with a canvas, valid and test hold canvases."""
    rng = np.random.default_rng(0)
    canvas = info.get("canvas", [8, 8])
    for split, number in {"train": count, "valid": 10, "test": 10}.items():
        (folder / split).mkdir(parents=True)
        size = (8, 8) if split == "train" else canvas
        images = rng.integers(1, 256, (number, *size), dtype=np.uint8)
        np.save(folder / split / "images.npy", images)
        np.save(folder / split / "labels.npy", np.arange(number) % 10)
        if split != "train":
            np.save(folder / split / "digits.npy", images[:, :8, :8])
            np.save(folder / split / "boxes.npy", np.tile([0, 0, 8, 8], (number, 1)))
    write_info(folder, kind="digits", classes=list("0123456789"), channels=1, **info)
    return folder


def write_info(folder: Path, **info: object) -> None:
    channels = info.get("channels", 3)
    base = {"format": 1, "name": "small", "channels": channels, "mean": [0.4] * channels,
            "std": [0.2] * channels}  # fmt: skip
    (folder / "dataset.yaml").write_text(dump_yaml(base | info))


def config_of(folder: Path, *, batch_size: int = 4, seed: int = 0, **data: object) -> Config:
    data = {"workers": 0, "cache": "none"} | data
    return Config(
        data=DataConfig(dataset=str(folder), **data),
        training=TrainingConfig(batch_size=batch_size, seed=seed),
    )


def loader_of(
    folder: Path, split: str = "train", *, rank: int = 0, world: int = 1, **fields: object
) -> Loader:
    config = config_of(folder, **fields)
    dataset = open_dataset(config.data, split)
    return make_loader(dataset, config, train=split == "train", rank=rank, world=world)


def wait_for_flush():
    """Wait until the photos decoded so far are on the disk: a thread writes them."""
    for thread in threading.enumerate():
        if thread.name == "cache flush":
            thread.join()

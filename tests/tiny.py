"""A data set and a configuration for runs of a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import from_dict

CLASSES = ["bar", "dot", "ring"]
SIZE = 12


def tiny_digits(folder: Path, counts: tuple[int, int, int] = (48, 18, 18), seed: int = 0) -> Path:
    """Write a data set of 12x12 digits: three shapes with a little noise."""
    rng = np.random.default_rng(seed)
    for split, count in zip(("train", "valid", "test"), counts, strict=True):
        labels = np.arange(count) % len(CLASSES)
        images = rng.integers(0, 60, (count, SIZE, SIZE)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            draw(image, label)
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", images)
        np.save(folder / split / "labels.npy", labels)
    info = {
        "format": 1, "kind": "digits", "name": "tiny", "classes": CLASSES, "channels": 1,
        "mean": [0.2], "std": [0.25], "canvas": [SIZE, SIZE],
    }  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder


def tiny_photos(folder: Path, counts: tuple[int, int, int] = (18, 6, 6), seed: int = 0) -> Path:
    """Write a data set of colour photos of two sizes with the same shapes and their boxes."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    rows = ["path,class,split,width,height,box_left,box_top,box_right,box_bottom"]
    for split, count in zip(("train", "valid", "test"), counts, strict=True):
        for number in range(count):
            label = number % len(CLASSES)
            height, width = ((20, 28), (24, 16))[number // len(CLASSES) % 2]
            pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
            top, left = rng.integers(0, (height - SIZE + 1, width - SIZE + 1))
            for channel in range(3):
                draw(pixels[top : top + SIZE, left : left + SIZE, channel], label)
            path = f"{split}/{CLASSES[label]}/{number}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path)
            box = f"{left},{top},{left + SIZE},{top + SIZE}"
            rows.append(f"{path},{CLASSES[label]},{split},{width},{height},{box}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    info = {
        "format": 1, "kind": "photos", "name": "tiny", "classes": CLASSES, "channels": 3,
        "mean": [0.2] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder


def raw_photos(folder: Path) -> Path:
    """Write class folders of JPEG photos."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            # uneven backgrounds, so that no two photos are near duplicates
            background = Image.fromarray(rng.integers(0, 120, (3, 4, 3)).astype(np.uint8))
            pixels = np.array(background.resize((30, 24)))
            top, left = rng.integers(0, (24 - SIZE + 1, 30 - SIZE + 1))
            for channel in range(3):
                draw(pixels[top : top + SIZE, left : left + SIZE, channel], label)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg", quality=95)
    return folder


def draw(image_HW: np.ndarray, label: int) -> None:
    if label == 0:
        image_HW[1:11, 5:7] = 230
    elif label == 1:
        image_HW[4:8, 4:8] = 230
    else:
        image_HW[2:10, 2:10] = 230
        image_HW[4:8, 4:8] = 0


def tiny_config(dataset: Path, **fields: object) -> Config:
    """Return the config of a small dense model on this data set, with some fields changed."""
    from stacked_ram.config.yaml import replace_fields

    config = from_dict(
        {
            "data": {"dataset": str(dataset), "workers": 0, "cache": "none"},
            "model": {
                "patch_size": 4, "num_patches": 2, "num_glimpses": 2, "what_size": 16,
                "where_size": 8, "feature_size": 16, "core_size": 16,
            },
            "training": {
                "epochs": 3, "batch_size": 8, "learning_rate": 0.01, "pictures_every": 0,
                "device": "cpu",
            },
        },
        "tiny",
    )  # fmt: skip
    return replace_fields(config, fields)

"""Helpers: make small, distinct photos and folders of them, run a preparation, read its output."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.preparation.summary import PrepareSummary


def picture(seed: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """Return an RGB picture of soft blobs, different for every seed. `size`: (width, height)."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return blobs.resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **settings) -> Path:
    """Save a picture; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)
    return path


def jpeg(image: Image.Image, **settings) -> bytes:
    """Return a picture as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def class_folders(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Make class folders with `counts` photos each, all different."""
    seed = first
    for name, count in counts.items():
        for number in range(count):
            save(picture(seed), root / name / f"photo {number:03d}.jpg", quality=95)
            seed += 1
    return root


def run(source: Path, dest: Path, **options) -> dict:
    """Prepare in this process; return the content of dataset.yaml."""
    summarise(source, dest, **options)
    return dataset_info(dest)


def summarise(source: Path, dest: Path, **options) -> PrepareSummary:
    """Prepare in this process; return the summary."""
    options.setdefault("workers", 1)
    return prepare(PrepareOptions(source=source, dest=dest, **options))


def by_source(dest: Path) -> dict[str, dict[str, str]]:
    """Return source -> row of the manifest."""
    return {row["source"]: row for row in rows(dest)}


def dataset_info(dest: Path) -> dict:
    """Return the content of dataset.yaml."""
    return yaml.safe_load((dest / "dataset.yaml").read_text(encoding="utf-8"))


def rows(dest: Path, name: str = "manifest.csv") -> list[dict[str, str]]:
    """Return the rows of manifest.csv or report.csv."""
    with open(dest / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def problems(dest: Path) -> dict[str, str]:
    """Return file name in the source -> problem, for the photos that are not in the data set."""
    return {
        row["source"].rsplit("/", 1)[-1]: row["problem"]
        for row in rows(dest, "report.csv")
        if row["fate"] != "stored"
    }


def split_sizes(dest: Path) -> dict[str, Counter]:
    """Return class -> split -> number of photos in the manifest."""
    sizes: dict[str, Counter] = {}
    for row in rows(dest):
        sizes.setdefault(row["class"], Counter())[row["split"]] += 1
    return sizes


def tree_digest(folder: Path) -> dict[str, str]:
    """Return relative path -> sha256 for every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_sound(dest: Path) -> None:
    """Check what must hold for every prepared data set."""
    info = dataset_info(dest)
    listed = rows(dest)
    present = {
        path.relative_to(dest).as_posix()
        for split in ("train", "valid", "test")
        for path in (dest / split).rglob("*")
        if path.is_file()
    }
    mismatched = {row["path"] for row in listed} ^ present
    assert not mismatched, f"listed or present, but not both: {mismatched!r}"
    assert len(listed) == len(present)
    assert not [*dest.parent.glob(f".{dest.name}.*")], "a working folder was left"
    counts = {split: dict.fromkeys(info["classes"], 0) for split in ("train", "valid", "test")}
    for row in listed:
        counts[row["split"]][row["class"]] += 1
        content = (dest / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.mode == "RGB"
            assert image.size == (int(row["width"]), int(row["height"]))
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[Path(row["path"]).suffix]
        split, folder, _ = row["path"].split("/")
        assert split == row["split"]
        assert info["folders"][info["classes"].index(row["class"])] == folder
    assert counts == info["counts"]
    assert info["folders"] == sorted(info["folders"])


def encoded_again(path: Path, target: Path) -> None:
    """Save a near duplicate: smaller, and of another JPEG quality."""
    image = Image.open(path)
    save(image.resize((image.width * 3 // 4, image.height * 3 // 4)), target, quality=80)

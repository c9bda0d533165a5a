"""The inspection finds planted faults, accuses few clean photos, and changes nothing else."""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from making import rows, run, save
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from stacked_ram.preparation.inspection import inspect_photos


def scene(kind: int, seed: int) -> Image.Image:
    """A photo-like picture: fine texture, with stripes (kind 0) or discs (1)."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(30, 220, (12, 16, 3), dtype=np.uint8))
    ground = np.asarray(rough.resize((256, 192), Image.Resampling.BICUBIC), np.float32)
    down, across = np.mgrid[:192, :256]
    if kind == 0:
        mark = 35 * np.sin((across + 0.3 * down) / 4 + seed)
    else:
        x, y = rng.integers(60, 196), rng.integers(60, 132)
        mark = np.where(np.hypot(across - x, down - y) < 45, 70, 0)
    pixels = ground + mark[..., None] + rng.normal(0, 12, ground.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def inspected(tmp_path_factory) -> list[dict[str, str]]:
    """The findings in a set with planted faults; paths are only the photos' names."""
    folder = tmp_path_factory.mktemp("inspected")
    for number in range(30):
        for kind, name in enumerate(("stripes", "discs")):
            save(scene(kind, 100 * kind + number), folder / "in" / name / f"{name}{number}.png")
    planted = {
        "dark": ImageEnhance.Brightness(scene(0, 51)).enhance(0.12),
        "overexposed": scene(0, 52).point(lambda value: min(255, value + 200)),
        "flat": Image.blend(scene(0, 53), Image.new("RGB", (256, 192), (120,) * 3), 0.96),
        "blurred": scene(0, 54).filter(ImageFilter.GaussianBlur(3)),
        "odd_size": scene(0, 55).resize((40, 30)),
        "odd_shape": scene(0, 56).crop((0, 80, 256, 120)),
        "copy": ImageOps.mirror(scene(0, 3)),
        "likely_mislabelled": scene(1, 157),
    }
    for name, image in planted.items():
        save(image, folder / "in" / "stripes" / f"{name}.png")
    run(folder / "in", folder / "out")
    before = digest(folder / "out")
    inspect_photos(folder / "out")
    assert digest(folder / "out") == before
    page = (folder / "out" / "inspection.html").read_text(encoding="utf-8")
    assert len(page) > 5000
    shown = set(re.findall(r'class="fix" data-file="([^"]*)"', page))  # with buttons to fix them
    assert shown and shown <= {row["source"] for row in rows(folder / "out")}
    with open(folder / "out" / "inspection.csv", newline="") as file:
        return [
            row | {name: Path(row[name]).stem for name in ("path", "other")}
            for row in csv.DictReader(file)
        ]


def digest(folder: Path) -> str:
    """A hash of all files of a data set but the inspection's."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("inspection."):
            found.update(path.as_posix().encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("problem", ["dark", "overexposed", "flat", "blurred", "odd_size",
                                     "odd_shape", "copy", "likely_mislabelled"])  # fmt: skip
def test_a_planted_fault_is_found_under_its_name(inspected, problem):
    rows = [row for row in inspected if problem in (row["path"], row["other"])]
    (row,) = [row for row in rows if row["problem"] == problem]
    if problem == "copy":
        assert {row["path"], row["other"]} == {"copy", "stripes3"}
        assert row["detail"] == "mirrored"
    if problem == "likely_mislabelled":
        assert row["detail"].startswith("looks like discs")


def test_clean_photos_are_hardly_accused(inspected):
    accused = {row["path"] for row in inspected if row["path"][-1].isdigit()}
    assert len(accused - {"stripes3"}) <= 1

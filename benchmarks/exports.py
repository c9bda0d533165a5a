"""Every kind of model as torch.export and as ONNX, compared with PyTorch on real photos.

    python benchmarks/exports.py PHOTOS [--all] [--only NAME] [--out FILE.csv]

PHOTOS: a folder of photos. Each combination of retina, stack and attention is traced once, with
random weights and free batch and photo size, and run by torch and by onnxruntime on crops of the
photos: one, two and three at a time, of three sizes. The cores take turns, as do patch units;
--all tries every core with every combination. Printed: the largest difference of a probability or
location, and "size fixed" where the program takes only one size of photos. --out adds each row to a
table as soon as it is known; what the table already holds is not tried again, so a run that was
stopped goes on where it was. A difference above 1e-4 or a model that cannot be exported ends with
exit code 1.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import repository  # noqa: F401
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stacked_ram.config.model import ModelConfig
from stacked_ram.models.build import build_model
from stacked_ram.runs.export import TOLERANCE, DeterministicPass, Shape, traced
from stacked_ram.runs.onnx import session, write_onnx
from stacked_ram.runtime.errors import UserError

SMALL = dict(
    patch_size=16, num_patches=2, what_size=16, where_size=8, feature_size=16, core_size=16,
    map_channels=8, num_glimpses=2, backbone="test_efficientnet",
)  # fmt: skip
GLANCE = dict(glance=(64, 64), regions=(2, 2), first_location="learned")
RETINAS = ("dense", "conv", "backbone")
STACKS = ("none", "rnn", "conv", "backbone")
CORES = ("lstm", "gru", "rnn", "transformer", "sum")
ATTENTIONS = {
    "gaussian": {},
    "gaussian of the map": dict(policy_reads="map", **GLANCE),
    "cells of the state": dict(policy="categorical", regions=(3, 4)),
    "cells of the map": dict(policy="categorical", **GLANCE),
    "soft": dict(attention="soft", **GLANCE),
}
UNITS = ({"patch_width": 2.0}, {"patch_unit": "fraction", "patch_width": 0.3})
KINDS = ("torch.export", "ONNX")
COLUMNS = ("model", *KINDS, "size", "refused")
SHAPES = ((2, 92, 117), (1, 131, 88), (3, 104, 160))  # photos, height, width


def cases(every_core: bool) -> Iterator[tuple[str, ModelConfig]]:
    """Iterate over all combinations that a configuration allows, with their names."""
    turn = 0
    for attention, retina, stack in itertools.product(ATTENTIONS, RETINAS, STACKS):
        for core in CORES if every_core else (CORES[turn % len(CORES)],):
            unit = UNITS[turn // len(CORES) % 2]
            levels = 1 if stack == "none" else 2
            values = {**SMALL, **unit, **ATTENTIONS[attention]}
            try:
                config = ModelConfig(
                    retina=retina, stack=stack, core=core, num_levels=levels, **values
                )
            except UserError:  # they do not go together
                continue
            turn += 1
            yield f"{retina}, stack {stack}, {core}, {attention}", config


def photo_batches(folder: Path) -> list[Tensor]:
    """Cut batches of the SHAPES from photos of a folder."""
    names = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    names = names[:: max(1, len(names) // 6)][:6]
    batches = []
    for count, height, width in SHAPES:
        photos = []
        for name in names[:count]:
            with Image.open(name) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (width, height))
            photos.append(torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1))
        batches.append(torch.stack(photos))
        names = names[count:] or names
    return batches


@torch.no_grad()
def difference(program, model, batches: list[Tensor]) -> float:
    """Return the largest difference of any output on these photos."""
    return max(
        (found - expected).abs().max().item()
        for pixels in batches
        for found, expected in zip(program(pixels), model(pixels), strict=True)
    )


def measured(config: ModelConfig, batches: list[Tensor]) -> dict[str, str]:
    """Export a model of random weights; return its row of the table."""
    torch.manual_seed(0)
    model = build_model(config, num_classes=5)
    for parameter in model.parameters():  # far from uniform beliefs and central locations
        parameter.data *= 3 if parameter.ndim > 1 and config.retina != "backbone" else 1
    whole = DeterministicPass(model).eval().requires_grad_(False)
    try:
        program, shape = traced(whole, Shape(3, SHAPES[0][1:], True, None))
        fits = [b for b in batches if shape.any_size or b.shape[2:] == shape.size]
        found = {"torch.export": difference(program.module(), whole, fits)}
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(program, shape.describe(), Path(folder) / "model.onnx")
            found["ONNX"] = difference(session(Path(folder) / "model.onnx"), whole, fits)
    except UserError as error:
        return {"refused": str(error)}
    size = "any" if shape.any_size else "fixed"
    return {**{kind: f"{value:.1e}" for kind, value in found.items()}, "size": size}


def good(row: dict[str, str]) -> bool:
    return not row["refused"] and max(float(row[kind]) for kind in KINDS) <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    batches = photo_batches(options.photos)
    rows: dict[str, dict[str, str]] = {}
    if options.out and options.out.is_file():
        with options.out.open(newline="", encoding="utf-8") as file:
            rows = {row["model"]: row for row in csv.DictReader(file)}
    tried = [name for name, _ in cases(options.all) if options.only in name]
    for name, config in cases(options.all):
        if name in rows or name not in tried:
            continue
        row = dict.fromkeys(COLUMNS, "") | {"model": name} | measured(config, batches)
        rows[name] = row
        if options.out:
            new = not options.out.is_file()
            with options.out.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
        said = [f"{kind} {row[kind]}" for kind in KINDS]
        words = (
            f"NO: {row['refused']}" if row["refused"] else f"{', '.join(said)}, {row['size']} size"
        )
        print(f"{name:55} {words}", flush=True)
    return 0 if all(good(rows[name]) for name in tried) else 1


if __name__ == "__main__":
    sys.exit(main())

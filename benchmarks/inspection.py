"""What `prepare_data.py --inspect` finds of planted faults, and how many clean photos it accuses.

    python benchmarks/inspection.py datasets/flowers17 datasets/stanford_dogs

Copies the photos of a prepared data set, plants 20 faults of each kind in it (photos of something
else come from another data set), prepares and inspects that, and prints a row for each kind of
fault: planted, found under its name, or kept together with its original by the preparation itself;
and for each kind of finding the clean photos that have it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas
import repository  # noqa: F401
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from stacked_ram.preparation.inspection import inspect_photos
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.pipeline import prepare

EACH = 20
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "dark": lambda photo: ImageEnhance.Brightness(photo).enhance(0.12),
    "overexposed": lambda photo: photo.point(lambda value: min(255, value + 200)),
    "flat": lambda photo: Image.blend(photo, Image.new("RGB", photo.size, (120,) * 3), 0.95),
    "blurred": lambda photo: photo.filter(ImageFilter.GaussianBlur(min(photo.size) / 100)),
    "odd_size": lambda photo: photo.resize((44, 33)),
    "odd_shape": lambda photo: photo.crop(
        (0, photo.height * 5 // 12, photo.width, photo.height * 7 // 12)
    ),
}
COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "turned": lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
    "cropped by 5 percent": lambda photo: photo.crop(
        (
            photo.width * 3 // 100,
            photo.height // 50,
            photo.width * 49 // 50,
            photo.height * 97 // 100,
        )
    ),
    "framed": lambda photo: ImageOps.expand(photo, round(0.06 * min(photo.size)), "black"),
}
FINDINGS = {"mislabelled": "likely_mislabelled", "other": "far_from_class"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="prepared photos")
    parser.add_argument("other", type=Path, help="prepared photos of something else")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, dest = Path(folder, "raw"), Path(folder, "prepared")
        plant(options.dataset, options.other, raw, random.Random(options.seed))
        prepare(PrepareOptions(source=raw, dest=dest), progress=True)
        report(inspect_photos(dest), pandas.read_csv(dest / "manifest.csv"))


def photos_of(folder: Path) -> list[tuple[Path, str]]:
    manifest = pandas.read_csv(folder / "manifest.csv", dtype=str)
    return [
        (folder / path, label) for path, label in zip(manifest.path, manifest["class"], strict=True)
    ]


def plant(dataset: Path, other: Path, raw: Path, rng: random.Random) -> None:
    """Copy the photos, and plant the faults; names are FAULT_NUMBER.jpg."""
    photos, strangers = photos_of(dataset), photos_of(other)
    classes = sorted({label for _, label in photos})
    for label in classes:
        (raw / label).mkdir(parents=True)
    order = rng.sample(range(len(photos)), len(photos))
    faults = ["mislabelled", *CHANGES]
    fault_of = {row: faults[place // EACH] for place, row in enumerate(order[: EACH * len(faults)])}
    clean = order[EACH * len(faults) :]
    for row, (path, label) in enumerate(photos):
        fault = fault_of.get(row, "clean")
        if fault in CHANGES:
            save(CHANGES[fault](Image.open(path).convert("RGB")), raw / label, fault, row)
            continue
        if fault == "mislabelled":
            label = rng.choice([name for name in classes if name != label])
        shutil.copy(path, raw / label / f"{fault}_{row}{path.suffix}")
    for row in rng.sample(range(len(strangers)), EACH):
        path = strangers[row][0]
        shutil.copy(path, raw / rng.choice(classes) / f"other_{row}{path.suffix}")
    for name, change in COPIES.items():
        for row in rng.sample(clean, EACH):
            path, label = photos[row]
            save(change(Image.open(path).convert("RGB")), raw / label, name, row)


def save(photo: Image.Image, folder: Path, fault: str, row: int) -> None:
    photo.save(folder / f"{fault}_{row}.jpg", quality=93)


def report(found: pandas.DataFrame, manifest: pandas.DataFrame) -> None:
    def fault(path: object) -> str:
        return Path(str(path)).stem.rpartition("_")[0]

    number = manifest.path.map(lambda path: Path(path).stem.rpartition("_")[2])
    faults = manifest.path.map(fault)
    groups = dict(zip(number[faults == "clean"], manifest.group[faults == "clean"], strict=True))
    for name in ("mislabelled", "other", *CHANGES, *COPIES):
        problem = "copy" if name in COPIES else FINDINGS.get(name, name)
        rows = found[found.problem == problem]
        hits = {path for path in (*rows.path, *rows.other) if fault(path) == name}
        together = 0
        if name in COPIES:
            same = manifest[faults == name]
            together = sum(
                row.path not in hits
                and isinstance(row.group, str)
                and groups.get(Path(row.path).stem.rpartition("_")[2]) == row.group
                for row in same.itertuples()
            )
        print(
            f"{name:22} planted {(faults == name).sum():3}, found {len(hits):3},"
            f" together {together:3}"
        )
    clean = (faults == "clean").sum()
    for problem, rows in found.groupby("problem", observed=True):
        both = [
            (fault(row.path), fault(row.other) if row.other else "clean")
            for row in rows.itertuples()
        ]
        accused = sum(pair == ("clean", "clean") for pair in both)
        print(f"{problem:22} clean photos accused: {accused:3} of {clean} ({accused / clean:.2%})")


if __name__ == "__main__":
    main()

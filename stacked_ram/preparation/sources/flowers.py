"""Read Oxford Flowers 17 and 102: numbered photos in jpg/, labels and splits in .mat files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Record
from stacked_ram.preparation.sources.common import (
    Source,
    entries,
    read_lines,
    read_mat,
    whole_numbers,
)
from stacked_ram.preparation.sources.flower_names import FLOWERS_17, FLOWERS_102
from stacked_ram.runtime.errors import UserError

_NUMBERED = re.compile(r"image_(\d{4,5})\.jpe?g", re.IGNORECASE)
_PER_CLASS_17 = 80


def flowers17_fits(root: Path) -> bool:
    """Return whether jpg/ holds image_0001.jpg ... and there are no labels of Flowers 102."""
    return (
        (root / "jpg").is_dir()
        and not (root / "imagelabels.mat").is_file()
        and any(map(_NUMBERED.fullmatch, os.listdir(root / "jpg")))
    )


def read_flowers17(root: Path, options: PrepareOptions) -> Source:
    """Read Flowers 17: photos 1 to 80 are the first class, and so on; three official splits."""
    if not flowers17_fits(root):
        raise UserError(f"{root}: not Flowers 17: jpg/image_0001.jpg ... are missing")
    splits, split_name = {}, ""
    notes: list[str] = []
    split_file = root / "datasplits.mat"
    if split_file.is_file():
        n = options.official_split
        splits = _splits(split_file, {f"trn{n}": "train", f"val{n}": "valid", f"tst{n}": "test"})
        split_name = f"official split {n} (datasplits.mat)"
    elif options.official_split != 1:
        raise UserError(f"--official-split {options.official_split}: {split_file} is missing")
    files = _numbered(root, notes)
    beyond = [n for n, _ in files if not 1 <= n <= _PER_CLASS_17 * len(FLOWERS_17)]
    if beyond:
        raise UserError(
            f"{root / 'jpg'}: image_{beyond[0]:04d}.jpg is not in Flowers 17 (numbers 1 to 1360)"
        )
    records = (
        Record(file, FLOWERS_17[(n - 1) // _PER_CLASS_17], splits.get(n)) for n, file in files
    )
    return Source("flowers17", records, split_name, notes)


def flowers102_fits(root: Path) -> bool:
    """Return whether jpg/ and imagelabels.mat exist."""
    return (root / "jpg").is_dir() and (root / "imagelabels.mat").is_file()


def read_flowers102(root: Path, options: PrepareOptions) -> Source:
    """Read Flowers 102: labels from imagelabels.mat, the official split from setid.mat."""
    label_file, split_file = root / "imagelabels.mat", root / "setid.mat"
    if not flowers102_fits(root):
        raise UserError(f"{root}: not Flowers 102: jpg/ and imagelabels.mat are missing")
    labels = whole_numbers(label_file, "labels", read_mat(label_file, ["labels"])["labels"])
    if len(labels) == 0 or labels.min() < 1 or labels.max() > len(FLOWERS_102):
        raise UserError(f"{label_file}: labels must be 1 to {len(FLOWERS_102)}")
    splits, split_name = {}, ""
    notes: list[str] = []
    if split_file.is_file():
        splits = _splits(split_file, {"trnid": "train", "valid": "valid", "tstid": "test"})
        split_name = "the official split (setid.mat)"
    files = _numbered(root, notes)
    beyond = [n for n, _ in files if not 1 <= n <= len(labels)]
    if beyond:
        raise UserError(f"{label_file}: has no label for image_{beyond[0]:05d}.jpg")
    records = (Record(file, FLOWERS_102[labels[n - 1] - 1], splits.get(n)) for n, file in files)
    return Source("flowers102", records, split_name, notes)


def _numbered(root: Path, notes: list[str]) -> list[tuple[int, Path]]:
    """Return (number, path) of the photos listed in files.txt, or of all in jpg/ without it."""
    present = entries(root / "jpg")[1]
    lists = [path for path in (root / "jpg/files.txt", root / "files.txt") if path.is_file()]
    names = [file.name for file in present]
    others = [n for n in names if not _NUMBERED.fullmatch(n) and n != "files.txt"]
    if others:
        notes.append(f"{len(others)} other files in jpg/ are not used: {', '.join(others[:3])}")
    if lists:
        names = [line.strip() for line in read_lines(lists[0])]
    matches = ((_NUMBERED.fullmatch(name), name) for name in sorted(set(names)))
    return [(int(match[1]), root / "jpg" / name) for match, name in matches if match]


def _splits(path: Path, variables: dict[str, str]) -> dict[int, str]:
    """Read number of the photo -> split from the variables of a .mat file."""
    splits: dict[int, str] = {}
    found = read_mat(path, list(variables))
    for variable, split in variables.items():
        for number in whole_numbers(path, variable, found[variable]):
            if splits.setdefault(int(number), split) != split:
                raise UserError(
                    f"{path}: photo {number} is both in {splits[int(number)]} and {split}"
                )
    return splits

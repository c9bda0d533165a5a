"""Read BACH (ICIAR 2018): breast histology photos in TIFF, in four class folders."""

from __future__ import annotations

from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import Record
from stacked_ram.preparation.sources.common import Source, entries, walk
from stacked_ram.runtime.errors import UserError

CLASSES = ("Benign", "InSitu", "Invasive", "Normal")


def fits(root: Path) -> bool:
    """Return whether the four class folders exist, here or in Photos/."""
    return _folders(root) is not None


def read(root: Path, options: PrepareOptions) -> Source:
    """Read the 400 photos of 2048x1536; the whole-slide images beside them are not used."""
    folders = _folders(root)
    if folders is None:
        raise UserError(f"{root}: not BACH: the folders {', '.join(CLASSES)} are missing")
    lists = (".csv", ".txt", ".xml")
    files = ((file, name) for name, folder in folders.items() for file in walk(folder))
    records = (Record(file, name) for file, name in files if file.suffix.lower() not in lists)
    return Source("bach", records)


def _folders(root: Path) -> dict[str, Path] | None:
    for base in (root, root / "Photos"):
        if base.is_dir():
            found = {"".join(f.name.lower().split()): f for f in entries(base)[0]}
            if all(name.lower() in found for name in CLASSES):
                return {name: found[name.lower()] for name in CLASSES}
    return None

"""Finding out how a source is laid out, and reading it: one adapter a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources import (
    bach,
    cub200,
    flowers,
    folders,
    labels_csv,
    stanford_dogs,
)
from stacked_ram.preparation.sources.common import Source, entries
from stacked_ram.runtime.errors import UserError

_Adapter = tuple[Callable[[Path], bool], Callable[[Path, PrepareOptions], Source]]

# In the order of trying: what only one layout has comes before what many folders have.
_OFFICIAL: dict[str, _Adapter] = {
    "flowers102": (flowers.flowers102_fits, flowers.read_flowers102),
    "flowers17": (flowers.flowers17_fits, flowers.read_flowers17),
    "stanford_dogs": (stanford_dogs.fits, stanford_dogs.read),
    "cub200": (cub200.fits, cub200.read),
    "bach": (bach.fits, bach.read),
}
_GENERAL: dict[str, _Adapter] = {
    "split_folders": (folders.split_folders_fit, folders.read_split_folders),
    "labels_csv": (labels_csv.labels_csv_fits, labels_csv.read_labels_csv),
    "class_folders": (folders.class_folders_fit, folders.read_class_folders),
}


def find_digits(root: Path, options: PrepareOptions) -> Path | None:
    """The folder with the IDX files of the MNIST family, where `root` is or holds one.

    Raises:
        UserError: where --layout mnist asks for them and there are none.
    """
    if options.layout not in ("auto", "mnist"):
        return None
    for base in _bases(root):
        names = [file.name for file in entries(base)[1]]
        if any("images" in name and "idx3" in name for name in names):
            return base
    if options.layout == "mnist":
        raise UserError(f"{root}: no IDX files found (train-images-idx3-ubyte[.gz] ...)")
    return None


def find_source(root: Path, options: PrepareOptions) -> Source:
    """Read `root` by the layout asked for, or by the first that fits it.

    Raises:
        UserError: where none fits, or the one asked for does not.
    """
    if options.labels is not None:
        return labels_csv.read_labels_csv(root, options)
    adapters = _OFFICIAL | _GENERAL
    chain = list(_single_chain(root))
    if options.layout != "auto":
        fits, read = adapters[options.layout]
        bases = reversed(chain) if options.layout == "class_folders" else _bases(root)
        base = next((base for base in bases if fits(base)), root)
        return read(base, options)
    for fits, read in _OFFICIAL.values():
        for base in _bases(root):
            if fits(base):
                return read(base, options)
    for name in ("split_folders", "labels_csv"):
        fits, read = _GENERAL[name]
        for base in chain:
            if fits(base):
                return read(base, options)
    fits, read = _GENERAL["class_folders"]
    for base in reversed(chain):  # what wraps the class folders is no class
        if fits(base):
            return read(base, options)
    raise UserError(
        f"{root}: no layout fits: neither class folders with photos in them, nor train/ valid/ "
        "test/, nor a CSV with the columns file and label, nor a known data set (see --layout)"
    )


def _bases(root: Path) -> Iterator[Path]:
    """Where a known data set may begin: here, or one or two folders down where there are few."""
    for base in _single_chain(root):
        yield base
    last = base
    inner = entries(last)[0]
    if len(inner) <= 8:
        yield from inner


def _single_chain(root: Path) -> Iterator[Path]:
    """`root`, and further down while there is one folder and no file, as an archive wraps it."""
    base = root
    for _ in range(4):
        yield base
        inner, files = entries(base)
        if files or len(inner) != 1:
            return
        base = inner[0]

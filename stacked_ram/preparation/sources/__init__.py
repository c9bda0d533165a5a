"""Recognise the layout of a source and read it, with one adapter per layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.sources import (
    bach,
    coco,
    cub200,
    flowers,
    folders,
    labels_csv,
    metadata,
    stanford_dogs,
    voc,
    yolo,
)
from stacked_ram.preparation.sources.common import Source, entries, split_of
from stacked_ram.preparation.sources.tables import find_tables
from stacked_ram.runtime.errors import UserError

_Adapter = tuple[Callable[[Path], bool], Callable[[Path, PrepareOptions], Source]]

# In the order in which they are tried: the most specific layout first.
_ADAPTERS: dict[str, _Adapter] = {
    "flowers102": (flowers.flowers102_fits, flowers.read_flowers102),
    "flowers17": (flowers.flowers17_fits, flowers.read_flowers17),
    "stanford_dogs": (stanford_dogs.fits, stanford_dogs.read),
    "cub200": (cub200.fits, cub200.read),
    "bach": (bach.fits, bach.read),
    "metadata": (metadata.fits, metadata.read),
    "coco": (coco.fits, coco.read),
    "yolo": (yolo.fits, yolo.read),
    "voc": (voc.fits, voc.read),
    "split_folders": (folders.split_folders_fit, folders.read_split_folders),
    "labels_csv": (labels_csv.labels_csv_fits, labels_csv.read_labels_csv),
    "class_folders": (folders.class_folders_fit, folders.read_class_folders),
}
# Layouts that a part of a source may have, too, such as a single class folder: they are looked for
# only where the whole source begins.
_ANYWHERE = ("metadata", "coco", "yolo", "voc", "split_folders", "labels_csv")


def find_digits(root: Path, options: PrepareOptions) -> Path | None:
    """Return the folder with the IDX files of the MNIST family, at or below `root`, or None.

    Raises:
        UserError: --layout mnist was given and there are no IDX files.
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
    """Read `root` with the layout of `options`, or, for "auto", with the first that fits.

    Raises:
        UserError: no layout fits, or the requested layout does not.
    """
    if options.labels is not None and options.labels.suffix.lower() == ".json":
        return coco.read(root, options)
    if options.labels is not None:
        return labels_csv.read_labels_csv(root, options)
    if options.multi_label:
        return _find_several(root, options)
    for name, (fits, read) in _ADAPTERS.items():
        if options.layout not in ("auto", name):
            continue
        bases: Iterable[Path] = _bases(root)
        if name == "class_folders":  # a folder around the class folders is not a class
            bases = reversed(list(_single_chain(root)))
        elif options.layout == "auto" and name in _ANYWHERE:
            bases = _single_chain(root)
        base = next((base for base in bases if fits(base)), None)
        if base is not None:
            if name == "class_folders" and options.layout == "auto":
                _refuse_splits(base)
            return read(base, options)
        if options.layout == name:
            return read(root, options)  # raises, with what is missing
    raise UserError(
        f"{root}: no layout fits: no class folders with photos, no train/ valid/ test/, no CSV "
        f"with the columns file and label{unread_tables(root)}, no known data set (see --layout)"
    )


def _find_several(root: Path, options: PrepareOptions) -> Source:
    """Read `root` with a layout that can give several labels to a photo."""
    readers: dict[str, _Adapter] = {
        **{name: _ADAPTERS[name] for name in ("coco", "yolo", "voc")},
        "metadata": (partial(metadata.fits, multi_label=True), metadata.read),
        "labels_csv": (
            partial(labels_csv.labels_csv_fits, multi_label=True),
            labels_csv.read_labels_csv,
        ),
    }
    for base in _single_chain(root):
        for name, (fits, read) in readers.items():
            if options.layout in ("auto", name) and fits(base):
                return read(base, options)
    raise UserError(
        f"{root}: --multi-label needs a CSV with the columns file and label, or one column of 0 "
        f"and 1 for each label{unread_tables(root)}; or a metadata.jsonl, or annotations of objects"
    )


def unread_tables(root: Path) -> str:
    """Return " (found: ...)" with the columns of CSVs that are not understood, "" if none."""
    tables = [table for base in _single_chain(root) for table in find_tables(base)[1]]
    return f" (found: {'; '.join(table.describe() for table in tables[:3])})" if tables else ""


def _refuse_splits(base: Path) -> None:
    """Refuse folders called train, test ... with photos, but without classes, as classes."""
    names = [folder.name for folder in entries(base)[0]]
    if names and all(map(split_of, names)):
        raise UserError(
            f"{base}: {', '.join(names)} hold no class folders, and no CSV{unread_tables(base)} "
            "gives the labels: add class folders or a CSV with the columns file and label, or give "
            "--layout class_folders if these are the classes"
        )


def _bases(root: Path) -> Iterator[Path]:
    """Iterate over folders where a known data set may begin: `root` or a little below it."""
    for base in _single_chain(root):
        yield base
    last = base
    inner = entries(last)[0]
    if len(inner) <= 8:
        yield from inner


def _single_chain(root: Path) -> Iterator[Path]:
    """Iterate over `root` and the folders below it, as long as each holds only one folder.

    Many archives wrap their content in such folders.
    """
    base = root
    for _ in range(4):
        yield base
        inner, files = entries(base)
        if files or len(inner) != 1:
            return
        base = inner[0]

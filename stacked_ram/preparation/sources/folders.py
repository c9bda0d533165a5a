"""Read class folders, and train/valid/test folders that hold class folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from stacked_ram.images.names import path_text
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import SPLITS, Record
from stacked_ram.preparation.sources.common import Source, entries, split_of, walk
from stacked_ram.runtime.errors import UserError


def class_folders_fit(root: Path) -> bool:
    """Return whether any folder in `root` holds files, directly or further down."""
    return bool(_class_folders(root))


def read_class_folders(root: Path, options: PrepareOptions) -> Source:
    """Read each folder as one class, with all files below it."""
    within = _unwrapped(root)
    classes = _class_folders(within)
    if not classes:
        raise UserError(
            f"{root}: no class folders found: each class needs a folder with its photos in it, or "
            "give --labels labels.csv"
        )
    hidden: list[Path] = []
    for folder in entries(within, hidden)[0]:
        name = path_text(folder.name)
        if not any(walk(folder)) and (not options.classes or name in options.class_list):
            raise UserError(
                f"{folder}: class {name!r} has no photos: add some, or remove the folder"
            )
    source = Source("class_folders", [])
    source.records = _records({None: classes}, root, hidden, source)
    source.notes += _stray_note(root)
    return source


def split_folders_fit(root: Path) -> bool:
    """Return whether `root` has a folder train/ with class folders."""
    splits = _split_folders(root)
    return "train" in splits and bool(_class_folders(splits["train"]))


def read_split_folders(root: Path, options: PrepareOptions) -> Source:
    """Read train/, valid/ (or val/) and test/, each with class folders."""
    splits = _split_folders(root)
    if "train" not in splits:
        raise UserError(f"{root}: no folder train/ found (expected: train/ valid/ test/)")
    hidden: list[Path] = []
    folders = entries(root, hidden)[0]
    unused = [path for path in folders if path not in splits.values() and any(walk(path))]
    names = ", ".join(f"{path_text(path.name)}/" for path in unused)
    if unused and len(splits) == 1 and options.layout == "auto":
        raise UserError(
            f"{root}: is train/ the training split, or a class beside {names}? Give --layout"
            " split_folders (which uses train/ alone) or --layout class_folders"
        )
    trained = _class_folders(_unwrapped(splits["train"]))
    classes = {split: _like(trained, folder) for split, folder in splits.items()}
    in_order: dict[str | None, dict[str, Path]] = {
        split: classes[split] for split in SPLITS if split in classes
    }
    source = Source("split_folders", [], "the folders' own split")
    source.records = _records(in_order, root, hidden, source)
    for split, found in classes.items():
        entries(splits[split], hidden)
        if not found:
            source.notes.append(f"{splits[split].name}/ has no class folders and is not used")
        source.notes += _stray_note(splits[split])
    if unused:
        source.notes.append(f"folders that belong to no split are not used: {names}")
    source.notes += _stray_note(root)
    return source


def _split_folders(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in entries(root)[0]:
        split = split_of(folder.name)
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{root}: both {found[split].name}/ and {folder.name}/ would be {split}: keep one"
            )
        found[split] = folder
    return found


def _records(
    classes: Mapping[str | None, dict[str, Path]], root: Path, hidden: list[Path], source: Source
) -> Iterator[Record]:
    """Iterate over all photos, then note the folders that were passed over.

    Args:
        classes: split -> class name -> folder.
        hidden: folders whose names begin with a dot, found so far.
    """
    for split, folders in classes.items():
        for name, folder in sorted(folders.items()):
            for file in walk(folder, hidden):
                yield Record(file, name, split)
    if hidden:
        shown = ", ".join(f"{path_text(path.relative_to(root))}/" for path in hidden[:3])
        source.notes.append(
            f"{len(hidden)} folders whose names begin with a dot are not used: {shown}"
        )


def _class_folders(root: Path) -> dict[str, Path]:
    """Return class name -> folder, for all folders that hold files, directly or further down."""
    return {path_text(path.name): path for path in entries(root)[0] if any(walk(path))}


def _like(classes: dict[str, Path], root: Path) -> dict[str, Path]:
    """Return the class folders of a split, which may be wrapped in one more folder.

    Args:
        classes: the class folders of the training split.
    """
    inner = _class_folders(_unwrapped(root))
    return inner if inner.keys() & classes.keys() else _class_folders(root)


def _unwrapped(root: Path) -> Path:
    """Return the only folder in `root` if it holds nothing but folders, otherwise `root`."""
    folders = entries(root)[0]
    if len(folders) == 1:
        inner, files = entries(folders[0])
        if inner and not files:
            return folders[0]
    return root


def _stray_note(root: Path) -> list[str]:
    files = entries(root)[1]
    if not files:
        return []
    shown = ", ".join(path_text(file.name) for file in files[:3])
    return [f"{len(files)} files beside the class folders are not used: {shown}"]

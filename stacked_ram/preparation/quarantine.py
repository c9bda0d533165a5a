"""Copy the quarantined files of a source into a folder, where a person can look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.workdir import (
    follow_link,
    publish,
    remove_tree,
    restore,
    working_folder,
    write_table,
)
from stacked_ram.runtime.errors import UserError

TABLE = "quarantine.csv"  # in the folder: a row per file, with the reason
COLUMNS = ("source", "class", "problem", "detail", "copy")

Quarantined = tuple[str, str, str, str]
"""(path in the source, class, problem, detail)"""


def check_quarantine(folder: Path, source: Path | None, dest: Path) -> None:
    """Refuse a folder that holds other files, or that overlaps with SOURCE or DEST.

    Raises:
        UserError: naming both.
    """
    flag = f"--quarantine {folder}"
    place = folder.resolve()
    for what, other in [("SOURCE", source), ("DEST", dest)]:
        if other is None:
            continue
        taken = other.resolve()
        if place == taken or taken in place.parents or place in taken.parents:
            raise UserError(f"{flag}: {what} {other} is the same place, or one holds the other")
    if not folder.exists() or (folder / TABLE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{flag}: exists and holds other files: choose another folder")


def write_quarantine(folder: Path, catalogue: Catalogue, photos: Iterable[Quarantined]) -> int:
    """Copy the files of `photos` to FOLDER/PROBLEM/PATH, and list them in quarantine.csv.

    An earlier quarantine in the folder is replaced, when this one is complete.

    Returns:
        The number of listed files.
    """
    folder = follow_link(folder)
    tree = working_folder(folder)
    remove_tree(tree)
    restore(folder)
    tree.mkdir(parents=True)
    listed = {photo[0].strip(): photo for photo in photos}
    numbers = catalogue.find(listed)
    rows = []
    for name, photo in listed.items():
        file = catalogue.file_of(numbers[name][0])
        copy = Path(photo[2]) / file.relative_to(catalogue.root)
        detail, target = "", tree / copy
        if file.is_file():  # neither lost, nor a device that could be read for ever
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(file, target)
            except PermissionError:  # this may be why it was quarantined
                target.unlink(missing_ok=True)
            else:
                detail = copy.as_posix()
        rows.append((*photo, detail))
    write_table(tree / TABLE, COLUMNS, rows)
    publish(tree, folder)
    return len(rows)

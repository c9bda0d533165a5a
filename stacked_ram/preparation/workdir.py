"""Handle the working folder beside DEST, and rename a finished tree to DEST in one step."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

from stacked_ram.runtime.errors import UserError


def working_folder(dest: Path) -> Path:
    """Return the folder for all files until DEST is complete: `.NAME.partial` beside DEST."""
    return dest.parent / f".{dest.name}.partial"


def remember_run(dest: Path, **details: object) -> None:
    """Save the command, source and fingerprint of the run, to be written to dataset.yaml later."""
    working_folder(dest).mkdir(parents=True, exist_ok=True)
    (working_folder(dest) / "run.json").write_text(json.dumps(details), encoding="utf-8")


def recall_run(dest: Path) -> dict[str, object]:
    """Return the values saved by `remember_run`; empty if there are none."""
    note = working_folder(dest) / "run.json"
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def publish(tree: Path, dest: Path) -> None:
    """Rename the finished `tree` to `dest`; afterwards, remove the folder that it replaces."""
    old = _old(dest)
    if dest.exists():
        remove_tree(old)
        dest.rename(old)
    tree.rename(dest)
    sync_folder(dest.parent)
    remove_tree(old)


def restore(dest: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    old = _old(dest)
    if old.exists() and not dest.exists():
        old.rename(dest)
    remove_tree(old)


def remove_tree(folder: Path) -> None:
    """Remove a folder that this package made, if it exists."""
    if folder.exists():
        shutil.rmtree(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def place_file(source: Path, target: Path) -> None:
    """Hard-link a file of the working folder to a second name, or copy it if that is impossible."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, on systems that support it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems cannot, and have nothing better to offer
    finally:
        os.close(handle)


def check_place(source: Path | None, dest: Path) -> None:
    """Refuse a DEST that is SOURCE, is inside it, or contains it.

    Raises:
        UserError: naming both.
    """
    if source is None:
        return
    here, there = source.resolve(), dest.resolve()
    if here == there or here in there.parents:
        raise UserError(
            f"DEST {dest} is inside SOURCE {source}, which is never changed: choose another"
        )
    if there in here.parents:
        raise UserError(f"DEST {dest} holds SOURCE {source}: choose another")


def _old(dest: Path) -> Path:
    return dest.parent / f".{dest.name}.old"

"""The working folder beside DEST, and how a finished tree gets DEST's name in one step."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

from stacked_ram.runtime.errors import UserError


def working_folder(dest: Path) -> Path:
    """Where everything goes until DEST is complete: `.NAME.partial` beside DEST."""
    return dest.parent / f".{dest.name}.partial"


def remember_run(dest: Path, **details: object) -> None:
    """Leave a note on the run (command, source, fingerprint) for whoever writes dataset.yaml."""
    working_folder(dest).mkdir(parents=True, exist_ok=True)
    (working_folder(dest) / "run.json").write_text(json.dumps(details), encoding="utf-8")


def recall_run(dest: Path) -> dict[str, object]:
    """The note left by `remember_run`, or nothing."""
    note = working_folder(dest) / "run.json"
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def publish(tree: Path, dest: Path) -> None:
    """Give the finished `tree` the name `dest`; what was there before is removed afterwards."""
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
    """Remove a folder of ours, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: it is whole or not there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def place_file(source: Path, target: Path) -> None:
    """Give a file of the working folder a second name there, or copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Ask the system to put a folder's entries on the disk, where it can be asked."""
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
    """Refuse a DEST that is SOURCE, lies in it, or holds it.

    Raises:
        UserError: naming both.
    """
    if source is None:
        return
    here, there = source.resolve(), dest.resolve()
    if here == there or here in there.parents:
        raise UserError(
            f"DEST {dest} lies in SOURCE {source}, which is never changed: choose another"
        )
    if there in here.parents:
        raise UserError(f"DEST {dest} holds SOURCE {source}: choose another")


def _old(dest: Path) -> Path:
    return dest.parent / f".{dest.name}.old"

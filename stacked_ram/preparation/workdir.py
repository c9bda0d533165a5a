"""Handle the working folder beside DEST, and rename a finished tree to DEST in one step."""

from __future__ import annotations

import csv
import errno
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.version import __version__


def working_folder(dest: Path) -> Path:
    """Return the folder for all files until DEST is complete: `.NAME.partial` beside DEST."""
    return dest.parent / f".{dest.name}.partial"


def remember_run(dest: Path, **details: object) -> None:
    """Save what is known of the run, such as its command, to be written to dataset.yaml later."""
    working_folder(dest).mkdir(parents=True, exist_ok=True)
    (working_folder(dest) / "run.json").write_text(json.dumps(details), encoding="utf-8")


def origin_of(dest: Path, source: Path | None, **versions: str) -> dict[str, object]:
    """Return the fields of dataset.yaml that tell how a data set was made.

    Args:
        source: recorded if no run was remembered.
        versions: of further libraries.
    """
    note = working_folder(dest) / "run.json"
    run = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    return {
        "command": run.get("command", ""),
        "source": run.get("source", str(source)),
        "source_fingerprint": run.get("fingerprint", ""),
        **({"downloads": run["downloads"]} if run.get("downloads") else {}),
        "versions": {
            "stacked_ram": __version__,
            "python": platform.python_version(),
            **versions,
        },
    }


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


def process_name() -> str:
    """Return a name for this process that no other has, also on other machines."""
    return f"{platform.node()}.{os.getpid()}"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    temporary = path.with_name(f"{path.name}.{process_name()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV and flush it to disk."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def write_info(tree: Path, info: Mapping[str, object]) -> None:
    """Write dataset.yaml and flush it to disk."""
    from stacked_ram.config.yaml import dump_yaml  # late: worker processes start without it

    with open(tree / "dataset.yaml", "w", encoding="utf-8") as file:
        file.write(dump_yaml(dict(info)))
        file.flush()
        os.fsync(file.fileno())


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
        pass  # some file systems do not support it
    finally:
        os.close(handle)


def follow_link(dest: Path) -> Path:
    """Return the folder that DEST leads to if it is a link, which may not exist yet.

    Raises:
        UserError: the link leads to itself.
    """
    if not dest.is_symlink():
        return dest
    found = Path(os.path.realpath(dest))
    if found.is_symlink():
        raise UserError(f"DEST {dest} is a link that leads to itself: remove it")
    return found


def check_place(source: Path | None, dest: Path) -> None:
    """Refuse a DEST that is SOURCE, is inside it, or contains it.

    Raises:
        UserError: naming both.
    """
    if source is None:
        return
    raw, target = source.resolve(), dest.resolve()
    if raw == target or raw in target.parents:
        raise UserError(
            f"DEST {dest} is inside SOURCE {source}, which is never changed: choose another"
        )
    if target in raw.parents:
        raise UserError(f"DEST {dest} holds SOURCE {source}: choose another")


def _old(dest: Path) -> Path:
    return dest.parent / f".{dest.name}.old"

"""What stands at DEST already: nothing, another thing, or a data set, perhaps the very one."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import yaml

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.writing import FORMAT
from stacked_ram.runtime.errors import UserError


def existing(dest: Path) -> dict[str, object] | None:
    """dataset.yaml of a data set that stands at DEST already, or None where DEST is free.

    Raises:
        UserError: something else stands there.
    """
    if not dest.exists():
        return None
    if dest.is_dir() and not any(dest.iterdir()):
        return None
    try:
        info = yaml.safe_load((dest / "dataset.yaml").read_text(encoding="utf-8"))
        if isinstance(info, dict) and "format" in info:
            listed = info.get("kind") == "digits" or (dest / "manifest.csv").exists()
            if listed:
                return info
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        pass
    raise UserError(
        f"{dest} is there and is no prepared data set: move it away, or choose another folder"
    )


def is_done(options: PrepareOptions, there: Mapping[str, object] | None, fingerprint: str) -> bool:
    """Whether DEST is what would be made, so that nothing is left to do.

    Raises:
        UserError: it was made in another way, and --overwrite is not given.
    """
    if there is None or options.overwrite:
        return False
    recorded = options.recorded()
    before = there.get("options") or {}
    other = [name for name in recorded if recorded[name] != before.get(name)]
    if there.get("format") != FORMAT:
        reason = f"has another format ({there.get('format')})"
    elif other:
        names = ", ".join("--" + name.replace("_", "-") for name in other)
        reason = f"was made with other options ({names})"
    elif there.get("source_fingerprint") != fingerprint:
        reason = "was made from another source, or from this one before it changed"
    elif (missing := _first_missing(options.dest)) is not None:
        reason = f"has lost photos ({missing})"
    else:
        return True
    raise UserError(f"DEST {options.dest} {reason}: choose another, or give --overwrite")


def _first_missing(dest: Path) -> str | None:
    """The first photo of the manifest (or array of digits) that is not there, if any."""
    if not (dest / "manifest.csv").exists():  # digits have none
        arrays = (f"{split}/{name}.npy" for split in SPLITS for name in ("images", "labels"))
        return next((path for path in arrays if not (dest / path).exists()), None)
    with open(dest / "manifest.csv", encoding="utf-8", newline="") as file:
        paths = (row["path"] for row in csv.DictReader(file))
        return next((path for path in paths if not (dest / path).exists()), None)

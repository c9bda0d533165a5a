"""Check what already exists at DEST: nothing, this data set, another one, or something else."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from stacked_ram.preparation.kept_checks import FILE as CHECKS
from stacked_ram.preparation.options import PrepareOptions, flag
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.writing import FORMAT
from stacked_ram.runtime.errors import UserError


def existing_info(dest: Path) -> dict[str, Any] | None:
    """Read dataset.yaml of an existing data set at DEST; None if nothing exists there.

    Raises:
        UserError: something else exists there.
    """
    if not dest.exists():
        return None
    if dest.is_dir() and not any(dest.iterdir()):
        return None
    try:
        info = yaml.safe_load((dest / "dataset.yaml").read_text(encoding="utf-8"))
        if (
            isinstance(info, dict)
            and "format" in info
            and (info.get("kind") == "digits" or (dest / "manifest.csv").exists())
        ):
            return info
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        pass
    raise UserError(
        f"{dest} exists and is not a prepared data set: move it away, or choose another folder"
    )


def is_done(
    options: PrepareOptions, info: Mapping[str, Any], fingerprint: str, older: str = ""
) -> bool:
    """Return whether DEST already is the data set that these options make.

    Args:
        fingerprint: of the source; older: as earlier releases computed it.

    Raises:
        UserError: DEST is another data set, and --overwrite was not given.
    """
    if options.overwrite:
        return False
    recorded = options.recorded()
    defaults = {field.name: field.default for field in fields(options)}
    before = defaults | (info.get("options") or {})  # an older release may not have had all
    other = [name for name in recorded if recorded[name] != before.get(name)]
    note = ""
    if info.get("format") != FORMAT:
        reason = f"has another format ({info.get('format')})"
    elif other:
        reason = f"was made with other options ({', '.join(map(flag, other))})"
    elif info.get("source_fingerprint") not in (fingerprint, older or fingerprint):
        then = info.get("source")
        reason = f"was made from another source, or from this one before it changed (then {then})"
        if (options.dest / CHECKS).exists():
            note = ", which decodes only new photos"
    elif (missing := _first_missing(options.dest)) is not None:
        reason = f"has lost photos ({missing})"
    else:
        return True
    raise UserError(f"DEST {options.dest} {reason}: choose another, or give --overwrite{note}")


def _first_missing(dest: Path) -> str | None:
    """Return the first missing photo of the manifest (or array of digits), if any."""
    if not (dest / "manifest.csv").exists():  # digits have none
        arrays = (f"{split}/{name}.npy" for split in SPLITS for name in ("images", "labels"))
        return next((path for path in arrays if not (dest / path).exists()), None)
    with open(dest / "manifest.csv", encoding="utf-8", newline="") as file:
        paths = (row["path"] for row in csv.DictReader(file))
        return next((path for path in paths if not (dest / path).exists()), None)

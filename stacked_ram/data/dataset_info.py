"""Read dataset.yaml, the description of a prepared data set. Does not import torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stacked_ram.config.yaml import parse_yaml
from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program

FORMAT = 1


def read_dataset_info(folder: Path) -> dict[str, Any]:
    """Read and check dataset.yaml; a `std` of 0 (of a channel that does not vary) becomes 1.

    Raises UserError if it is missing or invalid.
    """
    import yaml

    path = folder / "dataset.yaml"
    if not path.is_file():
        raise UserError(
            f"no prepared data set at {folder}; run {program('prepare')} SOURCE {folder}"
            + (
                " (the folder is there, dataset.yaml is not)"
                if folder.is_dir()
                else "; if it was moved, give --dataset"
            )
        )
    again = f"run {program('prepare')} SOURCE {folder} --overwrite"
    try:
        info = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid YAML; {again}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(info, dict) or "format" not in info:
        raise UserError(f"{path}: format: missing; {again}")
    if info["format"] != FORMAT:
        raise UserError(f"{path}: format: {info['format']!r}, not {FORMAT}; {again}")
    info.setdefault("name", folder.name)
    channels = info.setdefault("channels", 3)
    good = {
        "kind": info.get("kind") in ("photos", "digits"),
        "channels": channels in (1, 3),
        "classes": _all_of(info.get("classes"), str) and len(info["classes"]) > 0,
        "mean": _pixel_values(info.get("mean"), channels),
        "std": _pixel_values(info.get("std"), channels),
    }
    for key, right in good.items():
        if not right:
            raise UserError(f"{path}: {key}: {info.get(key)!r} is not valid; {again}")
    if len(set(info["classes"])) < len(info["classes"]):
        raise UserError(f"{path}: classes: a class is named twice; {again}")
    info["std"] = [value or 1.0 for value in info["std"]]
    return info


def _all_of(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _pixel_values(values: Any, channels: int) -> bool:
    """Return whether these are a finite number that is not negative for each channel."""
    right = _all_of(values, (int, float)) and len(values) == channels
    return right and all(0 <= value < math.inf for value in values)

"""Read the tables of a prepared data set of photos: manifest.csv and boxes.csv."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.runtime.errors import UserError
from stacked_ram.runtime.program import program

BOX = ["box_left", "box_top", "box_right", "box_bottom"]
MOST_PIXELS = 10**7  # a side of a photo
SEPARATOR = "|"  # of the labels of a photo that may have several


def read_manifest(folder: Path, info: dict[str, Any]) -> Any:
    """Read manifest.csv as a pandas table, a row for each photo of all splits. info: what
    dataset.yaml says. Raises UserError if it is missing, damaged, or of other classes."""
    import pandas

    path = folder / "manifest.csv"
    several = info.get("labels") == "several"
    label = "labels" if several else "class"
    again = f"run {program('prepare')} SOURCE {folder} --overwrite"
    try:
        names = pandas.read_csv(path, nrows=0).columns
        # as categories, values that are often repeated take a tenth of the memory
        known = pandas.CategoricalDtype(list(dict.fromkeys(info["classes"])))
        text = {"path": str, label: str if several else known, "split": str}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown classes, which become empty
            manifest = pandas.read_csv(
                path,
                dtype=text,
                keep_default_na=False,
                na_values={name: [""] for name in names if name not in text},
                usecols=lambda name: name in {*text, "width", "height", "fold", *BOX},
            )
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {again}") from None
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({error}); {again}") from None
    missing = {"path", label, "split", "width", "height"} - set(manifest.columns)
    if missing:
        raise UserError(f"{path}: no column {', '.join(sorted(missing))}; {again}")
    for name in BOX:
        if name not in manifest:
            manifest[name] = np.nan
    for name in ("width", "height", *BOX, *(["fold"] if "fold" in manifest else [])):
        numbers = pandas.to_numeric(manifest[name], errors="coerce")
        wrong = numbers.isna() | (numbers.abs() > MOST_PIXELS)
        wrong = (
            wrong | (numbers < 1) if name in ("width", "height") else wrong & manifest[name].notna()
        )
        if wrong.any():
            row = manifest[wrong].iloc[0]
            unit = "" if name == "fold" else " of pixels"
            raise UserError(
                f"{path}: {name} of {row['path']} is `{row[name]}`, not a number{unit}; {again}"
            )
    unknown: set[str] = set()
    if several:
        unknown = {name for given in manifest[label].unique() for name in split_labels(given)}
        unknown -= set(info["classes"])
    elif manifest[label].isna().any():
        given = pandas.read_csv(path, dtype=str, keep_default_na=False, usecols=[label])[label]
        unknown = set(given) - set(info["classes"])
    if unknown:
        raise UserError(
            f"{path}: class `{min(unknown)}` is not among those of dataset.yaml; {again}"
        )
    return manifest


def split_labels(text: str) -> list[str]:
    """Return the labels in the text of a photo that may have several, or none."""
    return text.split(SEPARATOR) if text else []


def multi_hot(texts: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return which classes each photo has, N x C (uint8, 0 or 1), from the texts of its labels."""
    index = {name: label for label, name in enumerate(classes)}
    labels_NC = np.zeros((len(texts), len(classes)), np.uint8)
    for row, text in enumerate(texts):
        labels_NC[row, [index[name] for name in split_labels(text)]] = 1
    return labels_NC


def fold_numbers(manifest: Any, folder: Path) -> list[int]:
    """Return the numbers of the folds. Raises UserError if the data set has none."""
    if "fold" not in manifest or manifest["fold"].isna().all():
        raise UserError(f"fold: {folder} was prepared without --folds")
    return sorted(manifest["fold"].dropna().astype(int).unique().tolist())


def read_objects(folder: Path, part: Any) -> np.ndarray:
    """Read the boxes of boxes.csv that have the class of their photo (all, where it may have
    several), N x O x 4. A photo without any has that of the manifest."""
    import pandas

    boxes_N4 = part[BOX].to_numpy(np.float32)
    path = folder / "boxes.csv"
    if not path.is_file():
        return boxes_N4[:, None]
    try:
        text = {"path": str, "class": str}
        table = pandas.read_csv(path, dtype=text, keep_default_na=False, usecols=[*text, *BOX])
        found_M4 = table[BOX].to_numpy(np.float32)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); run {program('prepare')} SOURCE {folder} "
            "--overwrite"
        ) from None
    own = part[[name for name in text if name in part]].astype(str).assign(row=np.arange(len(part)))
    rows_M = table.merge(own, "left")["row"].fillna(-1).to_numpy(np.int64)
    found_M4, rows_M = found_M4[rows_M >= 0], rows_M[rows_M >= 0]
    order = rows_M.argsort(kind="stable")
    rows_M, found_M4 = rows_M[order], found_M4[order]
    number_M = np.arange(len(rows_M)) - np.searchsorted(rows_M, rows_M)  # 0, 1, ... in each photo
    objects_NO4 = np.full((len(part), number_M.max(initial=0) + 1, 4), np.nan, np.float32)
    objects_NO4[:, 0] = boxes_N4
    objects_NO4[rows_M, number_M] = found_M4
    return objects_NO4

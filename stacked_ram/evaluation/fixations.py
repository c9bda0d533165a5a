"""Compare where a model looked with where people looked.

Fixations come as a CSV with the columns `path` (a photo of the split, as in its manifest), `x` and
`y` (pixels of the stored photo), and on request `person`; a person's fixations of a photo stand in
the order of time. The model's map is the density of its glimpses, smoothed with a Gaussian.

- NSS, normalised scan-path saliency (Peters et al., 2005): the map's mean at the fixations, in its
  standard deviations above its mean. 0 is chance.
- AUC-Judd (Judd et al., 2009): how well the map's values tell fixated places from all others, 0 to
  1. 0.5 is chance.
- Scan-path distance: dynamic time warping between the model's path and each person's, the mean
  distance of matched places as a fraction of the photo's diagonal. 0: the same path.

Beside the model stands a centre bias: a Gaussian at the photo's middle, as wide as all given
fixations spread about it; its path stays at the middle.

N photos   F fixations   Y X rows and columns
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from stacked_ram.evaluation.metrics import mean_interval
from stacked_ram.runtime.errors import UserError

COLUMNS = ("path", "x", "y")
CELLS = 64  # of a map over the photo's longer side
SMOOTH = 0.05  # standard deviation of the Gaussian, fraction of the photo's longer side

Paths = dict[str, np.ndarray]  # fixations of each person, F x 2


def read_fixations(path: Path) -> dict[str, Paths]:
    """The fixations of each photo by person, (x, y) in pixels, in the order of the file.

    Raises UserError, which names the file and line, where it cannot be read.
    """
    import pandas

    try:
        table = pandas.read_csv(path, dtype={"path": str, "person": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; fixations need path, x and y (in pixels), and"
            " may have person"
        )
    values = table[["x", "y"]].apply(pandas.to_numeric, errors="coerce")
    broken = ~np.isfinite(values.to_numpy(float)).all(1) | table["path"].isna().to_numpy()
    if broken.any():
        raise UserError(f"{path}: line {int(broken.argmax()) + 2} has no path, or no number x or y")
    person = table["person"].fillna("") if "person" in table.columns else [""] * len(table)
    found: dict[str, Paths] = {}
    for (name, who), rows in values.groupby([table["path"], person], sort=False):
        found.setdefault(str(name), {})[str(who)] = rows.to_numpy(float)
    return found


def against_people(
    locations: Mapping[str, np.ndarray],
    sizes: Mapping[str, tuple[int, int]],
    fixations: Mapping[str, Paths],
    source: Path,
) -> dict[str, Any]:
    """The figures of a model and of the centre bias. locations: the model's path on each photo,
    T x 2 in [-1, 1]; sizes: (height, width) of each stored photo. Raises UserError where no
    photo of the split has fixations, and for a fixation outside its photo."""
    names = [name for name in locations if name in fixations]
    if not names:
        raise UserError(
            f"{source}: none of its {len(fixations)} photos is in this split; `path` is as in the"
            f" data set's manifest, such as {next(iter(locations))}"
        )
    people = {name: scaled(fixations[name], sizes[name], name, source) for name in names}
    every_F2 = np.concatenate([path for name in names for path in people[name].values()])
    spread_2 = np.sqrt((every_F2**2).mean(0)).clip(min=1e-3)
    scores: dict[str, list[tuple[float, float, float]]] = {"model": [], "centre bias": []}
    for name in names:
        height, width = sizes[name]
        longer = max(height, width)
        fixed_F2 = np.concatenate(list(people[name].values()))
        smooth_2 = 2 * SMOOTH * longer / np.array([width, height])  # in units of location
        middle_12 = np.zeros((1, 2))
        for kind, path_T2, std_2 in (
            ("model", locations[name], smooth_2), ("centre bias", middle_12, spread_2)
        ):  # fmt: skip
            map_YX = density(path_T2, std_2, sizes[name])
            distance = np.mean(
                [warped(path_T2, other, sizes[name]) for other in people[name].values()]
            )
            scores[kind].append(
                (nss(map_YX, fixed_F2), auc_judd(map_YX, fixed_F2), float(distance))
            )
    found: dict[str, Any] = {"photos": len(names), "fixations": len(every_F2)}
    for kind, rows in scores.items():
        values_N3 = np.array(rows)
        found[kind] = {
            name: mean_interval(values_N)
            for name, values_N in zip(
                ("nss", "auc_judd", "path_distance"), values_N3.T, strict=True
            )
        }
    return found


def scaled(paths: Paths, size: tuple[int, int], name: str, source: Path) -> Paths:
    """Fixations in units of location, -1 to 1."""
    height, width = size
    found = {}
    for who, path_F2 in paths.items():
        inside = (path_F2 >= 0) & (path_F2 <= [width, height])
        if not inside.all():
            x, y = path_F2[~inside.all(1)][0]
            raise UserError(
                f"{source}: ({x:g}, {y:g}) lies outside {name}, which is {width} x {height} pixels"
            )
        found[who] = path_F2 / [width, height] * 2 - 1
    return found


def density(path_T2: np.ndarray, std_2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map over the photo: the sum of Gaussians at these locations, rows x columns."""
    rows, columns = (max(2, round(CELLS * side / max(size))) for side in size)
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    across = np.exp(-0.5 * ((x - path_T2[:, :1]) / std_2[0]) ** 2)
    down = np.exp(-0.5 * ((y - path_T2[:, 1:]) / std_2[1]) ** 2)
    return np.einsum("ty,tx->yx", down, across)


def cells_of(map_YX: np.ndarray, fixed_F2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the map's cells that fixations lie in."""
    rows, columns = map_YX.shape
    place_F2 = ((fixed_F2 + 1) / 2 * [columns, rows]).astype(int)
    return place_F2[:, 1].clip(0, rows - 1), place_F2[:, 0].clip(0, columns - 1)


def nss(map_YX: np.ndarray, fixed_F2: np.ndarray) -> float:
    """Mean of the normalised map at the fixations; 0 for a map without any differences."""
    std = map_YX.std()
    normalised_YX = (map_YX - map_YX.mean()) / (std or 1.0)
    return float(normalised_YX[cells_of(map_YX, fixed_F2)].mean())


def auc_judd(map_YX: np.ndarray, fixed_F2: np.ndarray) -> float:
    """Area under the curve of hits (fixations above a threshold) over false alarms (cells without
    a fixation above it); equal values count half."""
    at = cells_of(map_YX, fixed_F2)
    fixed = np.zeros(map_YX.shape, bool)
    fixed[at] = True
    if fixed.all():
        return 0.5
    values_F, others = map_YX[at], map_YX[~fixed]
    is_fixed = np.repeat([True, False], [len(values_F), len(others)])
    return float(roc_auc_score(is_fixed, np.concatenate([values_F, others])))


def warped(path_T2: np.ndarray, other_F2: np.ndarray, size: tuple[int, int]) -> float:
    """Dynamic time warping (Sakoe & Chiba, 1978): the least sum of distances of matched places, in
    order, divided by the number of matches, as a fraction of the photo's diagonal."""
    sides = np.array([size[1], size[0]]) / 2  # half of (width, height): locations are 2 wide
    apart_TF = np.hypot(*np.moveaxis((path_T2[:, None] - other_F2) * sides, -1, 0))
    apart_TF /= np.hypot(*size)
    steps, others = apart_TF.shape
    best = np.full((steps + 1, others + 1, 2), np.inf)  # sum of distances, and matches
    best[0, 0] = 0
    for i in range(steps):
        for j in range(others):
            before = min(best[i, j], best[i, j + 1], best[i + 1, j], key=lambda each: tuple(each))
            best[i + 1, j + 1] = before[0] + apart_TF[i, j], before[1] + 1
    total, matches = best[-1, -1]
    return float(total / matches)

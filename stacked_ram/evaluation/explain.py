"""Explain a split: whether it mattered where the model looked, and why its mistakes are mistakes.

`evaluate(..., explain=True)` puts the figures under `explain`, and adds two tables:
    SPLIT_explain.csv   one row for each photo: its cause, its better place, the deciding glimpse
    SPLIT_explain.npz   the maps and curves that `viz.py --explain` draws
docs/explaining.md defines every figure.

N photos   B photos of a batch   T steps   G places   Y X rows and columns of a grid
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset, only, open_dataset, stratified
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import Loader, opened_loader
from stacked_ram.evaluation.attribution import INSTALL, PlainBackbone, has_captum
from stacked_ram.evaluation.calibration import fit_temperature
from stacked_ram.evaluation.causes import CAUSES, SURE, cause_of
from stacked_ram.evaluation.controls import chosen_from
from stacked_ram.evaluation.cost import typical_size
from stacked_ram.evaluation.coverage import Coverage
from stacked_ram.evaluation.insertion import OWN, RANDOM, Curves, Heat
from stacked_ram.evaluation.metrics import calibration_error
from stacked_ram.evaluation.objects import objects_of
from stacked_ram.evaluation.what_if import WhatIf, grid_of, what_if
from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.attention.base import region_centres
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast

PLACES = 48  # of a photo of a whole split, at most; a policy over cells has its own
VALID_PHOTOS = 128  # the temperature is chosen on
SCORES = 2**23  # of classes, with a glimpse at each place, that are held at once; 32 MB
CURVE_PHOTOS = 128  # deletion and insertion are measured on
GRAD_CAM = "Grad-CAM of the plain backbone"


@dataclass
class Rows:
    """What the figures need of N photos, after calibration."""

    index_N: np.ndarray
    labels_N: np.ndarray
    predicted_N: np.ndarray
    own_NK: np.ndarray
    """Belief in the true class before the first glimpse and after each."""
    forced_NTG: np.ndarray
    """Belief in the true class at the end, with glimpse t at place g."""
    answer_N: np.ndarray
    """Belief in the predicted class at the end,"""
    hidden_NT: np.ndarray
    """without glimpse t,"""
    replaced_NT: np.ndarray
    """and with glimpse t at a random place (the mean over all)."""
    flips_NT: np.ndarray
    """Whether the prediction is another without glimpse t."""
    sure_NTG: np.ndarray
    """Belief in the class that is likeliest with glimpse t at place g,"""
    forced_right_NTG: np.ndarray
    """and whether it is the true one."""
    other_N: np.ndarray
    """Fraction of the classes, without the true and the predicted one, that are recognised with
    some glimpse at some place: what so many tries give by chance; nan where there are none."""
    hit_N: np.ndarray
    """Whether a glimpse was at the object; nan without a box."""

    @property
    def right_N(self) -> np.ndarray:
        return self.predicted_N == self.labels_N

    @property
    def best_N(self) -> np.ndarray:
        """Index of the best forced glimpse among T x G."""
        return self.forced_NTG.reshape(len(self.labels_N), -1).argmax(1)

    @property
    def best_belief_N(self) -> np.ndarray:
        return self.forced_NTG.max((1, 2))

    @property
    def decided_N(self) -> np.ndarray:
        """The glimpse whose absence changes the belief in the answer most."""
        return np.abs(self.answer_N[:, None] - self.hidden_NT).argmax(1)

    @property
    def better_N(self) -> np.ndarray:
        """Whether the true class is recognised with one glimpse elsewhere, and is not as it is."""
        return (self.best_belief_N >= SURE) & (self.own_NK[:, -1] < SURE)

    def causes(self) -> list[str]:
        """The cause of each mistake; empty for right answers."""
        return [
            "" if right else cause_of(own_K, float(best), None if np.isnan(hit) else bool(hit))
            for right, own_K, best, hit in zip(
                self.right_N, self.own_NK, self.best_belief_N, self.hit_N, strict=True
            )
        ]


def explain_split(
    loaded: LoadedRun, loader: Loader, config: Config, left_out: LeftOut
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The figures and tables of a split. config: that of this evaluation."""
    model, dataset = loaded.model, loader.dataset
    size = typical_size(dataset, config.data)
    grid = grid_of(model, size, PLACES)
    figures: dict[str, Any] = {"grid": [*grid]}
    temperature, before = 1.0, "not calibrated: the run has learned the validation photos"
    if config.data.train_on == "train":
        temperature = fit_temperature(*valid_scores(loaded, config, grid))
        before = "on the validation split, over all places"
    figures |= {"temperature": temperature * model.temperature, "calibrated": before}
    coverage = Coverage(len(loaded.classes), size)
    parts = []
    for batch, found in look_at(loaded, loader, config, grid, left_out, "explain"):
        part = reduced(found, batch, temperature)
        right_B = part["predicted_N"] == part["labels_N"]
        part["hit_N"] = coverage.add(
            found.boxes_BTSK4, objects_of(dataset, batch), batch.sizes_B2, batch.labels_B, right_B
        )
        parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = joined["index_N"].argsort()
    rows = Rows(**{name: value[order] for name, value in joined.items()})
    figures |= of_places(rows, grid, chosen_from(model)) | of_causes(rows) | of_glimpses(rows)
    figures["coverage"] = coverage.figures(model)
    figures |= curves_of(loaded, config, dataset, left_out)
    figures["meaning"] = meaning(figures)
    shown_N = ~rows.right_N if not rows.right_N.all() else rows.right_N
    arrays = {
        "figures": np.frombuffer(json.dumps(figures).encode(), np.uint8),
        "classes": np.array(loaded.classes),
        "forced_TYX": rows.forced_NTG[shown_N].mean(0).reshape(-1, *grid),
        "better_YX": better_map(rows, grid),
        "coverage_N2SKYX": coverage.sums_N2SKYX.astype(np.float32),
        "coverage_N2": coverage.counts_N2,
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    table = photo_table(rows, dataset, grid)
    return figures, {"_explain.csv": table.encode(), "_explain.npz": packed.getvalue()}


def look_at(
    loaded: LoadedRun, loader: Loader, config: Config, grid: tuple[int, int], left_out: LeftOut,
    progress: str,
) -> Iterator[tuple[Batch, WhatIf]]:  # fmt: skip
    from tqdm import tqdm

    model = loaded.model

    def look(batch: Batch) -> WhatIf:
        with autocast(loaded.device, config.training.precision):
            return what_if(model, batch.photos(model), grid)

    model.eval()
    loader.set_epoch(0)
    batches = tqdm(loader, desc=progress, unit=" batches", disable=None, leave=False)
    together = photos_within(SCORES, loaded, grid)
    return left_out.each((part for batch in batches for part in batch.split(together)), look)


def photos_within(scores: int, loaded: LoadedRun, grid: tuple[int, int]) -> int:
    """How many photos have at most so many class scores, with each glimpse at each place; at
    least 1."""
    of_a_photo = loaded.model.num_glimpses * grid[0] * grid[1] * len(loaded.classes)
    return max(1, scores // of_a_photo)


# ---------------------------------------------------------------------- calibration


def valid_scores(
    loaded: LoadedRun, config: Config, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of validation photos with each glimpse at each place, X x N, and their labels, X."""
    valid = open_dataset(config.data, "valid")
    most = min(VALID_PHOTOS, photos_within(8 * SCORES, loaded, grid))
    valid = only(valid, stratified(valid.labels, most))
    scores, labels = [], []
    with opened_loader(valid, config, loaded.device) as loader:
        for batch, found in look_at(loaded, loader, config, grid, LeftOut(valid), "calibrate"):
            forced_BTGN = found.forced_BTGN.float().cpu().numpy()
            scores.append(forced_BTGN.reshape(-1, forced_BTGN.shape[-1]))
            labels.append(batch.labels_B.cpu().numpy().repeat(np.prod(forced_BTGN.shape[1:3])))
    return np.concatenate(scores), np.concatenate(labels)


def reduced(found: WhatIf, batch: Batch, temperature: float) -> dict[str, np.ndarray]:
    """The fields of Rows for one batch, but for `hit_N`."""
    own_BKN, forced_BTGN, hidden_BTN = (
        (each.float() / temperature).softmax(-1).nan_to_num(0.0)
        for each in (found.own_BKN, found.forced_BTGN, found.hidden_BTN)
    )
    labels_B, predicted_B = batch.labels_B, own_BKN[:, -1].argmax(1)

    def in_class(beliefs: Tensor, classes_B: Tensor) -> Tensor:
        index = classes_B.view(-1, *[1] * (beliefs.ndim - 1)).expand(*beliefs.shape[:-1], 1)
        return beliefs.gather(-1, index).squeeze(-1)

    sure_BTG, likeliest_BTG = forced_BTGN.max(-1)
    others_BN = (forced_BTGN >= SURE).any(2).any(1).float()
    others_BN = others_BN.scatter(1, torch.stack([labels_B, predicted_B], 1), float("nan"))
    values = {
        "index_N": batch.index_B,
        "labels_N": labels_B,
        "predicted_N": predicted_B,
        "own_NK": in_class(own_BKN, labels_B),
        "forced_NTG": in_class(forced_BTGN, labels_B),
        "answer_N": in_class(own_BKN[:, -1], predicted_B),
        "hidden_NT": in_class(hidden_BTN, predicted_B),
        "replaced_NT": in_class(forced_BTGN, predicted_B).mean(2),
        "flips_NT": hidden_BTN.argmax(2) != predicted_B[:, None],
        "sure_NTG": sure_BTG,
        "forced_right_NTG": likeliest_BTG == labels_B[:, None, None],
        "other_N": others_BN.nanmean(1),
    }
    return {name: value.cpu().numpy() for name, value in values.items()}


# ---------------------------------------------------------------------- figures


def of_places(rows: Rows, grid: tuple[int, int], first_chosen: int) -> dict[str, Any]:
    """How often a better place existed, by how much, and how good the chosen places are."""
    own_N11 = rows.own_NK[:, -1, None, None]
    beaten_NT = ((rows.forced_NTG < own_N11).mean(2) + (rows.forced_NTG <= own_N11).mean(2)) / 2
    gain_N = np.maximum(rows.best_belief_N - rows.own_NK[:, -1], 0)
    mistakes = ~rows.right_N

    def of_mistakes(values_N: np.ndarray) -> float | None:
        chosen_N = values_N[mistakes & ~np.isnan(values_N)]
        return float(chosen_N.mean()) if len(chosen_N) else None

    return {
        "photos": len(rows.labels_N),
        "map_calibration_error": calibration_error(
            rows.sure_NTG.ravel(), rows.forced_right_NTG.ravel()
        ),
        "better_place": {
            "photos": int(rows.better_N.sum()),
            "fraction": float(rows.better_N.mean()),
            "of_mistakes": of_mistakes(rows.better_N.astype(float)),
            "of_mistakes_for_another_class": of_mistakes(rows.other_N),
            "mean_gain": float(gain_N.mean()),
            "mean_gain_of_mistakes": of_mistakes(gain_N),
        },
        "places_beaten": [
            float(each) if step >= first_chosen else None
            for step, each in enumerate(beaten_NT.mean(0))
        ],
    }


def of_causes(rows: Rows) -> dict[str, Any]:
    """How many mistakes have each cause, and how many of them a better place would mend."""
    causes = np.array(rows.causes())
    return {
        "causes": {
            name: {
                "photos": int((causes == name).sum()),
                "mended_by_a_better_place": int(rows.better_N[causes == name].sum()),
            }
            for name in CAUSES
        },
        "causes_by": "boxes" if not np.isnan(rows.hit_N).all() else "forced places",
    }


def of_glimpses(rows: Rows) -> dict[str, Any]:
    """What the belief in the answer loses without each glimpse, and with it at a random place."""
    return {
        "hidden": {
            "drop": (rows.answer_N[:, None] - rows.hidden_NT).mean(0).tolist(),
            "flips": rows.flips_NT.mean(0).tolist(),
            "decided": [
                float((rows.decided_N == step).mean()) for step in range(rows.hidden_NT.shape[1])
            ],
        },
        "replaced": {"drop": (rows.answer_N[:, None] - rows.replaced_NT).mean(0).tolist()},
    }


def better_map(rows: Rows, grid: tuple[int, int]) -> np.ndarray:
    """How many photos have their better place in each cell of the grid."""
    counts = np.bincount(rows.best_N[rows.better_N] % (grid[0] * grid[1]), minlength=np.prod(grid))
    return counts.reshape(grid)


def curves_of(
    loaded: LoadedRun, config: Config, dataset: Dataset, left_out: LeftOut
) -> dict[str, Any]:
    """Deletion and insertion on a stratified sample; or why they were not measured."""
    notes: list[str] = []
    heats: dict[str, Heat] = {}
    sample = only(dataset, stratified(dataset.labels, CURVE_PHOTOS))
    curves = Curves(loaded.model, heats, config.training.seed)
    photos = 0
    with opened_loader(sample, config, loaded.device) as loader:
        from tqdm import tqdm

        for batch in tqdm(loader, desc="deletion", unit=" batches", disable=None, leave=False):
            if isinstance(batch.pixels_BCHW, LazyPhotos):
                return {"curve_notes": ["not measured: the photos are read by region"]}
            if not photos:  # the first photos say that the data are of a kind that can be measured
                heats |= grad_cam(loaded, config, notes)
            with autocast(loaded.device, config.training.precision):
                curves.add(batch)
            photos += len(batch)
    return {"curve_photos": photos, **curves.figures(), "curve_notes": notes}


def grad_cam(loaded: LoadedRun, config: Config, notes: list[str]) -> dict[str, Heat]:
    """Grad-CAM as one more order, or a note that says why there is none."""
    if loaded.model.backbone is None:
        notes.append("no Grad-CAM: this model has no backbone")
    elif not has_captum():
        notes.append(f"no Grad-CAM: {INSTALL}")
    else:
        return {GRAD_CAM: PlainBackbone(loaded, config).heat}
    return {}


def meaning(figures: dict[str, Any]) -> list[str]:
    """What the figures say, a sentence each."""
    lines = []
    mistakes = sum(cause["photos"] for cause in figures["causes"].values())
    if mistakes:
        name, most = max(figures["causes"].items(), key=lambda item: item[1]["photos"])
        lines.append(
            f"Most mistakes ({most['photos']} of {mistakes}): {name}; with one glimpse elsewhere"
            f" {most['mended_by_a_better_place']} of these would be recognised."
        )
    beaten = [each for each in figures["places_beaten"] if each is not None]
    if beaten:
        lines.append(
            f"The places it chose beat {100 * np.mean(beaten):.0f} % of all places (random places"
            " would beat 50 %)."
        )
    if "insertion" in figures:
        own, random = (figures["insertion"][name]["area"] for name in (OWN, RANDOM))
        if own["interval_95"][0] > random["interval_95"][1]:
            lines.append("Shown alone, its places carry more of the answer than random ones.")
        else:
            lines.append(
                "Shown alone, its places do not clearly carry more of the answer than random ones."
            )
    return lines


def photo_table(rows: Rows, dataset: Dataset, grid: tuple[int, int]) -> str:
    """One row a photo, mistakes first, those with the largest gain of a better place before
    others."""
    import pandas

    names, many = np.array(dataset.classes), grid[0] * grid[1]
    places_G2 = region_centres(grid).numpy()
    gain_N = rows.best_belief_N - rows.own_NK[:, -1]
    columns: dict[str, Any] = {
        "path": [dataset.names[row] for row in rows.index_N],
        "class": names[rows.labels_N],
        "predicted": names[rows.predicted_N],
        "right": rows.right_N,
        "cause": rows.causes(),
        "belief_true": rows.own_NK[:, -1].round(4),
        "better_place": rows.better_N,
        "best_glimpse": rows.best_N // many + 1,
        "best_x": places_G2[rows.best_N % many, 0].round(4),
        "best_y": places_G2[rows.best_N % many, 1].round(4),
        "best_belief_true": rows.best_belief_N.round(4),
        "object_hit": ["" if np.isnan(hit) else bool(hit) for hit in rows.hit_N],
        "deciding_glimpse": rows.decided_N + 1,
        "belief_predicted": rows.answer_N.round(4),
    }
    for step in range(rows.hidden_NT.shape[1]):
        columns[f"without_{step + 1}"] = rows.hidden_NT[:, step].round(4)
    table = pandas.DataFrame(columns)
    order = np.lexsort((-gain_N, rows.right_N))
    return table.iloc[order].to_csv(index=False, lineterminator="\n")

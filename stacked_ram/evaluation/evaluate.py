"""Evaluate a trained model on a split: figures, controls, early exit.

`Evaluation.save` writes into the run's folder (unless another is given):
    SPLIT.json             all figures
    SPLIT_per_class.csv    SPLIT_photos.csv
    SPLIT_confusion.csv    SPLIT_confusion.png    where a photo has one class (of more than 500
                           classes the pairs that occur, without a picture)
    SPLIT_early_exit.csv   accuracy against mean GMACs over all thresholds, on request
    SPLIT_explain.csv, .npz   causes and better places of each photo; maps and curves, on request
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.glance_cache import use_glance_cache
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import Loader, opened_loader
from stacked_ram.evaluation.calibration import calibrated, check_can_calibrate
from stacked_ram.evaluation.controls import chosen_from, control_passes
from stacked_ram.evaluation.cost import Cost, photo_cost, typical_size
from stacked_ram.evaluation.early_exit import ExitTable, choose_threshold, exit_at, exit_curve
from stacked_ram.evaluation.fixations import against_people, read_fixations
from stacked_ram.evaluation.metrics import confused_pairs, confusion, per_class
from stacked_ram.evaluation.multi_label import (
    interval,
    label_table,
    mean_average_precision,
    resampled_map,
)
from stacked_ram.evaluation.multicrop import Crops, crop_size
from stacked_ram.evaluation.plots import confusion_png, reliability_png
from stacked_ram.evaluation.predictions import Predictions, predict_split
from stacked_ram.evaluation.scores import (
    confidences,
    exit_table_of,
    last_beliefs,
    photo_table,
    scores,
)
from stacked_ram.evaluation.unknown import (
    MOST,
    backbone_separation,
    model_scores,
    open_unknown,
    separation,
)
from stacked_ram.evaluation.verdict import compared, judged, movement, unevenness
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.folder import command_line, environment, now, write_atomically
from stacked_ram.runtime.devices import set_switches
from stacked_ram.runtime.errors import UserError, check

if TYPE_CHECKING:
    import pandas

Split = Literal["train", "valid", "test"]
MOST_CLASSES = 500  # of a confusion matrix; of more classes its pairs are listed
# The controls in words, and what follows where one is as good.
CONTROL_WORDS = {
    "centre": ("the same model looking at the centre", "where it looks does not matter"),
    "random": ("the same model looking at random places", "where it looks does not matter"),
    "first glimpse only": ("the same model after its first glimpse", "further ones are not needed"),
}
# Those that need no locations: several crops have several of each.
CROP_FIGURES = (
    "photos", "accuracy", "interval_95", "loss", "calibration_error", "accuracy_after",
    "mAP", "mAP_after", "mean_f1", "photo_f1", "exact_match",
)  # fmt: skip


class Evaluation:
    """The figures of a model on one split, as attributes: `evaluation.accuracy`.

    figures: everything that `to_dict` gives and SPLIT.json holds. predictions: those of the
    deterministic pass. tables: the contents of the files beside SPLIT.json, by their endings.
    """

    def __init__(
        self, figures: dict[str, Any], predictions: Predictions, tables: dict[str, bytes]
    ) -> None:
        self.figures, self.predictions, self.tables = figures, predictions, tables

    def __getattr__(self, name: str) -> Any:
        if name == "figures" or name not in self.figures:  # the first: while it is unpickled
            raise AttributeError(f"{name}: no such figure; there are {', '.join(self.figures)}")
        return self.figures[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.figures]

    def to_dict(self) -> dict[str, Any]:
        """All figures, as SPLIT.json holds them."""
        return dict(self.figures)

    def to_pandas(self) -> pandas.DataFrame:
        """One row a photo, the surest mistakes first."""
        import io

        import pandas

        return pandas.read_csv(io.BytesIO(self.tables["_photos.csv"]), keep_default_na=False)

    def save(self, folder: str | Path) -> Path:
        """Write the figures and tables into a folder; returns the path of SPLIT.json."""
        folder, split = Path(folder), self.figures["split"]
        for ending, content in self.tables.items():
            write_atomically(folder / f"{split}{ending}", content)
        text = json.dumps(self.figures, indent=2, allow_nan=False)
        write_atomically(folder / f"{split}.json", text.encode() + b"\n")
        return folder / f"{split}.json"


def evaluate(
    loaded: LoadedRun,
    split: Split = "test",
    *,
    controls: bool = False,
    explain: bool = False,
    fixations: str | Path | None = None,
    mc_samples: int = 0,
    crops: int = 1,
    exit_accuracy: float | None = None,
    exit_glimpses: float | None = None,
    stop_at: float | None = None,
    calibrate: bool = False,
    unknown: str | Path | None = None,
    dataset: str | Path | None = None,
    batch_size: int | None = None,
    limit_photos: int | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Measure a trained model on a split in one deterministic pass, and on request in other ways.

    controls: also make it look at the centre, at random places, only once, and at the object's box
    where it is known, and measure a linear probe of the backbone. explain: also say whether it
    mattered where it looked, and give every mistake a cause. fixations: a CSV of where people
    looked (evaluation/fixations.py), to compare with. mc_samples: also average the
    beliefs of this many sampled scan paths a photo. crops: also average those of 5 or 10 crops.
    exit_accuracy, exit_glimpses: also stop early, at the threshold that reaches this accuracy
    (0 to 1) or this mean number of glimpses on the validation split; stop_at: at this threshold
    (0 to 1). calibrate: first fit the temperature on the validation split, and store it in the
    weights file. unknown: also measure how well the model tells the test split of this data set,
    whose classes it does not know, from its own photos. dataset: another prepared data set with
    the same classes. limit_photos: use at most this many photos. dataset, batch_size and workers
    default to the run's.

    Raises UserError for options that cannot be had and for a data set that does not fit the run.
    """
    check(mc_samples >= 0, f"mc_samples: {mc_samples} is below 0")
    check(crops in (1, 5, 10), f"crops: {crops} is none of 1, 5, 10")
    wanted = wanted_exit(loaded.config, exit_accuracy, exit_glimpses, stop_at)
    fields = {
        "dataset": None if dataset is None else str(dataset),
        "batch_size": batch_size,
        "workers": workers,
    }
    changes: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    # a quick training's limit does not hold here: it would test on a part by accident
    config = replace_fields(loaded.config, changes | {"limit_photos": limit_photos}, "test")
    set_switches(config.training, loaded.device)
    multi_label = loaded.metadata.multi_label
    check(
        not (multi_label and explain),
        "--explain: is for models that give a photo one class; leave it out",
    )
    people = None if fixations is None else read_fixations(Path(fixations))
    photos = open_dataset(config.data, split)
    loaded.check_fits(photos)
    how: dict[str, Any] = {
        "precision": config.training.precision,
        "seed": config.training.seed,
    }
    threshold = stop_at
    other = None if unknown is None else open_unknown(loaded, Path(unknown))
    calibration = None
    if calibrate:
        check_can_calibrate(config)
        with opened_split(loaded, config, open_dataset(config.data, "valid")) as valid:
            found = predict_split(
                loaded.model, valid, keep_beliefs=True, progress="validation split", **how
            )
        assert found.beliefs_NTC is not None  # keep_beliefs
        calibration = calibrated(loaded, found.beliefs_NTC[:, -1], found.labels_N)
    if wanted:  # first: what cannot be reached is said before the longer part
        with opened_split(loaded, config, open_dataset(config.data, "valid")) as valid:
            found = predict_split(
                loaded.model, valid, keep_beliefs=True, progress="validation split", **how
            )
        threshold = choose_threshold(exit_table_of(found, loaded), **wanted)
    with opened_split(loaded, config, photos) as loader:
        how["left_out"] = left_out = LeftOut(photos)
        predictions = predict_split(
            loaded.model, loader, progress="test", keep_beliefs=threshold is not None,
            keep_states=other is not None, **how,
        )  # fmt: skip
        cost = photo_cost(loaded.model, *typical_size(photos, config.data))
        figures: dict[str, Any] = {
            "run": str(loaded.path),
            "epoch": loaded.metadata.epoch,
            "split": split,
            "dataset": str(photos.folder),
            "pass": "one deterministic pass",
            **scores(predictions),
            "gmacs": {"photo": [*typical_size(photos, config.data)], **dataclasses.asdict(cost)},
        }
        if calibration is not None:
            figures["calibration"] = calibration
        if other is not None:
            figures["unknown"] = measure_unknown(
                loaded, config, loader, other, predictions, cost.total, how
            )
        if controls:
            figures |= measure_controls(loaded, loader, predictions, cost.total, how)
        if mc_samples:
            sampled = predict_split(
                loaded.model, loader, progress="samples", samples=mc_samples, **how
            )
            figures["mc_samples"] = {
                "pass": f"mean belief of {mc_samples} sampled scan paths a photo",
                "gmacs": cost.before + mc_samples * (cost.total - cost.before),
                **scores(sampled),
            }
        if crops > 1:
            cropped = scores(
                predict_split(Crops(loaded.model, crops), loader, progress="crops", **how)
            )
            size = crop_size(*typical_size(photos, config.data))
            figures["crops"] = {
                "pass": f"mean belief of {crops} crops a photo",
                "gmacs": crops * photo_cost(loaded.model, *size).total,
                **{name: cropped[name] for name in CROP_FIGURES if name in cropped},
            }
        if people is not None:
            seen = [photos.names[row] for row in predictions.index_N]
            sizes = {
                name: (int(h), int(w))
                for name, (h, w) in zip(photos.names, photos.sizes, strict=True)
            }
            paths = dict(zip(seen, predictions.locations_NT2, strict=True))
            figures["fixations"] = against_people(paths, sizes, people, Path(fixations or ""))
        tables: dict[str, bytes] = {}
        if explain:
            from stacked_ram.evaluation.explain import explain_split

            figures["explain"], more = explain_split(loaded, loader, config, left_out)
            tables |= more
    if threshold is not None:
        table = exit_table_of(predictions, loaded)
        figures["early_exit"], tables["_early_exit.csv"] = early_exit(
            predictions, table, threshold, cost
        )
        figures["early_exit"] |= (
            {"chosen": "on valid", "wanted": wanted} if wanted else {"chosen": "before"}
        )
    figures["left_out"] = [
        {"path": path, "error": error} for path, error in sorted(left_out.errors.items())
    ]
    chosen_T = [step >= chosen_from(loaded.model) for step in range(predictions.right_NT.shape[1])]
    figures["meaning"] = [
        *figures.get("meaning", []),
        *movement(predictions.locations_NT2, chosen_T),
    ]
    figures |= {"command": command_line(), "when": now(), **environment()}
    if multi_label:
        thresholds = loaded.model.thresholds_N.tolist()
        by_class = label_table(predictions, loaded.classes, thresholds)
    else:
        by_class = per_class(predictions.labels_N, predictions.predicted_N, loaded.classes)
        figures["mean_f1"] = float(by_class["f1"].iloc[-1])
        figures["balanced_accuracy"] = float(by_class["recall"].iloc[-1])
        figures["meaning"] += unevenness(by_class["photos"].iloc[:-1])
        labels_N, predicted_N = predictions.labels_N, predictions.predicted_N
        if len(loaded.classes) > MOST_CLASSES:
            pairs = confused_pairs(labels_N, predicted_N, loaded.classes)
            tables["_confusion.csv"] = pairs.to_csv(index=False).encode()
        else:
            counts = confusion(labels_N, predicted_N, loaded.classes)
            tables["_confusion.csv"] = counts.to_csv().encode()
            tables["_confusion.png"] = confusion_png(counts)
    tables["_per_class.csv"] = by_class.round(4).to_csv().encode()
    tables["_photos.csv"] = photo_table(predictions, photos).encode()
    if calibration is not None:
        tables["_reliability.png"] = reliability_png(*confidences(predictions))
    return Evaluation(figures, predictions, tables)


@contextlib.contextmanager
def opened_split(loaded: LoadedRun, config: Config, dataset: Dataset) -> Iterator[Loader]:
    """The loader of a data set's photos, with what the model keeps of their glances."""
    with opened_loader(dataset, config, loaded.device) as loader:
        use_glance_cache(loader, loaded.model, config)
        yield loader


def measure_unknown(
    loaded: LoadedRun,
    config: Config,
    loader: Loader,
    other: Dataset,
    predictions: Predictions,
    gmacs: float,
    how: dict[str, Any],
) -> dict[str, Any]:
    """How well the model, and where it has a backbone that alone, tells the photos of another data
    set from those of the loader, whose predictions these are."""
    from stacked_ram.evaluation.linear_probe import open_training  # late: timm, torchvision

    with (
        opened_split(loaded, config, open_training(loaded, loader, MOST)) as training,
        opened_split(loaded, config, other) as unknown,
    ):
        learned, strange = (
            predict_split(
                loaded.model, each, progress=name, keep_states=True,
                **how | {"left_out": LeftOut(each.dataset)},
            )
            for name, each in (("training photos", training), ("unknown photos", unknown))
        )  # fmt: skip
        found = {
            "dataset": str(other.folder),
            "photos": [len(predictions.labels_N), len(strange.labels_N)],
            **separation(model_scores(learned, predictions), model_scores(learned, strange)),
        }
        if loaded.model.backbone is not None:
            found["plain_backbone"] = backbone_separation(loaded, training, loader, unknown, gmacs)
    return found


def measure_controls(
    loaded: LoadedRun, loader: Loader, predictions: Predictions, gmacs: float, how: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the controls and, where the model has a backbone, of a linear probe; and
    their meaning. Of the probe's sizes the best counts that costs no more than the model."""
    model = loaded.model
    boxed = not np.isnan(predictions.hit_NT).all()
    passes = control_passes(model, loader.dataset, how["seed"], boxed)
    found = {
        name: predict_split(model, loader, progress=name, **how, **changed)
        for name, changed in passes.items()
    }
    figures: dict[str, Any] = {"controls": {name: scores(other) for name, other in found.items()}}
    figures["meaning"] = [
        versus(predictions, found[name], words, consequence)
        for name, (words, consequence) in CONTROL_WORDS.items()
        if model.num_glimpses > (1 if name == "first glimpse only" else chosen_from(model))
    ]
    if model.backbone is not None:
        from stacked_ram.evaluation.linear_probe import linear_probe  # late: timm, torchvision

        figures["linear_probe"], answers = linear_probe(loaded, loader, how["left_out"])
        probes = figures["linear_probe"]["sizes"]
        metric = "mAP" if predictions.multi_label else "accuracy"
        costs = [row["gmacs"] for row in probes]
        best = max(
            (number for number, cost in enumerate(costs) if cost <= max(gmacs, min(costs))),
            key=lambda number: probes[number][metric],
        )
        words = f"the linear probe at {probes[best]['size']} pixels ({costs[best]:.3g} GMACs)"
        figures["meaning"].append(
            versus(predictions, answers[best], words, "attention is not needed")
        )
    return figures


def versus(
    predictions: Predictions, other: Predictions | np.ndarray, words: str, if_level: str
) -> str:
    """`compared` with another's answers to the same photos: whether each is right, N; with several
    labels the scores of the classes, N x C."""
    if not predictions.multi_label:
        right_N = other.right_N if isinstance(other, Predictions) else other
        return compared(predictions.right_N, right_N, words, if_level)
    labels_NC, own_NC = predictions.labels_N, last_beliefs(predictions)
    other_NC = last_beliefs(other) if isinstance(other, Predictions) else other
    gain_R = resampled_map(labels_NC, own_NC) - resampled_map(labels_NC, other_NC)
    gain = mean_average_precision(labels_NC, own_NC) - mean_average_precision(labels_NC, other_NC)
    return judged(gain, interval(gain_R), words, if_level, " of mAP")


def wanted_exit(
    config: Config,
    exit_accuracy: float | None,
    exit_glimpses: float | None,
    stop_at: float | None,
) -> dict[str, float]:
    """What an early exit is to reach, if a threshold is to be chosen. Raises UserError."""
    given = [value for value in (exit_accuracy, exit_glimpses, stop_at) if value is not None]
    check(len(given) <= 1, "--exit-accuracy, --exit-glimpses, --stop-at: give one of them")
    check(0 <= (stop_at or 0) <= 1, f"--stop-at: {stop_at} is not in 0 to 1")
    check(
        0 <= (exit_accuracy or 0) <= 1, f"--exit-accuracy: {exit_accuracy} is not between 0 and 1"
    )
    aims = {"accuracy": exit_accuracy, "mean_glimpses": exit_glimpses}
    wanted = {name: value for name, value in aims.items() if value is not None}
    if wanted and config.data.train_on != "train":
        raise UserError(
            "--exit-accuracy, --exit-glimpses: the threshold is chosen on the validation split,"
            f" which this run has learned (train_on: {config.data.train_on}); choose it by a run"
            " that was trained on train alone, and give it with --stop-at"
        )
    return wanted


def early_exit(
    predictions: Predictions, table: ExitTable, threshold: float, cost: Cost
) -> tuple[dict[str, Any], bytes]:
    """The figures of early exit at a threshold, and the curve over all thresholds (CSV)."""
    accuracy, mean_glimpses = exit_at(table, threshold)
    curve = exit_curve(table, cost)
    name = "photo_f1" if predictions.multi_label else "accuracy"
    curve = curve.rename(columns={"accuracy": name})
    return {
        "by": "belief" if predictions.stops_NT is None else "stopping head",
        "threshold": None if np.isinf(threshold) else threshold,
        name: accuracy,
        "mean_glimpses": mean_glimpses,
        "mean_gmacs": cost.before + mean_glimpses * cost.per_glimpse,
    }, curve.round(6).to_csv(index=False).encode()

"""The test command: what a trained model is worth, beside the controls that it must beat.

Writes into the run's folder (SPLIT is `test` unless said otherwise):
    SPLIT.json             everything below in one
    SPLIT_per_class.csv    SPLIT_confusion.csv    SPLIT_confusion.png    SPLIT_photos.csv
    SPLIT_early_exit.csv   accuracy against mean GMACs over all thresholds, on request
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from stacked_ram.cli.main import Test
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.glance_cache import keep_glances
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import Loader, make_loader
from stacked_ram.evaluation.cost import Cost, photo_cost, typical_size
from stacked_ram.evaluation.early_exit import (
    ExitTable,
    choose_threshold,
    exit_at,
    exit_curve,
    exit_table,
)
from stacked_ram.evaluation.metrics import (
    bootstrap_interval,
    calibration_error,
    confusion,
    confusion_png,
    per_class,
)
from stacked_ram.evaluation.multicrop import Crops, crop_size
from stacked_ram.evaluation.predictions import TOP, Predictions, look_at
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import check_folder, command_line, environment, now, write_atomically
from stacked_ram.runtime.devices import set_switches
from stacked_ram.runtime.errors import UserError, check

# The same model, made to look elsewhere or less.
CONTROLS = {
    "centre": {"location_source": "centre"},
    "random": {"location_source": "random"},
    "first glimpse only": {"num_glimpses": 1},
}
BOX_GIVEN = {"box given": {"at_boxes": True}}  # what looking at the object alone is worth
# Where the glimpses of several crops were, none of them says.
SAID_OF_CROPS = (
    "photos", "accuracy", "interval_95", f"top_{TOP}", "loss", "calibration_error",
    "accuracy_after",
)  # fmt: skip


def test(options: Test) -> None:
    if options.out is not None and len(options.runs) > 1:
        raise UserError("--out: only for one run; several write into their own folders")
    reports = {}
    for run in options.runs:
        report = test_run(run, options)
        reports[str(run)] = report
        print(summary(report))
    if len(reports) > 1:
        print(comparison(reports))


def test_run(run: Path, options: Test) -> dict[str, Any]:
    """Test one run, write its report and return it."""
    loaded = load_run(run, options.device)
    out = options.out or loaded.folder
    check_folder(out)
    set_switches(loaded.config.training, loaded.device)
    config = tested_config(loaded, options)
    dataset = open_dataset(config.data, options.split)
    loaded.check_fits(dataset)
    loader = make_loader(dataset, config, train=False, device=loaded.device)
    keep_glances(loader, loaded.model, config)
    try:
        report, tables = measure_run(loaded, loader, dataset, options)
    finally:
        loader.close()
    for name, content in tables.items():
        write_atomically(out / f"{options.split}{name}", content)
    report["files"] = str(out / f"{options.split}.json")
    text = json.dumps(report, indent=2, allow_nan=False)
    write_atomically(out / f"{options.split}.json", text.encode() + b"\n")
    return report


def tested_config(loaded: LoadedRun, options: Test) -> Config:
    given = {
        "dataset": None if options.dataset is None else str(options.dataset),
        "batch_size": options.batch_size,
        "limit_photos": options.limit_photos,
        "workers": options.workers,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.limit_photos is None:  # a quick training run is not tested on a part by accident
        changes["limit_photos"] = None
    return replace_fields(loaded.config, changes, "test")


def measure_run(
    loaded: LoadedRun, loader: Loader, dataset: Dataset, options: Test
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The report and the contents of its tables."""
    left_out = LeftOut(dataset)
    how: dict[str, Any] = {
        "precision": loaded.config.training.precision,
        "seed": loaded.config.training.seed,
        "left_out": left_out,
    }
    check(options.mc_samples >= 0, f"--mc-samples: {options.mc_samples} is below 0")
    model, classes = loaded.model, loaded.classes
    wanted = wanted_exit(options, loaded.config)
    threshold = options.stop_at
    if wanted:  # first: what cannot be had is told before the longer part
        valid = look_at_valid(
            loaded, options, keep_beliefs=True, **how | {"left_out": None},
            progress="validation split",
        )  # fmt: skip
        threshold = choose_threshold(table_of(valid), **wanted)
    looks = look_at(model, loader, progress="test", keep_beliefs=threshold is not None, **how)
    tables: dict[str, bytes] = {}
    height, width = typical_size(dataset, loaded.config.data)
    cost = photo_cost(model, height, width)
    report: dict[str, Any] = {
        "run": str(loaded.path),
        "epoch": loaded.card.epoch,
        "split": options.split,
        "dataset": str(dataset.folder),
        "pass": "one deterministic pass",
        **scores(looks),
        "gmacs": {
            "photo": [height, width],
            **dataclasses.asdict(cost),
        },
    }
    if options.controls:
        boxed = not np.isnan(looks.hit_NT).all()
        report["controls"] = {
            name: scores(look_at(model, loader, progress=name, **how, **changed))
            for name, changed in (CONTROLS | (BOX_GIVEN if boxed else {})).items()
        }
        if model.backbone is not None:
            from stacked_ram.evaluation.linear_probe import plain_backbone

            report["plain backbone"] = plain_backbone(loaded, loader, left_out)
    if options.mc_samples:
        sampled = look_at(model, loader, progress="samples", samples=options.mc_samples, **how)
        report["mc_samples"] = {
            "pass": f"mean belief of {options.mc_samples} sampled scan paths a photo",
            "gmacs": cost.before + options.mc_samples * (cost.total - cost.before),
            **scores(sampled),
        }
    if options.crops > 1:
        crops = look_at(Crops(model, options.crops), loader, progress="crops", **how)
        whole = scores(crops)
        report["crops"] = {
            "pass": f"mean belief of {options.crops} crops a photo",
            "gmacs": options.crops * photo_cost(model, *crop_size(height, width)).total,
            **{name: whole[name] for name in SAID_OF_CROPS},
        }
    if threshold is not None:
        report["early_exit"], curve = early_exit(looks, threshold, cost)
        chosen = {"chosen": "on valid", "wanted": wanted} if wanted else {"chosen": "before"}
        report["early_exit"] |= chosen
        tables["_early_exit.csv"] = curve
    report["left_out"] = [
        {"path": path, "error": error} for path, error in sorted(left_out.errors.items())
    ]
    report |= {"command": command_line(), "when": now(), **environment()}
    table = confusion(looks.labels_N, looks.predicted_N, classes)
    per_class_table = per_class(looks.labels_N, looks.predicted_N, classes)
    report["mean_f1"] = float(per_class_table["f1"].iloc[-1])
    tables |= {
        "_per_class.csv": per_class_table.round(4).to_csv().encode(),
        "_confusion.csv": table.to_csv().encode(),
        "_confusion.png": confusion_png(table),
        "_photos.csv": photo_table(looks, dataset).encode(),
    }
    return report, tables


def wanted_exit(options: Test, config: Config) -> dict[str, float]:
    """What an early exit is to reach, if a threshold is to be chosen."""
    asked = (options.exit_accuracy, options.exit_glimpses, options.stop_at)
    check(
        sum(one is not None for one in asked) <= 1,
        "--exit-accuracy, --exit-glimpses, --stop-at: give one of them",
    )
    check(0 <= (options.stop_at or 0) <= 1, f"--stop-at: {options.stop_at} is not in 0 to 1")
    wanted = {"accuracy": options.exit_accuracy, "mean_glimpses": options.exit_glimpses}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    check(
        0 <= wanted.get("accuracy", 0) <= 1,
        f"--exit-accuracy: {options.exit_accuracy} is not between 0 and 1",
    )
    if wanted and config.data.train_on != "train":
        raise UserError(
            "--exit-accuracy, --exit-glimpses: the threshold is chosen on the validation split,"
            f" which this run has learned (train_on: {config.data.train_on}); choose it by a run"
            " that was trained on train alone, and give it with --stop-at"
        )
    return wanted


def look_at_valid(loaded: LoadedRun, options: Test, **how: Any) -> Predictions:
    """The full pass over the validation split, by which a threshold is chosen."""
    config = tested_config(loaded, options)
    dataset = open_dataset(config.data, "valid")
    loader = make_loader(dataset, config, train=False, device=loaded.device)
    keep_glances(loader, loaded.model, config)
    try:
        return look_at(loaded.model, loader, **how)
    finally:
        loader.close()


def early_exit(looks: Predictions, threshold: float, cost: Cost) -> tuple[dict[str, Any], bytes]:
    """What looking no longer than needed gives, and the curve over all thresholds (CSV)."""
    table = table_of(looks)
    accuracy, mean_glimpses = exit_at(table, threshold)
    curve = exit_curve(table, cost)
    return {
        "by": "belief" if looks.stops_NT is None else "stopping head",
        "threshold": None if np.isinf(threshold) else threshold,
        "accuracy": accuracy,
        "mean_glimpses": mean_glimpses,
        "mean_gmacs": cost.before + mean_glimpses * cost.per_glimpse,
    }, curve.round(6).to_csv(index=False).encode()


def table_of(looks: Predictions) -> ExitTable:
    return exit_table(looks.beliefs_NTC, looks.labels_N, looks.stops_NT, looks.fewest)


def scores(looks: Predictions) -> dict[str, Any]:
    """The figures of one pass over a split."""
    found: dict[str, Any] = {
        "photos": len(looks.labels_N),
        "accuracy": looks.accuracy,
        "interval_95": bootstrap_interval(looks.right_N),
        f"top_{TOP}": float(looks.top_N.mean()),
        "loss": float(looks.loss_N.mean()),
        "calibration_error": calibration_error(looks.confidence_N, looks.right_N),
        "accuracy_after": looks.right_NT.mean(0).tolist(),
        "read": float(looks.read_N.mean()),
        "last_location": {
            "mean": looks.last_N2.mean(0).tolist(),
            "spread": looks.last_N2.std(0).tolist(),
        },
    }
    if looks.glance_right_N is not None:
        found["accuracy_glance"] = float(looks.glance_right_N.mean())
    boxed = ~np.isnan(looks.hit_NT[:, 0])
    if boxed.any():
        found |= {
            "photos_with_box": int(boxed.sum()),
            "hit_rate": looks.hit_NT[boxed].mean(0).tolist(),
            "hit_by_any": float(looks.hit_NT[boxed].any(1).mean()),
            "box_covered": looks.covered_NT[boxed].mean(0).tolist(),
            "box_covered_best": float(looks.covered_NT[boxed].max(1).mean()),
        }
    return found


def photo_table(looks: Predictions, dataset: Dataset) -> str:
    """One row a photo, the surest mistakes first."""
    import pandas

    names = np.array(dataset.classes)
    table = pandas.DataFrame(
        {
            "path": [dataset.names[row] for row in looks.index_N],
            "class": names[looks.labels_N],
            "predicted": names[looks.predicted_N],
            "confidence": looks.confidence_N.round(4),
            "right": looks.right_N,
            "x": looks.last_N2[:, 0].round(4),
            "y": looks.last_N2[:, 1].round(4),
        }
    )
    order = np.lexsort((-looks.confidence_N, looks.right_N))
    return table.iloc[order].to_csv(index=False, lineterminator="\n")


def summary(report: dict[str, Any]) -> str:
    """What is printed."""
    low, high = report["interval_95"]
    lines = [
        f"{report['run']} (epoch {report['epoch']}) on {report['split']} of {report['dataset']},"
        f" {report['photos']} photos, {report['pass']}:",
        f"  accuracy           {report['accuracy']:7.2%}   ({low:.2%} to {high:.2%}, 95 %)",
        f"  among the top {TOP}    {report[f'top_{TOP}']:7.2%}",
        f"  mean F1            {report['mean_f1']:7.2%}",
        f"  calibration error  {report['calibration_error']:7.2%}",
        f"  after each glimpse {percents(report['accuracy_after'])}",
        f"  GMACs a photo      {report['gmacs']['total']:7.4f}   "
        f"({report['gmacs']['per_glimpse']:.4f} a glimpse, photo"
        f" {report['gmacs']['photo'][0]}x{report['gmacs']['photo'][1]})",
        f"  pixels read        {report['read']:7.2%}   (share of the photo, upper bound)",
    ]
    if "accuracy_glance" in report:
        lines.append(f"  after the glance   {report['accuracy_glance']:7.2%}")
    if report["left_out"]:
        count = len(report["left_out"])
        lines.append(f"  left out           {count:7d}   (photos that could not be read)")
    if "hit_rate" in report:
        lines.append(f"  location in box    {percents(report['hit_rate'])} by glimpse")
        lines.append(f"  box covered        {percents(report['box_covered'])} by the finest patch")
    for name, control in report.get("controls", {}).items():
        distance = 100 * (report["accuracy"] - control["accuracy"])
        label = f"control: {name}"
        lines.append(f"  {label:26} {control['accuracy']:7.2%}   (policy {distance:+.1f} points)")
    for row in report.get("plain backbone", {}).get("sizes", []):
        label = f"plain backbone at {row['size']}"
        lines.append(f"  {label:26} {row['accuracy']:7.2%}   ({row['gmacs']:.4f} GMACs)")
    if "early_exit" in report:
        one = report["early_exit"]
        lines.append(
            f"  early exit         {one['accuracy']:7.2%}   ({one['mean_glimpses']:.2f} glimpses,"
            f" {one['mean_gmacs']:.4f} GMACs on average; threshold chosen {one['chosen']})"
        )
    for one in (report[name] for name in ("mc_samples", "crops") if name in report):
        lines.append(f"  {one['pass']}: accuracy {one['accuracy']:.2%}, {one['gmacs']:.4f} GMACs")
    return "\n".join([*lines, f"  written: {report['files']}"])


def percents(values: list[float]) -> str:
    return " ".join(f"{100 * value:.1f}" for value in values) + " %"


def comparison(reports: dict[str, dict[str, Any]]) -> str:
    """Several runs: each one's figures, their mean and standard deviation."""
    import pandas

    names = ["accuracy", f"top_{TOP}", "mean_f1", "calibration_error", "loss"]
    table = pandas.DataFrame(
        {run: {name: report[name] for name in names} for run, report in reports.items()}
    ).T
    return pandas.concat([table, table.agg(["mean", "std"])]).round(4).to_string()

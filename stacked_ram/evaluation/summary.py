"""The figures of evaluations as text for the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np

from stacked_ram.data.dataset import is_uneven
from stacked_ram.evaluation.evaluate import Evaluation
from stacked_ram.evaluation.predictions import TOP
from stacked_ram.evaluation.verdict import UNEVEN


def summary(evaluation: Evaluation) -> str:
    """The figures in words, for the terminal."""
    report = evaluation.figures
    several = "mAP" in report
    metric = "mAP" if several else "accuracy"
    lines = [
        f"{report['run']} (epoch {report['epoch']}) on {report['split']} of {report['dataset']},"
        f" {report['photos']} photos, {report['pass']}:",
        *(label_lines(report) if several else class_lines(evaluation)),
        f"  calibration error  {report['calibration_error']:7.2%}",
        f"  after each glimpse {percents(report['mAP_after' if several else 'accuracy_after'])}",
        f"  GMACs a photo      {report['gmacs']['total']:7.4f}   "
        f"({report['gmacs']['per_glimpse']:.4f} a glimpse, photo"
        f" {report['gmacs']['photo'][0]}x{report['gmacs']['photo'][1]})",
        f"  pixels read        {report['read']:7.2%}   (fraction of the photo, upper bound)",
    ]
    if "calibration" in report:
        fitted = report["calibration"]
        before, after = fitted["calibration_error"]
        lines.append(
            f"  temperature        {fitted['temperature']:7.3f}   (calibration error on valid"
            f" {before:.2%} before, {after:.2%} after)"
        )
    if "unknown" in report:
        other = report["unknown"]
        lines.append(
            f"  unknown photos     AUROC {separated(other)}   ({other['photos'][1]} of"
            f" {other['dataset']})"
        )
        if "plain_backbone" in other:
            plain = other["plain_backbone"]
            lines.append(
                f"    plain backbone   AUROC {separated(plain)}   (whole photo at {plain['size']},"
                f" {plain['gmacs']:.4f} GMACs, {metric} {plain[metric]:.2%})"
            )
    if f"top_{TOP}" in report:
        lines.append(f"  among the top {TOP}    {report[f'top_{TOP}']:7.2%}")
    if f"{metric}_glance" in report:
        lines.append(f"  after the glance   {report[f'{metric}_glance']:7.2%}")
    if report["left_out"]:
        count = len(report["left_out"])
        lines.append(f"  left out           {count:7d}   (photos that could not be read)")
    if "hit_rate" in report:
        lines.append(f"  location in box    {percents(report['hit_rate'])} by glimpse")
        covered, found = (percents(report[name]) for name in ("box_covered", "object_found"))
        lines.append(f"  box covered        {covered} by the narrowest patch")
        lines.append(f"  object found       {found} by each glimpse or before")
    for name, control in report.get("controls", {}).items():
        distance = 100 * (report[metric] - control[metric])
        label = f"control: {name}"
        lines.append(f"  {label:26} {control[metric]:7.2%}   (policy {distance:+.1f} points)")
    for row in report.get("linear_probe", {}).get("sizes", []):
        label = f"linear probe at {row['size']}"
        lines.append(f"  {label:26} {row[metric]:7.2%}   ({row['gmacs']:.4f} GMACs)")
    if "early_exit" in report:
        early = report["early_exit"]
        good, of = ("photo_f1", "F1 of a photo; ") if several else ("accuracy", "")
        lines.append(
            f"  early exit         {early[good]:7.2%}   ({of}{early['mean_glimpses']:.2f}"
            f" glimpses, {early['mean_gmacs']:.4f} GMACs on average; threshold chosen"
            f" {early['chosen']})"
        )
    for mean in (report[name] for name in ("mc_samples", "crops") if name in report):
        lines.append(f"  {mean['pass']}: {metric} {mean[metric]:.2%}, {mean['gmacs']:.4f} GMACs")
    if "explain" in report:
        lines += explained(report["explain"])
    if "fixations" in report:
        lines += beside_people(report["fixations"])
    if report["meaning"]:
        lines += ["What this means:", *(f"  {line}" for line in report["meaning"])]
    return "\n".join(lines)


def separated(figures: dict[str, Any]) -> str:
    """How well each score tells known photos from unknown ones, in words."""
    confidence, energy, distance = (
        f"{figures[name]['auroc']:.3f}" for name in ("confidence", "energy", "mahalanobis")
    )
    return f"{confidence} by confidence, {energy} by energy, {distance} by Mahalanobis distance"


def class_lines(evaluation: Evaluation) -> list[str]:
    """The figures of the answers, where a photo has one class."""
    report = evaluation.figures
    low, high = report["interval_95"]
    accuracy = (
        f"  accuracy           {report['accuracy']:7.2%}   (95 % confidence interval {low:.2%} to"
        f" {high:.2%}; one photo is {1 / report['photos']:.2%})"
    )
    balanced = [
        f"  balanced accuracy  {report['balanced_accuracy']:7.2%}   (mean over classes)",
        f"  mean F1            {report['mean_f1']:7.2%}",
    ]
    uneven = is_uneven(np.bincount(evaluation.predictions.labels_N).tolist(), UNEVEN)
    return [*balanced, accuracy] if uneven else [accuracy, *balanced[1:]]


def label_lines(report: dict[str, Any]) -> list[str]:
    """The figures of the answers, where a photo may have several classes."""
    low, high = report["interval_95"]
    return [
        f"  mAP                {report['mAP']:7.2%}   (95 % confidence interval {low:.2%} to"
        f" {high:.2%}; mean average precision over classes)",
        f"  mean F1            {report['mean_f1']:7.2%}   (over classes, at their thresholds;"
        f" of a photo {report['photo_f1']:.2%})",
        f"  exact match        {report['exact_match']:7.2%}   (every class of the photo right)",
    ]


def explained(figures: dict[str, Any]) -> list[str]:
    """The figures of `--explain`, in words."""
    better = figures["better_place"]
    lines = ["Whether it mattered where it looked (docs/explaining.md defines each figure):"]
    for name, cause in figures["causes"].items():
        lines.append(
            f"  {name:34} {cause['photos']:5d} mistakes"
            f"   ({cause['mended_by_a_better_place']} recognised with one glimpse elsewhere)"
        )
    lines.append(
        f"  a better place existed  {better['fraction']:7.2%} of photos; best place:"
        f" {100 * better['mean_gain']:+.1f} points of belief on average"
    )
    if better["of_mistakes"] is not None:
        chance = better["of_mistakes_for_another_class"]
        other = "" if chance is None else f" (another wrong class: {chance:.1%}, by chance)"
        lines.append(f"  recognised elsewhere    {better['of_mistakes']:7.2%} of mistakes{other}")
    beaten = ["-" if each is None else f"{100 * each:.0f}" for each in figures["places_beaten"]]
    lines.append(f"  places beaten           {' '.join(beaten)} %   by glimpse (random: 50)")
    drops = {"without it": figures["hidden"], "at a random place": figures["replaced"]}
    for name, found in drops.items():
        lines.append(f"  belief lost {name:18} {percents(found['drop'])} by glimpse")
    for row in figures["coverage"]:
        if all("accuracy" in row.get(name, {}) for name in ("hit", "missed")):
            hit, missed = row["hit"], row["missed"]
            lines.append(
                f"  object hit by {row['width_px']:.0f} px patch: accuracy {hit['accuracy']:.1%} of"
                f" {hit['photos']}; missed: {missed['accuracy']:.1%} of {missed['photos']}"
            )
    for kind in ("insertion", "deletion"):
        for name, curve in figures.get(kind, {}).items():
            low, high = curve["area"]["interval_95"]
            lines.append(
                f"  {kind} area, {name:30} {curve['area']['mean']:.3f}   ({low:.3f} to {high:.3f})"
            )
    lines += [f"  {note}" for note in figures["curve_notes"]]
    return [*lines, *(f"  {line}" for line in figures["meaning"])]


def beside_people(figures: dict[str, Any]) -> list[str]:
    """The figures of `--fixations`, in words."""
    lines = [
        f"Against people ({figures['fixations']} fixations on {figures['photos']} photos;"
        " 95 % confidence interval):"
    ]
    names = {"nss": "NSS", "auc_judd": "AUC-Judd", "path_distance": "scan-path distance"}
    for key, name in names.items():
        for kind in ("model", "centre bias"):
            low, high = figures[kind][key]["interval_95"]
            mean = figures[kind][key]["mean"]
            lines.append(f"  {name + ', ' + kind:32} {mean:6.3f}   ({low:.3f} to {high:.3f})")
    return lines


def percents(values: list[float]) -> str:
    return " ".join(f"{100 * value:.1f}" for value in values) + " %"


def comparison(evaluations: dict[str, Evaluation]) -> str:
    """Several runs: each one's figures, their mean and standard deviation."""
    import pandas

    names = [
        "accuracy", "mAP", f"top_{TOP}", "balanced_accuracy", "mean_f1", "calibration_error",
        "loss",
    ]  # fmt: skip
    table = pandas.DataFrame(
        {
            run: {name: found.figures.get(name) for name in names}
            for run, found in evaluations.items()
        }
    ).T.dropna(axis=1, how="all")
    return pandas.concat([table, table.agg(["mean", "std"])]).round(4).to_string()

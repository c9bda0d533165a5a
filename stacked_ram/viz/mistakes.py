"""What `test --explain` wrote about a split, for the report: why answers are wrong, and whether it
mattered where the model looked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from stacked_ram.evaluation.causes import CAUSES
from stacked_ram.viz.whole_set import WholeSet

MEANING = {
    "boxes": (
        "after its glance or an earlier glimpse, the true class had at least half of the belief",
        "no glimpse was at the object",
        "a glimpse was at the object, or no place of one glimpse would have helped",
    ),
    "places": (
        "after its glance or an earlier glimpse, the true class had at least half of the belief",
        "with one glimpse elsewhere, it would have recognised the photo",
        "no place of one glimpse would have helped",
    ),
}
"""What each cause means, by what the causes were found with."""


def causes_of_mistakes(folder: Path, whole: WholeSet) -> dict[str, Any] | None:
    """The causes of the mistakes in a split; None without the files of `test --explain`.

    `rows`: for each photo its cause, or "" where its answer is right or was another when it was
    tested. `better`: where one glimpse elsewhere would have recognised it, [glimpse, x, y, belief
    in the true class], else None. `order`: rows of the mistakes, those first that a better place
    would help most. `causes`: their names, meanings and counts, the most frequent first.
    `uncaused`: how many mistakes have none, because the test did not look at the photo
    (`untested`), or answered otherwise (`other`).
    """
    try:
        report = json.loads((folder / f"{whole.split}.json").read_text(encoding="utf-8"))
        meanings = MEANING[report["explain"]["causes_by"]]
        path = folder / f"{whole.split}_explain.csv"
        table = pandas.read_csv(path, keep_default_na=False, dtype=str).set_index("path")
        found = {
            name: (row["cause"], row["predicted"], better_place(row))
            for name, row in table.to_dict("index").items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    row_of = {name: row for row, name in enumerate(whole.names)}
    rows, better = [""] * len(whole.names), [None] * len(whole.names)
    order = []
    for name, (cause, predicted, place) in found.items():
        row = row_of.get(str(name))
        if row is None or whole.right_N[row] or whole.classes[whole.predicted_N[row]] != predicted:
            continue
        rows[row], better[row] = cause, place
        order.append(row)
    wrong = np.flatnonzero(~whole.right_N)
    untested = sum(whole.names[int(row)] not in found for row in wrong)
    causes: list[dict[str, Any]] = [
        {
            "name": name,
            "meaning": meaning,
            "photos": rows.count(name),
            "mended": sum(rows[row] == name and better[row] is not None for row in order),
        }
        for name, meaning in zip(CAUSES, meanings, strict=True)
    ]
    causes.sort(key=lambda cause: -cause["photos"])
    uncaused = {"untested": untested, "other": len(wrong) - untested - len(order)}
    return {
        "rows": rows, "better": better, "order": order, "causes": causes, "uncaused": uncaused,
    }  # fmt: skip


def whether_it_mattered(path: Path) -> dict[str, Any] | None:
    """The figures of `test --explain` in a file of `test`, in words; None where there are none.

    `meaning`: sentences. `photos`: how many were looked at. `figures`: (name, value) of each.
    `orders`: (order of places, its area by insertion, by deletion).
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["explain"]
        return {
            "meaning": [str(line) for line in found["meaning"]],
            "photos": int(found["photos"]),
            "figures": figures_of(found),
            "orders": [
                (name, *(area(found[kind][name]["area"]) for kind in ("insertion", "deletion")))
                for name in found.get("insertion", {})
            ],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def figures_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    beaten = ["–" if each is None else f"{100 * each:.0f}" for each in found["places_beaten"]]
    rows = [
        ("belief lost without each glimpse", drops(found["hidden"])),
        ("belief lost with it at a random place", drops(found["replaced"])),
        ("places that its own beat", f"{', '.join(beaten)} % by glimpse (random places: 50 %)"),
    ]
    better = found["better_place"]
    if better["of_mistakes"] is not None:
        chance = better["of_mistakes_for_another_class"]
        other = "" if chance is None else f" ({100 * chance:.0f} % for another wrong class)"
        words = f"{100 * better['of_mistakes']:.0f} % of the mistakes{other}"
        rows.append(("right with one glimpse elsewhere", words))
    for row in found["coverage"]:
        parts = [
            f"{name}: {100 * row[name]['accuracy']:.0f} % right of {row[name]['photos']:,}"
            for name in ("hit", "missed")
            if "accuracy" in row.get(name, {})
        ]
        if parts:
            rows.append((f"object and the patch of {row['width_px']:.0f} px", "; ".join(parts)))
    return rows


def drops(found: dict[str, Any]) -> str:
    return ", ".join(f"{100 * each:.1f}" for each in found["drop"]) + " % by glimpse"


def area(found: dict[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['mean']:.3f} ({low:.3f} to {high:.3f})"


def better_place(row: dict[str, str]) -> Any:
    if row["better_place"] != "True":
        return None
    place = [float(row[name]) for name in ("best_x", "best_y", "best_belief_true")]
    return [int(row["best_glimpse"]), *place]

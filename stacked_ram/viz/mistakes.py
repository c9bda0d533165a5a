"""Why answers of a split are wrong, as `test --explain` wrote it, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    would help most. `causes`: their names, meanings and counts.
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
    causes = [
        {
            "name": name,
            "meaning": meaning,
            "photos": rows.count(name),
            "mended": sum(rows[row] == name and better[row] is not None for row in order),
        }
        for name, meaning in zip(CAUSES, meanings, strict=True)
    ]
    return {"rows": rows, "better": better, "order": order, "causes": causes}


def better_place(row: dict[str, str]) -> Any:
    if row["better_place"] != "True":
        return None
    place = [float(row[name]) for name in ("best_x", "best_y", "best_belief_true")]
    return [int(row["best_glimpse"]), *place]

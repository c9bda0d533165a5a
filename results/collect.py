"""All tested runs of a folder as one table: no figure is copied by hand.

    python results/collect.py [RESULTS] [--record]

Writes RESULTS/runs.csv: a row for each run with a test.json (`main.py test RUN --controls`), and
how it was trained. With --record it changes the committed table of record, tables/runs.csv,
instead. Rows of runs that are not in the folder (of other machines) stay.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from stacked_ram.runs.folder import write_atomically

CONTROLS = ("centre", "random", "first glimpse only", "box given")
PROBE = ("probe sizes", "probe gmacs", "probe accuracies")  # of the linear probe
COLUMNS = (
    "run", "data set", "seed", "epoch", "valid accuracy", "accuracy", "low_95", "high_95",
    "after the glance", "after each glimpse", "gmacs", "gmacs before", "early exit",
    "early exit gmacs",
    "pixels read", "hit rates", *CONTROLS, *PROBE, "samples averaged", "accuracy of the samples",
    "photos", "train command", "commit", "train minutes", "tested", "machine",
)  # fmt: skip


def main(results: Path, record: bool = False) -> None:
    table = results / "tables" / "runs.csv" if record else results / "runs.csv"
    rows = {}
    if table.exists():
        with table.open(newline="") as kept:
            rows = {one["run"]: one for one in csv.DictReader(kept)}
        if not rows:
            sys.exit(f"{table}: empty; bring back the table of before, or remove it")
    for report in results.glob("*/test.json"):
        rows[report.parent.name] = row(report.parent, json.loads(report.read_text()))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    table.parent.mkdir(exist_ok=True)
    write_atomically(table, text.getvalue().encode())
    print(table)


def row(run: Path, test: dict[str, Any]) -> dict[str, Any]:
    started = json.loads((run / "run.json").read_text())
    controls = test.get("controls", {})
    sampled = test.get("mc_samples")
    early = test.get("early_exit")
    probe = test.get("linear_probe") or test.get("plain backbone", {})  # its earlier name
    probes = probe.get("sizes", [])
    with (run / "metrics.csv").open(newline="") as file:
        epochs = {int(one["epoch"]): one for one in csv.DictReader(file)}
    valid = epochs[test["epoch"]].get("valid_accuracy")  # none where it was trained on
    begun = [one for one in started["starts"] if "started" in one][-1]  # others went on with it
    return {
        "run": run.name,
        "data set": Path(test["dataset"]).name,
        "seed": started["seed"],
        "epoch": test["epoch"],
        "valid accuracy": percent(float(valid)) if valid else "",
        "accuracy": percent(test["accuracy"]),
        "low_95": percent(test["interval_95"][0]),
        "high_95": percent(test["interval_95"][1]),
        "after the glance": percent(test["accuracy_glance"]) if "accuracy_glance" in test else "",
        "after each glimpse": " ".join(percent(one) for one in test["accuracy_after"]),
        "gmacs": f"{test['gmacs']['total']:.4f}",
        "gmacs before": f"{test['gmacs']['before']:.4f}",
        "early exit": percent(early["accuracy"]) if early else "",
        "early exit gmacs": f"{early['mean_gmacs']:.4f}" if early else "",
        "pixels read": percent(test["read"]),
        "hit rates": " ".join(percent(one) for one in test.get("hit_rate", [])),
        **{one: percent(controls[one]["accuracy"]) for one in CONTROLS if one in controls},
        PROBE[0]: " ".join(str(each["size"]) for each in probes),
        PROBE[1]: " ".join(f"{each['gmacs']:.4f}" for each in probes),
        PROBE[2]: " ".join(percent(each["accuracy"]) for each in probes),
        "samples averaged": re.search(r"\d+", sampled["pass"])[0] if sampled else "",
        "accuracy of the samples": percent(sampled["accuracy"]) if sampled else "",
        "photos": test["photos"],
        "train command": re.sub(r" --out \S+| --overwrite", "", begun["command"]),
        "commit": (begun.get("git") or "")[:10],
        "train minutes": f"{minutes(run / 'log.txt', started['starts']):.1f}",
        "tested": test["when"][:10],
        "machine": test["machine"],
    }


def percent(share: float) -> str:
    return f"{100 * share:.3f}"


def minutes(log: Path, starts: list[dict[str, str]]) -> float:
    """Spent on training: from each start to the last line before the next."""
    began = [datetime.fromisoformat(one.get("started") or one["resumed"]) for one in starts]
    lines = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", log.read_text(), re.MULTILINE)
    times = [datetime.fromisoformat(line).astimezone() for line in lines]
    spent = 0.0
    for start, end in zip(began, [*began[1:], datetime.max.replace(tzinfo=UTC)], strict=True):
        within = [time for time in times if start <= time < end]
        spent += (within[-1] - start).total_seconds() / 60 if within else 0
    return spent


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--record"]
    main(Path(folders[0]) if folders else Path(__file__).parent, "--record" in sys.argv)

"""Accuracy against what a photo costs, the attention models beside the plain backbone.

    python results/curves.py [RESULTS]

Writes tables/curves.csv and pictures/accuracy_cost.png from what `main.py test RUN --controls
--exit-glimpses N` left in the runs' folders. Where they are not in the folder (but on another
machine), a panel's part of the table stays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parents[1]))
from stacked_ram.viz.style import PAGE, QUIET, RUNS, Sheet, save_figure, styled

# title, the attention model's run, its glimpses, and the plain backbone: runs of it, fine-tuned, or
# the run in whose report its frozen features stand
PANELS = (
    (
        "Flowers in scenes, all fine-tuned", "scenes_flowers17_tuned", "≤ 3 glimpses",
        ("scenes_flowers17_plain160", "scenes_flowers17_plain", "scenes_flowers17_plain384"),
    ),
    ("Dogs in scenes, all frozen", "scenes_dogs20", "≤ 3 glimpses", "scenes_dogs20"),
    (
        "Flowers 17, all fine-tuned", "flowers17_closer", "≤ 1 glimpse",
        ("flowers17_plain96", "flowers17_plain128", "flowers17_plain160", "flowers17_plain224"),
    ),
    ("Dogs, all frozen", "dogs_p192", "≤ 1 glimpse", "dogs_p192"),
)  # fmt: skip
ATTENTION, PLAIN = RUNS


def report(results: Path, run: str) -> dict:
    return json.loads((results / run / "test.json").read_text())


def exits(results: Path, run: str) -> pandas.DataFrame:
    """Every threshold of an early exit: gmacs and accuracy on the test split."""
    curve = pandas.read_csv(results / run / "test_early_exit.csv")
    return curve.rename(columns={"mean_gmacs": "gmacs"})[["gmacs", "accuracy"]]


def needed(results: Path, run: str, plain_runs: tuple[str, ...] | str) -> list[Path]:
    """The files that a panel is drawn from."""
    runs = [plain_runs] if isinstance(plain_runs, str) else plain_runs
    return [results / run / "test_early_exit.csv"] + [results / one / "test.json" for one in runs]


def plain(results: Path, runs: tuple[str, ...] | str) -> pandas.DataFrame:
    if isinstance(runs, str):
        return pandas.DataFrame(report(results, runs)["plain backbone"]["sizes"])
    found = [report(results, run) for run in runs]
    return pandas.DataFrame(
        {
            "gmacs": [one["gmacs"]["total"] for one in found],
            "accuracy": [one["accuracy"] for one in found],
        }
    )


def draw(axes: Axes, table: pandas.DataFrame, title: str) -> None:
    for name, part in table.groupby("model", sort=False):
        of_plain = name.startswith("plain")
        axes.plot(
            part["gmacs"], 100 * part["accuracy"], color=PLAIN if of_plain else ATTENTION,
            marker="s" if of_plain else None, ms=3.5, lw=1.4, ls="--" if of_plain else "-",
            label=name,
        )  # fmt: skip
    axes.set_title(title, loc="left", fontweight="bold", fontsize=9)
    axes.set(xlabel="GMACs a photo, mean", ylabel="test accuracy, %", xlim=(0, None))
    axes.grid(axis="y", color="#e6e9ee", lw=0.6)
    axes.legend(frameon=False, loc="lower right", fontsize=7.5, labelcolor=QUIET)


@styled
def main(results: Path) -> None:
    sheet = Sheet(PAGE, 5.6)
    tables, file = [], results / "tables" / "curves.csv"
    kept = pandas.read_csv(file) if file.exists() else None
    for number, (title, run, glimpses, plain_runs) in enumerate(PANELS):
        if kept is None or all(one.exists() for one in needed(results, run, plain_runs)):
            parts = [
                exits(results, run).assign(model=f"attention, {glimpses}"),
                plain(results, plain_runs).assign(model="plain backbone"),
            ]
            table = pandas.concat(parts).assign(set=title)
        else:
            table = kept[kept["set"] == title]
        tables.append(table[["set", "model", "gmacs", "accuracy"]])
        across, down = number % 2, number // 2
        draw(sheet.axes(0.55 + 3.65 * across, 0.3 + 2.8 * down, 2.9, 1.95), table, title)
    text = pandas.concat(tables).round(4).to_csv(index=False)
    file.write_text(text, encoding="utf-8")
    save_figure(sheet.figure, results / "pictures" / "accuracy_cost.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

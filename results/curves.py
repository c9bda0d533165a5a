"""Accuracy against what a photo costs, the attention models beside the backbone alone.

    python results/curves.py [RESULTS]

Writes pictures/accuracy_cost.png from the tables of record (results/tables.py: means and
deviations over runs), and tables/curves.csv: the whole curves of early exits, from what `main.py
test RUN --exit-glimpses N` left in a run's folder. Where that is not in the folder (but on another
machine), its part of the table stays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pandas
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parents[1]))
from tables import AFTER, ALL, GLANCE, MOST

from stacked_ram.runs.folder import write_atomically
from stacked_ram.viz.style import PAGE, QUIET, RUNS, Sheet, save_figure, styled


class Panel(NamedTuple):
    title: str
    table: str
    """Name of a table of record. Drawn are its row `recipe`, and its linear probes or fine-tuned
    backbones, whichever was trained in the same way."""
    recipe: str
    run: str
    """Whose early exits are drawn as a line."""


PANELS = (
    Panel(
        "Flowers in scenes, all fine-tuned", "scenes_flowers17", "closer cells, fine-tuned",
        "scenes_flowers17_closer",
    ),
    Panel(
        "Dogs in scenes, all fine-tuned", "scenes_dogs20",
        "closer cells, fine-tuned for 24 epochs", "scenes_dogs20_closer",
    ),
    Panel(
        "Flowers 17, all fine-tuned", "flowers17_tuned", "one closer look at 224x224, fine-tuned",
        "flowers17_closer",
    ),
    Panel("Dogs, all frozen", "dogs", "hard, one closer look at 192x192, frozen", "dogs_p192"),
)  # fmt: skip
# further runs whose early exits are in curves.csv
ON_RECORD = (
    "flowers17_closer_split2", "flowers17_closer_split3", "flowers17_closer_all_split1",
    "flowers17_closer_all_split2", "flowers17_closer_all_split3", "dogs_closer",
    "scenes_dogs20_tuned", "scenes_dogs20_tuned_seed1", "scenes_dogs20_tuned_seed2",
    "scenes_dogs20_closer_seed1", "scenes_dogs20_closer_seed2", "scenes_flowers17_tuned",
    "scenes_flowers17_closer_seed1", "scenes_flowers17_closer_seed2", "scenes_dogs20",
)  # fmt: skip
ATTENTION, BACKBONE = RUNS
ALONG = (GLANCE, *(AFTER.format(number) for number in range(1, MOST)), ALL)
LONGER = "60 epochs"  # backbones that were trained for longer are drawn separately


def exits(results: Path, run: str) -> pandas.DataFrame:
    """Every threshold of a run's early exit; none where its folder is not here."""
    file = results / run / "test_early_exit.csv"
    if not file.exists():
        return pandas.DataFrame()
    curve = pandas.read_csv(file).rename(columns={"mean_gmacs": "gmacs"})
    return curve.assign(run=run)[["run", "gmacs", "accuracy"]].round(4)


def draw(axes: Axes, panel: Panel, table: pandas.DataFrame, line: pandas.DataFrame) -> None:
    kind = "linear probe" if panel.recipe.endswith("frozen") else "fine-tuned backbone"
    whole, recipes = table["looked"] == ALL, table["recipe"]
    ours = table[(recipes == panel.recipe) & table["looked"].isin(ALONG)]
    backbones = table[recipes.str.startswith(kind) & whole]
    is_longer = backbones["recipe"].str.endswith(LONGER)
    axes.plot(
        line["gmacs"], 100 * line["accuracy"], color=ATTENTION, lw=1.2, label="early exits, seed 0"
    )
    for part, color, marker, ls, label in (
        (ours, ATTENTION, "o", "", "attention, by glimpse"),
        (backbones[~is_longer], BACKBONE, "s", "--", "backbone alone"),
        (backbones[is_longer], BACKBONE, "D", "", f"backbone alone, {LONGER}"),
    ):
        if part.empty:
            continue
        axes.errorbar(
            part["gmacs"], part["accuracy"], part["deviation"], color=color, marker=marker, ls=ls,
            ms=3.8, lw=1.2, elinewidth=1, capsize=2, label=label,
        )  # fmt: skip
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=9)
    axes.set(xlabel="GMACs a photo, mean", ylabel="test accuracy, %", xlim=(0, None))
    axes.grid(axis="y", color="#e6e9ee", lw=0.6)


@styled
def main(results: Path) -> None:
    sheet, file = Sheet(PAGE, 5.6), results / "tables" / "curves.csv"
    kept = pandas.read_csv(file)
    curves = {}
    for run in (*(panel.run for panel in PANELS), *ON_RECORD):
        found = exits(results, run)
        curves[run] = kept[kept["run"] == run] if found.empty else found
    write_atomically(file, pandas.concat(curves.values()).to_csv(index=False).encode())
    for number, panel in enumerate(PANELS):
        table = pandas.read_csv(results / "tables" / f"{panel.table}.csv")
        axes = sheet.axes(0.55 + 3.65 * (number % 2), 0.3 + 2.8 * (number // 2), 2.9, 1.95)
        draw(axes, panel, table, curves[panel.run])
        if number == 0:  # the same in all panels
            axes.legend(frameon=False, loc="lower right", fontsize=7.5, labelcolor=QUIET)
    save_figure(sheet.figure, results / "pictures" / "accuracy_cost.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

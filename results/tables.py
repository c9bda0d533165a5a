"""The tables of record: the runs of tables/runs.csv by recipe, with means over their seeds.

    python results/tables.py [RESULTS]

Writes tables/NAME.csv for each of TABLES, and the same as Markdown into the pages of the folder,
between the marks `<!-- NAME -->` and `<!-- end -->`: no mean is computed or copied by hand. ± is
the standard deviation over runs (n - 1); a single run's figure with all its glimpses has its 95 %
confidence interval in brackets.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas

sys.path.insert(0, str(Path(__file__).parents[1]))
from stacked_ram.runs.folder import write_atomically


def seeds(run: str) -> tuple[str, ...]:
    """A recipe's runs with seeds 0, 1 and 2, as they are named here."""
    return (run, f"{run}_seed1", f"{run}_seed2")


def splits(run: str) -> tuple[str, ...]:
    """A recipe's runs on our three splits of Flowers 17."""
    return (run, f"{run}_split2", f"{run}_split3")


def all_splits(run: str) -> tuple[str, ...]:
    """The same of a recipe trained on train and valid together: all three have their number."""
    return (f"{run}_split1", f"{run}_split2", f"{run}_split3")


# table: recipes and the runs that are their seeds (or splits)
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "scenes_flowers17": {
        "closer cells, fine-tuned": seeds("scenes_flowers17_closer"),
        "cells, fine-tuned": seeds("scenes_flowers17_tuned"),
        "fine-tuned backbone, 160x160": seeds("scenes_flowers17_plain160"),
        "fine-tuned backbone, 160x160 for 60 epochs": seeds("scenes_flowers17_plain160_long"),
        "fine-tuned backbone, 224x224": seeds("scenes_flowers17_plain"),
        "fine-tuned backbone, 224x224 for 60 epochs": (
            "scenes_flowers17_plain_long", "scenes_flowers17_plain_long_seed1",
        ),
        "fine-tuned backbone, 384x384": ("scenes_flowers17_plain384",),
        "cells, frozen": ("scenes_flowers17",),
        "Gaussian, frozen": ("scenes_flowers17_gaussian",),
    },
    "scenes_dogs20": {
        "cells, fine-tuned": seeds("scenes_dogs20_tuned"),
        "cells, fine-tuned for 24 epochs": ("scenes_dogs20_tuned_24",),
        "closer cells, fine-tuned for 24 epochs": seeds("scenes_dogs20_closer"),
        "fine-tuned backbone, 160x160": ("scenes_dogs20_plain160",),
        "fine-tuned backbone, 160x160 for 60 epochs": ("scenes_dogs20_plain160_long",),
        "cells, frozen": seeds("scenes_dogs20"),
    },
    "flowers17": {
        "three glimpses of 96x96, frozen": seeds("flowers17_lite0"),
        "the same with an LSTM core": ("flowers17_lite0_lstm",),
        "the same with soft attention": seeds("flowers17_soft"),
    },
    "flowers17_splits": {
        "three glimpses of 96x96, frozen": all_splits("flowers17_all_rnn"),
        "the same with an LSTM core": all_splits("flowers17_all"),
    },
    "flowers17_tuned": {
        "one closer look at 224x224, fine-tuned": splits("flowers17_closer"),
        "fine-tuned backbone, 96x96": splits("flowers17_plain96"),
        "fine-tuned backbone, 128x128": splits("flowers17_plain128"),
        "fine-tuned backbone, 160x160": splits("flowers17_plain160"),
        "fine-tuned backbone, 224x224": splits("flowers17_plain224"),
    },
    "flowers17_tuned_all": {
        "one closer look at 224x224, fine-tuned": all_splits("flowers17_closer_all"),
        "fine-tuned backbone, 96x96": all_splits("flowers17_plain96_all"),
        "fine-tuned backbone, 128x128": all_splits("flowers17_plain128_all"),
        "fine-tuned backbone, 160x160": all_splits("flowers17_plain160_all"),
        "fine-tuned backbone, 224x224": all_splits("flowers17_plain224_all"),
    },
    "dogs": {
        "one closer look at 224x224, fine-tuned": ("dogs_closer",),
        "fine-tuned backbone, 160x160": ("dogs_plain160",),
        "fine-tuned backbone, 224x224": ("dogs_plain224",),
        "hard, three glimpses of 96x96, frozen": ("dogs_hard",),
        "hard, one closer look at 192x192, frozen": ("dogs_p192",),
        "soft, k = 1, start_size 1, frozen": ("dogs_soft_k1_start1",),
        "soft, k = 1, start_size 2, frozen": ("dogs_soft_k1_start2",),
        "soft, k = 1, start_size 4, frozen": ("dogs_soft_k1_start4",),
        "soft, k = 2, start_size 1, frozen": ("dogs_soft_k2_start1",),
        "soft, k = 2, start_size 2, frozen": ("dogs_soft_k2_start2",),
        "soft, k = 2, start_size 4, frozen": ("dogs_soft_k2_start4",),
        "soft, k = 3, start_size 1, frozen": ("dogs_soft_k3_start1",),
        "soft, k = 3, start_size 2, frozen": ("dogs_soft_k3_start2",),
        "soft, k = 3, start_size 4, frozen": ("dogs_soft_k3_start4",),
    },
    "flowers5": {
        "global convolutional stack": ("flowers5_conv_224",),
        "the same at the photos' own shapes": ("flowers5_conv_own",),
        "pure RNN stack, dense retina": ("flowers5_rnn_224",),
        "pure RNN stack, dense retina, own shapes": ("flowers5_rnn_own",),
        "pure RNN stack, conv retina": ("flowers5_rnn_conv",),
    },
    "needle": {"cells": ("needle",)},
    "demo": {"cells": ("demo",)},
    "digits": {
        "28x28": seeds("mnist_conv"),
        "28x28, on all 60,000": ("mnist_conv_all",),
        "28x28, the paper's own network": ("mnist",),
        "Fashion-MNIST 28x28": seeds("fashion_mnist_conv"),
        "Fashion-MNIST 28x28, the paper's own network": ("fashion_mnist",),
        "60x60 translated": seeds("mnist_translated60_conv"),
        "60x60 translated, the paper's own network": ("mnist_translated60",),
        "60x60 cluttered, a glance and 7 glimpses": (
            "mnist_cluttered60_glance", "mnist_cluttered60_glance_seed1",
        ),
        "60x60 cluttered": ("mnist_cluttered60_conv", "mnist_cluttered60_conv_seed1"),
        "60x60 cluttered, for 40 epochs": ("mnist_cluttered60_conv_40",),
        "60x60 cluttered, the paper's own network": ("mnist_cluttered60",),
        "100x100 cluttered, a glance and 7 glimpses": seeds("mnist_cluttered100_glance"),
        "100x100 cluttered": ("mnist_cluttered100_conv",),
        "100x100 cluttered, the paper's own network": ("mnist_cluttered100",),
    },
}  # fmt: skip
IN_ERRORS = ("digits",)  # the field reports these as test errors
ALL, GLANCE, EARLY, SAMPLES = "all glimpses", "the glance alone", "early exit", "sampled paths"
PLACES = {"centre": "all at the centre", "random": "random places", "box given": "box given"}
AFTER = "after glimpse {}"
MOST = 4  # models with more glimpses are shown after the first and the last of them only


def measured(run: pandas.Series) -> Iterator[tuple[str, float, float]]:
    """How a run was made to look, the GMACs of a photo then, and the accuracy in percent."""
    total, before = float(run["gmacs"]), float(run["gmacs before"])
    after = [float(one) for one in run["after each glimpse"].split()]
    yield ALL, total, float(run["accuracy"])
    if run["after the glance"]:
        yield GLANCE, before, float(run["after the glance"])
    for number, accuracy in enumerate(after[:-1], 1):
        each = (total - before) / len(after)
        yield AFTER.format(number), before + number * each, accuracy
    if run["early exit"]:
        yield EARLY, float(run["early exit gmacs"]), float(run["early exit"])
    for control, name in PLACES.items():
        if run[control]:
            yield name, total, float(run[control])
    if run["accuracy of the samples"]:
        cost = before + int(run["samples averaged"]) * (total - before)
        yield SAMPLES, cost, float(run["accuracy of the samples"])


def linear_probes(runs: pandas.DataFrame) -> Iterator[tuple[str, str, float, float]]:
    """Iterate over the linear probes that were measured beside some of these runs: a recipe for
    each size, a figure for each data set (all its runs have the same)."""
    for _, run in runs[runs["probe sizes"] != ""].drop_duplicates("data set").iterrows():
        columns = (run[name].split() for name in ("probe sizes", "probe gmacs", "probe accuracies"))
        for size, gmacs, accuracy in zip(*columns, strict=True):
            yield f"linear probe, {size}x{size}", ALL, float(gmacs), float(accuracy)


def table(record: pandas.DataFrame, recipes: dict[str, tuple[str, ...]]) -> pandas.DataFrame:
    """One row for each recipe and way of looking, over those of its runs that were tested so."""
    names = [name for runs in recipes.values() for name in runs]
    values = [
        (recipe, *one)
        for recipe, runs in recipes.items()
        for name in runs
        for one in measured(record.loc[name])
    ]
    values += linear_probes(record.loc[names])
    rows = []
    for (recipe, looked), part in pandas.DataFrame(
        values, columns=["recipe", "looked", "gmacs", "accuracy"]
    ).groupby(["recipe", "looked"], sort=False):
        row = {
            "recipe": recipe,
            "looked": looked,
            "gmacs": part["gmacs"].mean(),
            "accuracy": part["accuracy"].mean(),
            "deviation": part["accuracy"].std(),
            "runs": len(part),
            "each": " ".join(f"{one:.2f}" for one in part["accuracy"]),
        }
        runs = recipes.get(recipe, ())
        if looked == ALL and len(runs) == 1:
            row |= {end: float(record.loc[runs[0], end]) for end in ("low_95", "high_95")}
        rows.append(row)
    columns = ["recipe", "looked", "gmacs", "accuracy", "deviation", "low_95", "high_95", "runs"]
    return pandas.DataFrame(rows, columns=[*columns, "each"]).round(6)


def cell(row: pandas.Series, whole: pandas.Series, errors: bool) -> str:
    """A figure as it is shown: its deviation or interval, and its runs and its cost where they are
    not those of the `whole` (all glimpses)."""
    digits = 2 if errors else 1
    value, ends = row["accuracy"], [row["low_95"], row["high_95"]]
    if errors:
        value, ends = 100 - value, [100 - end for end in reversed(ends)]
    value, *ends = (f"{one + 1e-6:.{digits}f}" for one in (value, *ends))  # halves go up
    text = value
    if row["runs"] > 1:
        text += f" ± {row['deviation']:.{digits}f}"
        text += f" ({row['runs']} runs)" if row["runs"] < whole["runs"] else ""
    elif pandas.notna(row["low_95"]):
        text += f" ({ends[0]} to {ends[1]})"
    if abs(row["gmacs"] - whole["gmacs"]) > 5e-4:
        text += f" at {row['gmacs']:.3g}"
    return text


def markdown(rows: pandas.DataFrame, errors: bool) -> str:
    """A line a recipe, a column a way of looking."""
    looked = set(rows["looked"])
    after = [AFTER.format(number) for number in range(1, MOST)]
    if AFTER.format(MOST) in looked:
        after = after[:1]
    ways = [ALL, GLANCE, *after, EARLY, *PLACES.values(), SAMPLES]
    ways = [way for way in ways if way in looked]
    measure = "test error, %" if errors else "test accuracy, %"
    lines = [["what", "runs", "GMACs", measure, *ways[1:]], ["---"] + ["---:"] * (len(ways) + 2)]
    for recipe, part in rows.groupby("recipe", sort=False):
        part = part.set_index("looked", drop=False)
        whole = part.loc[ALL]
        cells = [cell(part.loc[way], whole, errors) if way in part.index else "" for way in ways]
        lines.append([recipe, str(whole["runs"]), f"{whole['gmacs']:.3g}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(results: Path) -> None:
    record = pandas.read_csv(results / "tables" / "runs.csv", dtype=str, keep_default_na=False)
    record = record.set_index("run")
    made = {}
    for name, recipes in TABLES.items():
        rows = table(record, recipes)
        write_atomically(results / "tables" / f"{name}.csv", rows.to_csv(index=False).encode())
        made[name] = markdown(rows, errors=name in IN_ERRORS)
    for page in sorted(results.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = re.sub(
            r"(<!-- (\w+) -->\n).*?(<!-- end -->)",
            lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}",
            text,
            flags=re.DOTALL,
        )
        if new != text:
            write_atomically(page, new.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

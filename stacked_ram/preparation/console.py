"""What a run tells on standard output: its plan, and what came of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from stacked_ram.preparation.assign_splits import plan_splits
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.download import OFFICIAL, download_folder
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.sources.common import Source


def tell_download(options: PrepareOptions) -> None:
    folder = download_folder(options.download, options.dest)
    for file in OFFICIAL[options.download]:
        here = "is there" if (folder / file.name).exists() else "would be fetched"
        print(f"{file.url}: {here} ({folder / file.name})")
    print(f"then {options.dest} would be made of them")


def tell_plan(catalogue: Catalogue, source: Source, options: PrepareOptions) -> None:
    counts = catalogue.class_counts()
    todo = catalogue.to_check()
    print(f"read as {source.layout}: {sum(counts.values())} photos in {len(counts)} classes")
    for name, count in counts.items():
        print(f"  {name}: {count}")
    for note in source.notes:
        print(f"note: {note}")
    print(f"split: {plan_splits(catalogue, source, options).rule}")
    print(f"{todo} photos would be checked, {sum(counts.values()) - todo} have been already")
    print(f"would write {options.dest}; nothing was written")


def tell_summary(dest: Path) -> None:
    """What a prepared data set holds, on standard output."""
    facts = yaml.safe_load((dest / "dataset.yaml").read_text(encoding="utf-8"))
    counts = facts["counts"]
    totals = ", ".join(f"{sum(counts[split].values())} {split}" for split in SPLITS)
    print(f"{dest}: {len(facts['classes'])} classes; {totals}")
    print(f"read as {facts['layout']}; split: {facts['rule']}")
    for title, key in [("repaired", "repaired"), ("not in the data set", "left_out")]:
        if facts[key]:
            print(f"{title}: " + ", ".join(f"{n} {word}" for word, n in facts[key].items()))
    for note in facts["notes"]:
        print(f"note: {note}")
    one = "digit" if facts["kind"] == "digits" else "photo"
    print(f"see {dest / 'report.html'}; one row a {one} in report.csv")

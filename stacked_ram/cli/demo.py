"""The demo command: prepare, train, test and draw, on data that comes with scikit-learn."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stacked_ram.cli.main import Demo
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.data.dataset import read_dataset_info
from stacked_ram.evaluation.evaluate import evaluate
from stacked_ram.evaluation.summary import summary
from stacked_ram.preparation.demo import prepare_demo
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runs.folder import RunFolder
from stacked_ram.training.run import train_run

PICTURES = 8
NOTE = (
    "The demo takes about 3 minutes on 2 idle cores, and longer on a busy machine; --quick takes"
    " one, and only shows that everything works."
)
QUICK_NOTE = (
    "demo --quick takes about a minute on 2 idle cores. It only shows that everything works: a"
    " model that is trained so briefly stays near chance, 10 %."
)
# A run that only shows that everything works.
QUICK = {"limit_photos": 600, "epochs": 2, "random_glimpses": 1.0}


def demo(options: Demo) -> None:
    """Prepare, train, test and draw; prints the accuracy beside two controls."""
    started = time.monotonic()
    print(QUICK_NOTE if options.quick else NOTE)
    home = home_folder()
    config = demo_config(home)
    dataset = Path(config.data.dataset)
    if not (dataset / "dataset.yaml").is_file():
        print(f"preparing {dataset} (digits on photographs, from scikit-learn)")
        prepare_demo(dataset, seed=0)
    read_dataset_info(dataset)
    if options.quick:
        config = replace_fields(config, QUICK, "--quick")
    folder = options.out or home / "results" / ("demo_quick" if options.quick else "demo")
    print(f"training {folder}")
    train_run(config, folder, overwrite=is_demo(folder, config))
    limit = config.data.limit_photos
    evaluation = evaluate(load_run(folder), controls=True, limit_photos=limit)
    evaluation.save(folder)
    pictures = draw(folder)
    print(summary(evaluation))
    centre, random = (evaluation.controls[name]["accuracy"] for name in ("centre", "random"))
    print(
        f"\nTest accuracy {evaluation.accuracy:.1%}; the same model made to look at the centre"
        f" {centre:.1%}, at random places {random:.1%}.  ({time.monotonic() - started:.0f} s)"
    )
    print("Open:")
    for path in (pictures, folder / "test_confusion.png", folder / "metrics.csv"):
        print(f"  {path}")


def home_folder() -> Path:
    """The folder of datasets/ and results/: that of main.py, or, for the installed command, the
    current one."""
    script = Path(sys.argv[0]).resolve()
    home = script.parent if script.name == "main.py" else Path.cwd()
    # Paths are shown and saved as a user would type them.
    return Path() if home == Path.cwd() else home


def demo_config(home: Path) -> Config:
    """The preset `demo`, its data set found from any folder."""
    config = load_config("demo")
    return replace_fields(config, {"dataset": str(home / config.data.dataset)}, "demo")


def is_demo(folder: Path, config: Config) -> bool:
    """Whether the folder holds an earlier demo, which may be overwritten."""
    if not (folder / "config.yaml").is_file():
        return False
    return RunFolder(folder).config().data.dataset == config.data.dataset


def draw(folder: Path) -> Path:
    """Draw what the model looked at on some test photos; returns where."""
    from stacked_ram.viz.draw import draw_run

    out = folder / "pictures"
    draw_run(folder, out=out, limit=PICTURES)
    return out

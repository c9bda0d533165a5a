"""The command line of `viz.py`. Nothing heavy is imported before the work begins."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError, run_entry_point
from stacked_ram.runtime.program import program
from stacked_ram.runtime.threads import sleep_at_barriers_if_busy

LIMIT, REPORT_LIMIT = 12, 100


@dataclass(frozen=True)
class Viz:
    """Draw where a trained model looked, in which order, and what it believed after each glimpse.

    With photos: one picture of each. Without: an overview and galleries of the whole test split,
    and a picture of each photo of a sample of it.
    """

    run: Annotated[
        Positional[Path | None], tyro.conf.arg(metavar="RUN", help_behavior_hint="(required)")
    ] = None
    """Run folder or weights file."""
    files: Positional[tuple[Path, ...]] = ()
    """Photos, or folders of photos."""
    photos: tuple[Path, ...] = ()
    """More photos, or folders of photos."""
    out: Path | None = None
    """Output folder. Default: RUN/pictures; the report: RUN."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Format of the pictures."""
    width: Literal["column", "page", "slide"] = "page"
    """Make pictures for a paper's column (3.5 inches), a page (7.2) or a slide (5.5, to be
    enlarged), with type that can be read at that width. Animations keep their size."""
    limit: int | None = None
    """The most photos to draw one by one, chosen evenly. Default: 12; in the report: 100, and at
    most half as many more for its galleries."""
    glimpses: int | None = None
    """Glimpses at each photo. Default: the run's."""
    stop_at: float | None = None
    """Stop looking at a photo once one class has this probability, 0 to 1, as `predict` does."""
    stop_by: Literal["belief", "stop"] = "belief"
    """What --stop-at is compared with: the belief, or what the stopping head says (a model trained
    with learned_stop)."""
    separate: bool = False
    """Draw scan path, patch strip and belief as a picture each."""
    attention: bool = False
    """Also draw maps of the attention at each step over the photos."""
    explain: bool = False
    """Also draw whether it mattered where the model looked: the belief by place of each glimpse,
    and without it. Without photos: mistakes by their causes (after `test --explain`)."""
    animate: bool = False
    """Also write each photo as GIF, and as MP4 (pip install -r requirements-video.txt), and all of
    them as one grid."""
    one_per_class: bool = False
    """Draw one photo of each class in a row, and nothing else."""
    compare: tuple[Path, ...] = ()
    """Another run with the same classes: draw both on the same photos, side by side. With --report
    or --app, several other runs."""
    report: bool = False
    """Write report.html: one file with figures, galleries and a player for every photo."""
    app: bool = False
    """Open a local page to try photos on the model (pip install -r requirements-app.txt)."""
    host: str = "127.0.0.1"
    """Address of the app; the default is reachable from this machine alone."""
    port: int = 7860
    """Port of the app."""
    split: Literal["test", "valid", "train"] = "test"
    """Split to draw when no photos are given."""
    dataset: Path | None = None
    """Where the run's data set lies now. Default: where it was in training."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."""


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    return run_entry_point(lambda: work(tyro.cli(Viz, prog=program("viz"), args=arguments)))


def work(options: Viz) -> int:
    if options.run is None:
        raise UserError(
            f"RUN is missing: give the folder of a run, as in `{program('viz')} results/demo`;"
            f" `{program()} demo` makes that one"
        )
    check(options)
    sleep_at_barriers_if_busy()
    if options.app:
        serve(options.run, options)
        return 0
    from stacked_ram.viz.style import drawn_for

    with drawn_for(options.width):
        files = draw(options.run, options)
    for path in files:
        print(path)
    return 0


def check(options: Viz) -> None:
    """Raise UserError for options that cannot go together, before anything is loaded."""
    for name in ("limit", "glimpses"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is below 1")
    if options.stop_at is None and options.stop_by == "stop":
        raise UserError("--stop-by stop: give the --stop-at to compare")
    if options.stop_at is not None and not 0 <= options.stop_at <= 1:
        raise UserError(f"--stop-at: {options.stop_at} is not in 0 to 1")
    if options.app and options.stop_by == "stop":
        raise UserError("--stop-by stop: the app stops by the belief alone")
    modes = [
        name for name in ("report", "app", "one_per_class", "compare") if getattr(options, name)
    ]
    if len(modes) > 1 and modes not in (["app", "compare"], ["report", "compare"]):
        given = " and ".join("--" + name.replace("_", "-") for name in modes)
        raise UserError(f"{given}: ask for one at a time")
    if options.explain and modes:
        other = "--" + modes[0].replace("_", "-")
        raise UserError(f"--explain and {other}: ask for one at a time")
    if len(options.compare) > 1 and len(modes) == 1:
        raise UserError("--compare: pictures compare two runs; --report compares more")
    if modes == ["report", "compare"] and (options.files or options.photos):
        raise UserError("--report --compare: compares runs on a whole split; name no photos")
    drawn = [name for name in ("separate", "attention", "animate") if getattr(options, name)]
    if modes and drawn:
        flag, more = (name.replace("_", "-") for name in (modes[0], drawn[0]))
        raise UserError(f"--{flag}: draws no --{more}; leave out one of them")
    if options.width != "page" and (options.report or options.app):
        mode = "report" if options.report else "app"
        raise UserError(f"--width: the {mode} fits itself to its window; leave it out")
    if options.one_per_class and (options.files or options.photos):
        raise UserError("--one-per-class: takes its photos from the data set; name none")


def serve(run: Path, options: Viz) -> None:
    """Open the app and stay until stopped."""
    from stacked_ram.viz import app

    where: dict[str, Any] = {"host": options.host, "port": options.port}
    where |= {"split": options.split, "dataset": options.dataset, "device": options.device}
    app.serve(run, options.compare, stop_at=options.stop_at, **where)


def draw(run: Path, options: Viz) -> list[Path]:
    """Draw what the options ask for; returns the files that were written."""
    where: dict[str, Any] = {
        "split": options.split, "dataset": options.dataset, "device": options.device,
    }  # fmt: skip
    loaded = load(run, options.device)
    where |= {"out": options.out, "format": options.format, "stop": early_exit(options)}
    if options.one_per_class:
        from stacked_ram.viz.draw import draw_one_per_class

        return draw_one_per_class(loaded, **where)
    limit = options.limit or (REPORT_LIMIT if options.report else LIMIT)
    where |= {"photos": named_photos(options, limit), "limit": limit}
    where |= {"num_glimpses": options.glimpses}
    if options.report:
        from stacked_ram.viz.report import write_report

        del where["format"]
        return [write_report(loaded, others=options.compare, **where)]
    if options.compare:
        from stacked_ram.viz.compare import compare_runs

        return compare_runs(loaded, options.compare[0], **where)
    from stacked_ram.viz.draw import draw_run

    return draw_run(
        loaded,
        separate=options.separate,
        attention=options.attention,
        explain=options.explain,
        animate=options.animate,
        **where,
    )


def load(run: Path, device: str) -> Any:
    """The run. What it and its libraries hold stays until the end: the garbage collector, which a
    figure's many small objects call all the time, need not search it again and again."""
    from stacked_ram.viz.draw import loaded

    found = loaded(run, device)
    gc.collect()
    gc.freeze()
    return found


def early_exit(options: Viz) -> Any:
    """The `Stop` that was asked for, or None."""
    from stacked_ram.evaluation.early_exit import Stop

    return None if options.stop_at is None else Stop(options.stop_at, options.stop_by)


def named_photos(options: Viz, limit: int) -> list[Path] | None:
    """The files of the photos that were named, or None; prints a note where the limit leaves some
    out."""
    from stacked_ram.viz.photos import photo_files

    if not (options.files or options.photos):
        return None
    files = photo_files([*options.files, *options.photos])
    if len(files) > limit:
        print(
            f"drawing {limit} of {len(files)} photos, evenly from their folders;"
            f" --limit {len(files)} draws all"
        )
    return files

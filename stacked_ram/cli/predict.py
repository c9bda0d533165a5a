"""The predict command: photos in, a table of classes and locations out.

Under torchrun each process takes every n-th photo.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify photos, and write a table of classes and of where the model looked.

    Any number of photos is read in bounded memory. A photo that cannot be read becomes a row with
    its error. Under torchrun the processes share the photos.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder or file of weights."""
    photos: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...")]
    """Files, folders, patterns, CSV files with a column `path`, or - (one name a line on stdin)."""
    out: Path | None = None
    """Table to write: .csv or .jsonl. Default: CSV on stdout."""
    top: int = 5
    """Classes named for each photo. Where a photo may have several, a CSV names those above their
    thresholds, and JSON lines name the likeliest too."""
    stop_at: float | None = None
    """Stop looking at a photo once one class has this probability, 0 to 1 (also after the glance,
    where there is one). With several labels: once the probability of every class lies at least this
    fraction of the way from its threshold to 0 or 1."""
    stop_by: Literal["belief", "stop"] = "belief"
    """What --stop-at is compared with: the belief, or what the stopping head says (a model trained
    with learned_stop)."""
    coverage: float | None = None
    """Answer for this fraction of photos like those of validation (0 to 1), and mark the others,
    which the model is least sure of, as unknown; needs `test --calibrate` before."""
    batch_size: int = 32
    """Photos in a batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""
    fast: bool = False
    """Look 2 to 3 times as fast on a CPU, by OpenVINO (pip install -r requirements-fast.txt). It
    takes some seconds more to start; probabilities differ a little."""


def predict(options: Predict) -> int:
    """Write the table as the photos are read; 1 if none could be read. Raises UserError."""
    # late: `--help` answers without torch
    from tqdm import tqdm

    from stacked_ram.evaluation.predict import check_options, predict_stream
    from stacked_ram.evaluation.prediction_table import check_out, write_table
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.runtime.distributed import join_world, leave_world

    check_options(options.batch_size, options.top, options.stop_at, options.stop_by)
    if options.out is not None:
        check_out(options.out)
    world = join_world()
    try:
        if world.size > 1 and (options.out is None or "-" in options.photos):
            raise UserError("under torchrun predict needs --out, and photos by name, not `-`")
        loaded = load_run(options.run, options.device, fast=options.fast)
        rows = predict_stream(
            loaded,
            islice(given_names(options.photos), world.rank, None, world.size),
            batch_size=options.batch_size,
            top=options.top,
            stop_at=options.stop_at,
            stop_by=options.stop_by,
            coverage=options.coverage,
        )
        # a bar between rows on the same terminal would tear them
        hidden = True if options.out is None and sys.stdout.isatty() else None
        columns = min(options.top, len(loaded.classes))
        with contextlib.closing(rows):  # ends its threads, also after an error
            shown = tqdm(rows, desc="predict", unit=" photos", disable=hidden, leave=False)
            photos, errors = write_table(
                shown, options.out, columns, world, unknown=options.coverage is not None,
                multi_label=loaded.metadata.multi_label,
            )  # fmt: skip
        if not photos and "-" not in options.photos:
            raise UserError(
                "no photos: name files, folders, patterns, CSV files, or - for standard input"
            )
        if world.is_main:
            print(f"{photos} photos, {errors} of them could not be read", file=sys.stderr)
        return int(errors == photos > 0)
    finally:
        leave_world()


def given_names(given: Iterable[str]) -> Iterator[str]:
    """The names of photos from what was typed; `-` reads them from standard input."""
    from stacked_ram.evaluation.predict import photo_names  # late: `--help` answers without torch

    for name in given:
        if name != "-":
            yield from photo_names([name])
            continue
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # as names that were typed
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())

"""The test command: measure trained models on a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Test:
    """Measure trained models on a split they were not trained on."""

    runs: Positional[tuple[Path, ...]]
    """Run folders (or files of weights). Of several, the mean and deviation are shown too."""
    split: Literal["test", "valid", "train"] = "test"
    """Which split."""
    controls: bool = False
    """Also look at the centre only, at random places, once only, and measure a linear probe of the
    backbone: what the policy must beat. And at the object's box, where it is known: what locations
    can win."""
    mc_samples: int = 0
    """Also average the beliefs of this many sampled scan paths a photo, reported apart."""
    crops: Literal[1, 5, 10] = 1
    """Also average the beliefs of this many crops a photo, reported apart: 5, the corners and the
    centre, each 7/8 as high and wide as the photo; 10, and the same mirrored."""
    exit_accuracy: float | None = None
    """Also look at each photo no longer than needed for this accuracy (0 to 1): the threshold of
    belief is chosen on the validation split, and the whole curve written."""
    exit_glimpses: float | None = None
    """The same for a wanted mean number of glimpses (below 1 where the glance can be enough)."""
    stop_at: float | None = None
    """The same with a threshold that was chosen before: that of a run which was trained on train
    alone, for one that has learned the validation split too."""
    out: Path | None = None
    """Folder for test.json and its tables. Default: the run's."""
    dataset: Path | None = None
    """Another prepared data set with the same classes. Default: the run's."""
    batch_size: int | None = None
    """Photos in a batch. Default: the run's."""
    limit_photos: int | None = None
    """Use at most this many photos."""
    workers: int | None = None
    """Processes that read photos. Default: the run's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""


def test(options: Test) -> None:
    """Test each run, write its report and print it. Raises UserError."""
    # late: `--help` answers without torch
    from stacked_ram.evaluation.evaluate import comparison, evaluate, summary
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.runs.folder import check_folder

    if options.out is not None and len(options.runs) > 1:
        raise UserError("--out: only for one run; several write into their own folders")
    found = {}
    for run in options.runs:
        loaded = load_run(run, options.device)
        folder = options.out or loaded.folder
        check_folder(folder)
        evaluation = evaluate(
            loaded,
            options.split,
            controls=options.controls,
            mc_samples=options.mc_samples,
            crops=options.crops,
            exit_accuracy=options.exit_accuracy,
            exit_glimpses=options.exit_glimpses,
            stop_at=options.stop_at,
            dataset=options.dataset,
            batch_size=options.batch_size,
            limit_photos=options.limit_photos,
            workers=options.workers,
        )
        written = evaluation.save(folder)
        print(f"{summary(evaluation)}\n  written: {written}")
        found[str(run)] = evaluation
    if len(found) > 1:
        print(comparison(found))

"""The test command: measure trained models on a split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from stacked_ram.runtime.errors import UserError

if TYPE_CHECKING:
    from stacked_ram.evaluation.evaluate import Evaluation


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
    explain: bool = False
    """Also say whether it mattered where it looked: a cause for every mistake, how often a better
    place existed, which glimpse decided, deletion and insertion, what was read."""
    fixations: Path | None = None
    """Also compare with where people looked: a CSV with the columns path, x and y (in pixels) and,
    if there were several people, person; fixations in the order of time."""
    mc_samples: int = 0
    """Also average the beliefs of this many sampled scan paths a photo, reported apart."""
    crops: Literal[1, 5, 10] = 1
    """Also average the beliefs of this many crops a photo, reported apart: 5, the corners and the
    centre, each 7/8 as high and wide as the photo; 10, and the same mirrored."""
    exit_accuracy: float | None = None
    """Also look at each photo no longer than needed for this accuracy (0 to 1): the threshold of
    belief is chosen on the validation split, and the whole curve written. With several labels: for
    this mean F1 of the photos."""
    exit_glimpses: float | None = None
    """The same for a wanted mean number of glimpses (below 1 where the glance can be enough)."""
    stop_at: float | None = None
    """The same with a threshold that was chosen before: that of a run which was trained on train
    alone, for one that has learned the validation split too."""
    calibrate: bool = False
    """First fit the temperature on the validation split, and store it in the model, so that its
    probabilities are honest in all commands; also draw a reliability diagram."""
    unknown: Path | None = None
    """Also measure how well the model, and its backbone alone, tell the test split of this prepared
    data set, which holds none of its classes, from its own photos."""
    out: Path | None = None
    """Folder for test.json and its tables. Default: the run's."""
    overwrite: bool = False
    """Replace a report with figures that this test does not measure."""
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
    from stacked_ram.evaluation.evaluate import evaluate
    from stacked_ram.evaluation.summary import comparison, summary
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.runs.folder import check_folder

    if options.out is not None and len(options.runs) > 1:
        raise UserError("--out: only for one run; several write into their own folders")
    found = {}
    for run in options.runs:
        loaded = load_run(run, options.device)
        folder = options.out or loaded.folder
        check_folder(folder)
        if not options.overwrite:
            check_kept(folder / f"{options.split}.json", options)
        evaluation = evaluate(
            loaded,
            options.split,
            controls=options.controls,
            explain=options.explain,
            fixations=options.fixations,
            mc_samples=options.mc_samples,
            crops=options.crops,
            exit_accuracy=options.exit_accuracy,
            exit_glimpses=options.exit_glimpses,
            stop_at=options.stop_at,
            calibrate=options.calibrate,
            unknown=options.unknown,
            dataset=options.dataset,
            batch_size=options.batch_size,
            limit_photos=options.limit_photos,
            workers=options.workers,
        )
        written = evaluation.save(folder)
        print(f"{summary(evaluation)}\n  written: {written}")
        if options.explain:
            print(f"  drawn: {draw_explained(folder, options.split, evaluation)}")
        found[str(run)] = evaluation
    if len(found) > 1:
        print(comparison(found))


def draw_explained(folder: Path, split: str, evaluation: Evaluation) -> Path:
    """Draw the figures of --explain beside the report."""
    from stacked_ram.viz.explained_set import explained_set_figure, read_explained
    from stacked_ram.viz.style import save_figure

    title = f"{folder.resolve().name}: {split} split of {Path(evaluation.dataset).name}"
    figure = explained_set_figure(read_explained(folder, split), title)
    return save_figure(figure, folder / f"{split}_explain.png")


def check_kept(path: Path, options: Test) -> None:
    """Raises UserError where a report is here whose figures this test would not measure again."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    early = (options.exit_accuracy, options.exit_glimpses, options.stop_at)
    measured = {
        "controls": options.controls,
        "explain": options.explain,
        "fixations": options.fixations is not None,
        "mc_samples": options.mc_samples > 0,
        "crops": options.crops > 1,
        "calibration": options.calibrate,
        "unknown": options.unknown is not None,
        "early_exit": any(value is not None for value in early),
    }
    lost = [name for name, again in measured.items() if name in before and not again]
    if options.limit_photos is not None and before.get("photos", 0) > options.limit_photos:
        lost.append(f"{before['photos']} photos")
    if lost:
        raise UserError(
            f"{path}: this test would remove figures from it ({', '.join(lost)}); give the same"
            " options again, another folder with --out, or --overwrite"
        )

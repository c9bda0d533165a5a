"""What one may ask of `viz.py`: every flag is a field here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

LIMIT, REPORT_LIMIT = 12, 100


@dataclass(frozen=True)
class Viz:
    """Draw what a trained model looked at, in which order, and what it came to believe.

    Everything is read from the run. With photos: one picture of each. Without: an overview and
    galleries of the whole test split, and one picture each of a sample of it.
    """

    run: Positional[Path]
    """Run folder or file of weights."""
    files: Positional[tuple[Path, ...]] = ()
    """Photos, or folders of photos."""
    photos: tuple[Path, ...] = ()
    """The same as a flag: photos, or folders of photos."""
    out: Path | None = None
    """Folder for what is written. Default: RUN/pictures."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Format of the pictures."""
    limit: int | None = None
    """Photos drawn one by one. Default: 12; in the report: 100."""
    glimpses: int | None = None
    """Glimpses at each photo. Default: the run's."""
    separate: bool = False
    """Scan path, patch strip and belief as a picture each."""
    attention: bool = False
    """Also draw where the attention would look at each step, as maps over the photos."""
    animate: bool = False
    """Also write each photo as GIF and MP4, and all of them as one grid."""
    one_per_class: bool = False
    """Draw one photo of each class in a row, and nothing else."""
    compare: Path | None = None
    """Another run with the same classes: draw both on the same photos, side by side."""
    report: bool = False
    """Write report.html: one file with figures, galleries and a player for every photo."""
    app: bool = False
    """Open a local page to try photos on the model (pip install -r requirements-app.txt)."""
    host: str = "127.0.0.1"
    """Address of the app; the default is reachable from this machine alone."""
    port: int = 7860
    """Port of the app."""
    split: Literal["test", "valid", "train"] = "test"
    """Split that is drawn when no photos are given."""
    dataset: Path | None = None
    """Where the run's data set lies now. Default: where it was in training."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""

    @property
    def named(self) -> tuple[Path, ...]:
        return (*self.files, *self.photos)

    @property
    def most(self) -> int:
        """Photos drawn one by one."""
        return self.limit or (REPORT_LIMIT if self.report else LIMIT)

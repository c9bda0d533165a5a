"""What a model did with one photo: figures as attributes, and pictures.

T glimpses   N classes   K patches of P x P pixels
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.runtime.errors import UserError, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stacked_ram.viz.records import PhotoRecord, Surface


class Result:
    """Where a model looked on one photo, and what it predicted.

    `model.look` and `model.predict` make these. Results of `predict` hold no pixels, so that many
    of them stay small: `beliefs`, `boxes`, `patches` and the pictures look at the photo once more
    when they are first used.
    """

    photo: str
    """Path of the photo; empty where pixels were given."""
    classes: tuple[str, ...]
    """The names of the N classes, in the order of the beliefs."""
    belief: NDArray[np.float32]
    """Class probabilities after the last glimpse, N values from 0 to 1."""
    locations: NDArray[np.float32]
    """Location of each glimpse, T x 2: (x, y) from -1 to 1, (-1, -1) the top left corner. In a
    stack of levels, that of the top level."""
    error: str | None
    """Why the photo could not be read; None where it was read. With an error, all figures are
    empty."""

    def __init__(
        self,
        photo: str,
        classes: tuple[str, ...],
        belief: NDArray[np.float32],
        locations: NDArray[np.float32],
        record: Callable[[], PhotoRecord],
        error: str | None = None,
    ) -> None:
        self.photo, self.classes, self.error = photo, classes, error
        self.belief, self.locations = belief, locations
        self._make_record = record

    @classmethod
    def from_record(
        cls, record: PhotoRecord, photo: str = "", stop_at: float | None = None
    ) -> Result:
        """The result of a whole pass; with `stop_at`, as if the model had stopped looking once a
        class had this probability."""
        shown = record.stopped_by(None if stop_at is None else Stop(stop_at))
        locations_T2 = shown.locations_TS2[:, -1]
        return cls(photo, record.classes, shown.belief_N, locations_T2, lambda: shown)

    # ------------------------------------------------------------------ figures

    @property
    def label(self) -> str:
        """The likeliest class; empty where the photo could not be read."""
        return "" if self.error is not None else self.classes[int(self.belief.argmax())]

    @property
    def probability(self) -> float:
        """Probability of that class, 0 to 1; nan where the photo could not be read."""
        return float("nan") if self.error is not None else float(self.belief.max())

    @property
    def glimpses(self) -> int:
        """How many glimpses the model took (T); 0 where its glance was enough."""
        return len(self.locations)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, the likeliest first."""
        order = np.argsort(-self.belief, kind="stable")[:count]
        return [(self.classes[index], float(self.belief[index])) for index in order]

    @property
    def beliefs(self) -> NDArray[np.float32]:
        """Class probabilities after each glimpse, T x N values from 0 to 1."""
        return self._record.beliefs_TN

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Where the patches were read, T x K x 4: (left, top, right, bottom) in pixels of the
        upright photo; they may reach outside it. In a stack of levels, the boxes of the top level;
        in a stack of feature maps, those on the photo."""
        photo, surface = self._record.photo, self._photo_surface
        height, width = (
            true / side for true, side in zip(photo.true_size, photo.size, strict=True)
        )
        return surface.boxes_TK4 * np.array([width, height, width, height], np.float32)

    @property
    def patches(self) -> NDArray[np.uint8]:
        """The patches as the model got them, T x K x P x P x 3, uint8 RGB: pixels outside the photo
        have the mean colour. In a stack of levels, the patches of the top level.

        Raises UserError where the model reads feature maps alone.
        """
        surface = self._photo_surface
        check(surface.patch_rows > 0, "patches: this model reads feature maps, not the photo")
        return surface.patches_TKPPC

    # ------------------------------------------------------------------ pictures

    def show(self) -> None:
        """Show the picture: in a notebook below the cell, otherwise in a window."""
        png = self._repr_png_()
        try:
            from IPython import get_ipython
            from IPython.display import Image, display
        except ImportError:
            in_notebook = False
        else:
            in_notebook = hasattr(get_ipython(), "kernel")
        if in_notebook:
            display(Image(png))
        else:
            from PIL import Image as PillowImage

            PillowImage.open(io.BytesIO(png)).show()

    def save(self, path: str | Path) -> Path:
        """Write the picture: scan path, patches and beliefs. `.png`, `.svg` or `.pdf`."""
        from stacked_ram.viz.style import save_figure

        file = Path(path)
        is_picture = file.suffix.lower() in (".png", ".svg", ".pdf")
        check(is_picture, f"{file}: end the name in .png, .svg or .pdf")
        return save_figure(self._figure(), file)

    def animate(self, path: str | Path) -> Path:
        """Write the scan path as an animation, `.gif` or `.mp4`."""
        from stacked_ram.viz.animation import save

        return save(self._record, path)

    def _repr_png_(self) -> bytes:
        """What a notebook shows for a result at the end of a cell."""
        from stacked_ram.viz.style import figure_bytes

        return figure_bytes(self._figure())

    def _figure(self) -> Figure:
        # late: matplotlib takes a second to import, and a label needs no picture
        from stacked_ram.viz.figures import story

        return story(self._record)

    @cached_property
    def _record(self) -> PhotoRecord:
        if self.error is not None:
            raise UserError(self.error)
        return self._make_record()

    @property
    def _photo_surface(self) -> Surface:
        return [surface for surface in self._record.surfaces if not surface.is_map][-1]

    def __repr__(self) -> str:
        name = self.photo or "photo"
        if self.error is not None:
            return f"<Result {name}: {self.error}>"
        glimpses = f"{self.glimpses} glimpse{'' if self.glimpses == 1 else 's'}"
        return f"<Result {name}: {self.label} {self.probability:.1%}, {glimpses}>"

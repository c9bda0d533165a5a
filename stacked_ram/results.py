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
from stacked_ram.runtime.errors import UserError, check, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stacked_ram.evaluation.explain_photo import PhotoExplanation
    from stacked_ram.runs.checkpoint import LoadedRun
    from stacked_ram.viz.photo_record import PhotoRecord, Surface
    from stacked_ram.viz.style import Width


class Pictured:
    """Something with a picture: shown, saved, and drawn by notebooks."""

    def _figure(self) -> Figure:
        raise NotImplementedError

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

    def save(self, path: str | Path, *, width: Width = "page") -> Path:
        """Write the picture: `.png`, `.svg` or `.pdf`, for a paper's `column` (3.5 inches), a
        `page` (7.2) or a `slide` (5.5, to be enlarged)."""
        from stacked_ram.viz.style import WIDTHS, drawn_for, save_figure

        file = Path(path)
        is_picture = file.suffix.lower() in (".png", ".svg", ".pdf")
        check(is_picture, f"{file}: end the name in .png, .svg or .pdf")
        check(width in WIDTHS, f"width: `{width}` is none of {', '.join(WIDTHS)}")
        with drawn_for(width):
            return save_figure(self._figure(), file)

    def _repr_png_(self) -> bytes:
        """What a notebook shows for this at the end of a cell."""
        from stacked_ram.viz.style import figure_bytes

        return figure_bytes(self._figure())


class Result(Pictured):
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
    unknown: bool | None = None
    """Whether the model is too unsure to answer; None where `predict` was given no `coverage`."""

    def __init__(
        self,
        photo: str,
        classes: tuple[str, ...],
        belief: NDArray[np.float32],
        locations: NDArray[np.float32],
        record: Callable[[], PhotoRecord],
        error: str | None = None,
        run: LoadedRun | None = None,
    ) -> None:
        self.photo, self.classes, self.error = photo, classes, error
        self.belief, self.locations = belief, locations
        self._make_record, self._run = record, run

    @classmethod
    def from_record(
        cls,
        record: PhotoRecord,
        photo: str = "",
        stop_at: float | None = None,
        run: LoadedRun | None = None,
    ) -> Result:
        """The result of a whole pass; with `stop_at`, as if the model had stopped looking once a
        class had this probability (with several labels, once every class had this margin)."""
        shown = record.stopped_by(None if stop_at is None else Stop(stop_at))
        locations_T2 = shown.locations_TS2[:, -1]
        return cls(photo, record.classes, shown.belief_N, locations_T2, lambda: shown, run=run)

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
    def labels(self) -> list[str]:
        """The classes that it says the photo has: the likeliest one; or, where a photo may have
        several, those whose probability reaches their threshold, the likeliest first. Empty where
        the photo could not be read."""
        if self.error is not None:
            return []
        if not self._multi_label:
            return [self.label]
        assert self._run is not None
        said = np.flatnonzero(self.belief >= self._run.model.thresholds_N.numpy())
        return [self.classes[label] for label in said[np.argsort(-self.belief[said])]]

    @property
    def _multi_label(self) -> bool:
        return self._run is not None and self._run.metadata.multi_label

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

    def explain(self, about: str | None = None, *, places: int = 300) -> Explanation:
        """Ask whether it mattered where the model looked on this photo.

        Each glimpse is forced to each of many places, and left out, while the others stay where
        they were. docs/explaining.md defines every figure.

        Args:
            about: the class whose belief is followed. Default: the true one, where the photo lies
                in a folder named like a class; otherwise the predicted one.
            places: the most places for each glimpse; a policy over cells has its own.

        Raises:
            UserError: there is no such class, the photo could not be read, or the glance was
                enough, so that there is no glimpse to explain.
        """
        from stacked_ram.viz.explained import explain_record

        record = self._record
        check(
            about is None or about in self.classes,
            f"about: there is no class {about!r}{nearest(about or '', self.classes)}",
        )
        check(places >= 1, f"places: {places} is below 1")
        check(self._run is not None, "explain: this result was not made by a model")
        assert self._run is not None
        label = None if about is None else self.classes.index(about)
        return Explanation(record, explain_record(self._run, record, label, places))

    # ------------------------------------------------------------------ pictures

    def animate(self, path: str | Path) -> Path:
        """Write the scan path as an animation, `.gif` or `.mp4`."""
        from stacked_ram.viz.animation import save

        return save(self._record, path)

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
        if self._multi_label:
            return f"<Result {name}: {', '.join(self.labels) or 'no class'}, {glimpses}>"
        return f"<Result {name}: {self.label} {self.probability:.1%}, {glimpses}>"


class Explanation(Pictured):
    """What a model would have believed if one of its glimpses had been elsewhere, or missing.

    `Result.explain` makes it. Beliefs are those in one class after the last glimpse, 0 to 1. If
    `test --explain` was run, they are calibrated. Glimpses count from 1.
    """

    def __init__(self, record: PhotoRecord, found: PhotoExplanation) -> None:
        self._record, self._found = record, found

    @property
    def about(self) -> str:
        """The class that the beliefs are about."""
        return self._found.classes[self._found.label]

    @property
    def belief(self) -> float:
        """The belief with all glimpses where the model looked."""
        return self._found.own

    @property
    def maps(self) -> NDArray[np.float32]:
        """The belief by forced place of each glimpse: T x rows x columns over the photo."""
        return self._found.maps_TYX

    @property
    def best(self) -> tuple[int, tuple[float, float], float]:
        """The glimpse and the place, (x, y) from -1 to 1, that give the highest belief; and that
        belief."""
        step, place = self._found.best
        x, y = self._found.places_G2[place].tolist()
        return step + 1, (x, y), float(self._found.forced_TGN[step, place, self._found.label])

    @property
    def without(self) -> NDArray[np.float32]:
        """The belief without each glimpse, T values."""
        return self._found.without_T

    @property
    def at_random(self) -> NDArray[np.float32]:
        """The belief with each glimpse at a random place, T values."""
        return self._found.elsewhere_T

    @property
    def deciding(self) -> int:
        """The glimpse whose absence changes the belief most."""
        return self._found.deciding + 1

    @property
    def cause(self) -> str | None:
        """Why the answer is wrong; None where it is right, or the true class is not known."""
        return self._found.cause

    @property
    def evidence(self) -> list[NDArray[np.float32]] | None:
        """For each surface that is read, T x K x P x P: what each patch pixel gave to the log
        belief, in nats. None without Captum (`pip install -r requirements-explain.txt`)."""
        return self._found.evidence

    def _figure(self) -> Figure:
        from stacked_ram.viz.explained import explained_figure

        return explained_figure(self._record, self._found)

    def __repr__(self) -> str:
        glimpse, _, best = self.best
        return (
            f"<Explanation: {self.about} {self.belief:.1%}, at best {best:.1%} (glimpse {glimpse}"
            f" elsewhere), glimpse {self.deciding} decided>"
        )

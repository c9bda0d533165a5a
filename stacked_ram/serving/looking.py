"""Photos that were sent -> what the model says of them, as `predict` says it.

A photo becomes a file of a temporary folder, so that it is opened exactly as `predict` opens it,
also where it is read by region.
"""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stacked_ram.data.photo_batches import open_as_trained
from stacked_ram.evaluation.calibration import least_confidence
from stacked_ram.evaluation.cost import Cost, photo_cost
from stacked_ram.evaluation.early_exit import Stop, check_criterion
from stacked_ram.evaluation.predict import Opened, Row, batches, check_options, predict_batch
from stacked_ram.images.decoding import true_size
from stacked_ram.images.lazy import LazyPhoto
from stacked_ram.images.uploads import check_upload
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import set_switches
from stacked_ram.runtime.errors import UserError
from stacked_ram.serving.settings import Settings

GRID = 64  # pixels; sizes are rounded to it where the cost depends on the photo's size


@dataclass
class Sent:
    """A photo that was sent."""

    path: Path
    pixels: int = 0
    """Of the sent photo."""
    size: tuple[int, int] = (0, 0)
    """(height, width) of the sent photo, upright; known once it is opened."""
    opened: Opened = ""

    @property
    def held(self) -> int:
        """Its pixels in memory, as the model gets them."""
        return self.opened[0].size if isinstance(self.opened, np.ndarray) else 0

    def plain(self, error: UserError | str) -> str:
        """The text of an error without the path of the file."""
        text = str(error).replace(str(self.path), "photo").removeprefix("photo: ")
        return text.removesuffix("; leave it out")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Looker:
    """A model and how it looks at the photos that are sent.

    `store` and `open` may run in any thread; `look` and `record` in one thread at a time.
    Raises UserError for settings that do not fit the model.
    """

    def __init__(self, loaded: LoadedRun, settings: Settings, folder: Path) -> None:
        check_options(settings.batch_size, settings.top, settings.stop_at, settings.stop_by)
        check_criterion(loaded.model, settings.stop_by)
        set_switches(loaded.config.training, loaded.device)
        self.loaded, self.settings, self.folder = loaded, settings, folder
        least = None
        if settings.coverage is not None:
            least = least_confidence(loaded, settings.coverage)
        self.how: dict[str, Any] = {
            "top": settings.top, "stop_at": settings.stop_at, "stop_by": settings.stop_by,
            "least": least,
        }  # fmt: skip
        self._cost = lru_cache(maxsize=4096)(self._count_cost)

    def store(self, content: bytes) -> Sent:
        """Keep a photo as a file. Raises UserError if it is no photo, and OSError if there is no
        room."""
        path = self.folder / uuid.uuid4().hex
        sent = Sent(path)
        try:
            path.write_bytes(content)
            sent.pixels = check_upload(path, round(self.settings.megapixels * 1e6))
            return sent
        except BaseException as error:
            sent.remove()
            if isinstance(error, UserError):
                raise type(error)(sent.plain(error)) from None
            raise

    def open(self, sent: Sent) -> None:
        """Decode a photo. Raises UserError if it cannot be read."""
        config, channels = self.loaded.config, self.loaded.metadata.channels
        try:
            sent.opened = open_as_trained(sent.path, config, channels)
            if isinstance(sent.opened, LazyPhoto):
                sent.size = sent.opened.size
            else:
                sent.size = true_size(sent.path)
        except UserError as error:
            raise UserError(sent.plain(error)) from None

    def warm_up(self) -> None:
        """Look at a grey photo, so that the first that is sent does not wait while loops are
        compiled."""
        content = io.BytesIO()
        Image.new("RGB", (GRID, GRID), (128, 128, 128)).save(content, "PNG")
        sent = self.store(content.getvalue())
        try:
            self.open(sent)
            self.look([sent])
        finally:
            sent.remove()

    def look(self, photos: list[Sent]) -> list[tuple[Row, float]]:
        """Return what the model says of each photo, and the GMACs that it took."""
        named = [(str(sent.path), sent.opened) for sent in photos]
        rows = (
            row
            for batch in batches(named, len(named))
            for row in predict_batch(self.loaded, batch, **self.how)
        )
        return [(row, self._gmacs(row, sent)) for row, sent in zip(rows, photos, strict=True)]

    def record(self, sent: Sent) -> Any:
        """Look again at a photo and record everything, to draw it. Raises UserError."""
        # late: pictures need matplotlib
        from stacked_ram.viz.photos import read_file
        from stacked_ram.viz.records import record_photos

        photo = read_file(self.loaded, sent.path)
        photo.name, photo.label = "photo", None
        stop_at, stop_by = self.settings.stop_at, self.settings.stop_by
        stop = None if stop_at is None else Stop(stop_at, stop_by)
        (record,) = record_photos(self.loaded, [photo], stop=stop)
        return record

    def _gmacs(self, row: Row, sent: Sent) -> float:
        if row.error:
            return 0.0
        opened = sent.opened
        assert not isinstance(opened, str)  # that it was opened is known
        height, width = opened.size if isinstance(opened, LazyPhoto) else opened.shape[1:]
        if self.loaded.config.data.photo_size is None:
            whole = self.loaded.config.model.needs_whole_photo
            height, width = (
                (max(1, round(side / GRID)) * GRID if whole else GRID) for side in (height, width)
            )
        cost = self._cost(height, width)
        return cost.before + row.glimpses * cost.per_glimpse

    def _count_cost(self, height: int, width: int) -> Cost:
        return photo_cost(self.loaded.model, height, width)


def draw(record: Any) -> bytes:
    """Draw a record as PNG."""
    from stacked_ram.viz.figures import story
    from stacked_ram.viz.style import figure_bytes

    return figure_bytes(story(record))

"""Photos that turn out to be unreadable while they are looked at: left out, and told of.

    left_out = LeftOut(loader.dataset)
    for batch, trace in left_out.each(loader, look):
        ...

Only photos that are read by region (LazyPhotos) are met here: what is in memory was read before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset
from stacked_ram.images.lazy import UnreadablePhoto
from stacked_ram.runtime.errors import RunFailed

log = logging.getLogger(__name__)

NAMED = 20  # files that are named in warnings; more are counted
FEW = 3  # photos may always be left out

Found = TypeVar("Found")


class LeftOut:
    """What was left out of one split, in one process.

    most: the fraction of the split's photos that may be left out (FEW may be anyway).
    errors: by name of the photo, what was wrong with it. before: names of photos that were left
    out before the run was resumed.
    """

    def __init__(self, dataset: Dataset, most: float = 1.0) -> None:
        self.dataset, self.most = dataset, most
        self.errors: dict[str, str] = {}
        self.before: set[str] = set()

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def names(self) -> set[str]:
        """All that were ever left out."""
        return self.before | self.errors.keys()

    def each(
        self, batches: Iterable[Batch], work: Callable[[Batch], Found]
    ) -> Iterator[tuple[Batch, Found]]:
        """Each batch without its unreadable photos, and what `work` finds in it. Batches of which
        nothing is left are passed over."""
        for batch in batches:
            while len(batch):
                try:
                    found = work(batch)
                except UnreadablePhoto as error:
                    batch = self.leave_out(batch, error)
                    continue
                yield batch, found
                break

    def leave_out(self, batch: Batch, error: UnreadablePhoto) -> Batch:
        """The batch without this photo, which is told of once. Raises RunFailed where too many
        have been left out, or all."""
        photos, count = batch.pixels_BCHW.photos, len(self.dataset)
        path, folder = error.photo.path, self.dataset.folder
        name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        if name not in self.errors:
            self.errors[name] = str(error)
            if len(self) <= NAMED:
                log.warning("left out: %s", error)
            elif len(self) == NAMED + 1:
                log.warning("left out: further photos, which are not named any more")
            if len(self) > max(FEW, self.most * count) or len(self) == count:
                raise RunFailed(
                    f"{self.dataset.folder}: {len(self)} of {count} photos of {self.dataset.split}"
                    f" could not be read, which is too many; the last: {error}"
                )
        return batch.without(photos.index(error.photo))

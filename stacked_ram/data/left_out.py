"""Leave out photos that turn out to be unreadable while a model looks at them, and report them.

    left_out = LeftOut(loader.dataset)
    for batch, trace in left_out.each(loader, look):
        ...

Those of ordinary photos are known when their batch was made (`Batch.unreadable`); those of photos
read by region (LazyPhotos) only when patches of them are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset
from stacked_ram.images.lazy import LazyPhotos, UnreadablePhoto
from stacked_ram.runtime.errors import RunFailed

log = logging.getLogger(__name__)

NAMED = 20  # files that are named in warnings; more are counted
FEW = 3  # photos may always be left out

Found = TypeVar("Found")


class LeftOut:
    """The photos that were left out of one split, in one process.

    most: the largest fraction of the split's photos that may be left out (FEW are always allowed).
    errors: name of a photo -> its error.
    before: names of photos that were left out before the run was resumed.
    """

    def __init__(self, dataset: Dataset, most: float = 1.0) -> None:
        self.dataset, self.most = dataset, most
        self.errors: dict[str, str] = {}
        self.before: set[str] = set()

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def names(self) -> set[str]:
        """The names of all photos that were left out."""
        return self.before | self.errors.keys()

    def each(
        self, batches: Iterable[Batch], work: Callable[[Batch], Found]
    ) -> Iterator[tuple[Batch, Found]]:
        """Iterate over batches without their unreadable photos, with the result of `work` for each.

        A batch without any readable photo is skipped.
        """
        for batch in batches:
            self.note_unreadable(batch)
            while len(batch):
                try:
                    found = work(batch)
                except UnreadablePhoto as error:
                    batch = self.leave_out(batch, error)
                    continue
                yield batch, found
                break

    def note_unreadable(self, batch: Batch) -> None:
        """Report the photos that are not in a batch because they could not be read.

        Raises RunFailed if too many photos have been left out, or all.
        """
        for name, error in batch.unreadable.items():
            self.note(name, error)

    def leave_out(self, batch: Batch, error: UnreadablePhoto) -> Batch:
        """Return the batch without a photo that is read by region, and report the photo.

        Raises RunFailed if too many photos have been left out, or all.
        """
        lazy = batch.pixels_BCHW
        assert isinstance(lazy, LazyPhotos)  # only they raise UnreadablePhoto
        path, folder = error.photo.path, self.dataset.folder
        name = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        self.note(name, str(error))
        return batch.without(lazy.photos.index(error.photo))

    def note(self, name: str, error: str) -> None:
        """Report a photo the first time."""
        if name in self.errors:
            return
        if not self.dataset.folder.is_dir():  # a disk that is no longer mounted, for example
            raise RunFailed(f"{self.dataset.folder}: the data set was there and is no longer")
        count = len(self.dataset)
        self.errors[name] = error
        if len(self) <= NAMED:
            log.warning("left out: %s", error)
        elif len(self) == NAMED + 1:
            log.warning("left out: more photos, which are no longer listed")
        if len(self) > max(FEW, self.most * count) or len(self) == count:
            raise RunFailed(
                f"{self.dataset.folder}: {len(self)} of {count} photos of {self.dataset.split}"
                f" could not be read, which is too many; the last: {error}"
            )

"""Which photos are drawn: files and folders named by the user, or a split of the run's data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset import Dataset, only, open_dataset
from stacked_ram.data.loader import Loader, make_loader
from stacked_ram.images.decoding import ORIENTATION, SIDEWAYS
from stacked_ram.images.formats import size_in_file
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.names import path_text
from stacked_ram.images.opening import open_photo, photo_endings, reduced
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.records import Photo

log = logging.getLogger(__name__)

DRAWN = 1024  # longest side of the picture that a large photo is drawn on, pixels


def photo_files(named: Iterable[str | Path]) -> list[Path]:
    """Files as they are, and the images inside folders, sorted. Raises UserError for a name that
    is neither, and for a folder without images."""
    endings = photo_endings()
    files: list[Path] = []
    for one in map(Path, named):
        if one.is_dir():
            inside = sorted(
                file for file in one.rglob("*") if file.suffix.lower() in endings and file.is_file()
            )
            if not inside:
                raise UserError(f"{one}: no images in this folder")
            files += inside
        elif one.is_file():
            files.append(one)
        else:
            raise UserError(f"{one}: no such photo or folder")
    return files


def read_files(run: LoadedRun, files: Sequence[Path]) -> list[Photo]:
    """Photos as the run's model wants them. A photo in a folder named as a class is of it. One that
    cannot be read is told of and left out; raises UserError where none can."""
    photos = []
    for path in files:
        try:
            photos.append(read_file(run, path))
        except UserError as error:
            if path == files[-1] and not photos:
                raise
            log.warning("left out: %s", error)
    return photos


def read_file(run: LoadedRun, path: Path, name: str | None = None) -> Photo:
    """One file. Raises UserError, naming it, when it cannot be read."""
    classes = list(run.classes)
    opened = open_photo(path, run.config, run.card.channels)
    folder = Path(path).resolve().parent.name
    label = classes.index(folder) if folder in classes else None
    name = path_text(name or Path(path).name)
    if isinstance(opened, np.ndarray):
        photo = Photo(name, opened, true_shape(path), label)
    else:
        photo = large_photo(name, opened, label)
    photo.path = Path(path)
    return photo


def large_photo(
    name: str, opened: LazyPhoto, label: int | None, box_4: np.ndarray | None = None
) -> Photo:
    """A photo that is read in pieces, with a small picture of it to draw on."""
    share = min(1.0, DRAWN / max(opened.size))
    height, width = (max(1, round(side * share)) for side in opened.size)
    return Photo(name, reduced(opened, (height, width)), opened.size, label, box_4, opened)


def true_shape(path: str | Path) -> tuple[int, int]:
    """(height, width) of a photo as it stands upright."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = size_in_file(image)
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if sideways else (height, width)


class Split:
    """A split of the run's data set, photo by photo or in batches.

    folder: where the data set lies now, if not where it lay in training.
    Raises UserError when there is none or its classes or channels are others than the run's.
    """

    def __init__(
        self,
        run: LoadedRun,
        split: str = "test",
        folder: Path | None = None,
        limit: int | None = None,
    ) -> None:
        changes = {"limit_photos": limit, "cache": "none"}
        if folder is not None:
            changes["dataset"] = str(folder)
        self.config: Config = replace_fields(run.config, changes, "viz")
        self.dataset: Dataset = open_dataset(self.config.data, split)
        run.check_fits(self.dataset)
        self.loader: Loader = make_loader(self.dataset, self.config, train=False, device=run.device)

    def __len__(self) -> int:
        return len(self.dataset)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these rows alone, as where the others cannot be read."""
        device = self.loader.device
        self.loader.close()
        self.dataset = only(self.dataset, rows)
        self.loader = make_loader(self.dataset, self.config, train=False, device=device)

    def keep_named(self, names: Sequence[str]) -> None:
        """Go on with the photos of these names alone."""
        named = np.isin(self.dataset.names, names)
        if not named.all():
            self.keep(np.flatnonzero(named))

    def photos(self, rows: Iterable[int]) -> list[Photo]:
        """The photos of these rows of the split."""
        return [self.photo(int(row)) for row in rows]

    def photo(self, row: int) -> Photo:
        import torch

        dataset = self.dataset
        if dataset.kind == "digits":
            batch = self.loader.make(torch.tensor([row], device=self.loader.home), seed=0)
        else:
            index = np.array([row])
            batch = self.loader.maker.make(0, Rows(index, np.zeros_like(index)))
        box_4 = batch.boxes_B4[0].cpu().numpy()
        box_4 = None if np.isnan(box_4).any() else box_4
        name, label = dataset.names[row], int(dataset.labels[row])
        if isinstance(batch.pixels_BCHW, LazyPhotos):
            return large_photo(name, batch.pixels_BCHW.photos[0], label, box_4)
        height, width = (int(side) for side in dataset.sizes[row])
        pixels_CHW = batch.pixels_BCHW[0].cpu().numpy()
        return Photo(name, pixels_CHW, (height, width), label, box_4)

    def close(self) -> None:
        self.loader.close()

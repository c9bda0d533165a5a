"""Which photos are drawn: files, images and arrays given by the user, or a split of a data set."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.batching import Rows
from stacked_ram.data.dataset import Dataset, only, open_dataset, stratified
from stacked_ram.data.digit_loader import DigitLoader
from stacked_ram.data.loader import Loader, make_loader
from stacked_ram.data.photo_batches import open_as_trained
from stacked_ram.data.photo_loader import PhotoLoader
from stacked_ram.images.decoding import true_size
from stacked_ram.images.in_memory import InMemory, array_image
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.names import path_text
from stacked_ram.images.opening import photo_endings, reduced
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError

log = logging.getLogger(__name__)

OVERVIEW_SIDE = 1024  # longest side, in pixels, of the picture that a large photo is drawn on


@dataclass
class Photo:
    """A photo as the model gets it."""

    name: str
    pixels_CHW: np.ndarray
    """uint8, 1 or 3 channels."""
    true_size: tuple[int, int]
    """(height, width) before photo_size changed the aspect ratio; drawings undo the change."""
    label: int | None = None
    """True class, where it is known; none where a photo may have several."""
    box_4: np.ndarray | None = None
    """Object's (left, top, right, bottom) in the units of `size`."""
    large: LazyPhoto | None = None
    """The file that the model reads by region, where the photo is too large for memory;
    `pixels_CHW` is then a reduced picture of it to draw on."""
    path: Path | None = None
    """Of a photo that was given as a file; photos of a data set differ by name."""
    labels: tuple[int, ...] | None = None
    """All its classes, where a photo may have several and they are known."""

    @property
    def key(self) -> Path | str:
        """Identifies the photo, in any run."""
        return self.path or self.name

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the model looks at, in the units of the boxes."""
        height, width = self.pixels_CHW.shape[1:] if self.large is None else self.large.size
        return height, width

    @property
    def true_aspect(self) -> float:
        """Height over width, as the photo was taken."""
        return self.true_size[0] / self.true_size[1]


AnyPhoto = Photo | str | Path | InMemory


def as_photo(run: LoadedRun, photo: AnyPhoto) -> Photo:
    """A photo with the channels, short_side and photo_size of the run.

    photo: a path, a PIL image, an array H x W x C (or H x W), or a tensor C x H x W; arrays and
    tensors hold uint8, or floats from 0 to 1. Raises UserError when it cannot be read or has
    another shape or type.
    """
    if isinstance(photo, Photo):
        return photo
    if isinstance(photo, str | Path):
        return read_file(run, Path(photo))
    image = ImageOps.exif_transpose(photo) if isinstance(photo, Image.Image) else array_image(photo)
    pixels_CHW = open_as_trained(image, run.config, run.metadata.channels)
    assert isinstance(pixels_CHW, np.ndarray)  # only files are read by region
    return Photo("photo", pixels_CHW, (image.height, image.width))


def photo_files(names: Iterable[str | Path]) -> list[Path]:
    """The files, and the images inside the folders, sorted. Raises UserError for a name that does
    not exist, and for a folder without images."""
    endings = photo_endings()
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in endings)
            inside = sorted(file for file in found if file.is_file())
            if not inside:
                raise UserError(f"{path}: no images in this folder")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such photo or folder")
    return files


def evenly(files: Sequence[Path], most: int) -> list[Path]:
    """At most this many of the files, evenly from their folders, in their order."""
    if len(files) <= most:
        return list(files)
    _, folders = np.unique([str(file.parent) for file in files], return_inverse=True)
    return [files[row] for row in sorted(stratified(folders, most).tolist())]


def read_files(run: LoadedRun, files: Sequence[Path]) -> list[Photo]:
    """Photos as the run's model takes them. Leaves out photos that cannot be read, with a warning;
    raises UserError where none can be read."""
    photos = []
    for path in files:
        try:
            photos.append(read_file(run, path))
        except UserError as error:
            if path == files[-1] and not photos:
                raise
            log.warning("left out: %s", error)
    return photos


def read_file(run: LoadedRun, path: Path) -> Photo:
    """One photo file; a photo in a folder named like a class is of that class.

    Raises UserError, naming the file, when it cannot be read.
    """
    opened = open_as_trained(path, run.config, run.metadata.channels)
    folder = path.resolve().parent.name
    one = folder in run.classes and not run.metadata.multi_label
    label = run.classes.index(folder) if one else None
    name = path_text(path.name)
    if isinstance(opened, np.ndarray):
        photo = Photo(name, opened, true_size(path), label)
    else:
        photo = large_photo(name, opened, label)
    photo.path = path
    return photo


def large_photo(
    name: str, opened: LazyPhoto, label: int | None, box_4: np.ndarray | None = None
) -> Photo:
    """A photo that is read by region, with a reduced picture of it to draw on."""
    scale = min(1.0, OVERVIEW_SIDE / max(opened.size))
    height, width = (max(1, round(side * scale)) for side in opened.size)
    pixels_CHW = reduced(opened, (height, width))
    return Photo(name, pixels_CHW, opened.size, label, box_4, opened)


class Split:
    """A split of the run's data set, photo by photo or in batches.

    dataset: where the data set lies now; default: where it was in training.
    Raises UserError where there is no data set, or where its classes or channels are not the run's.
    """

    def __init__(
        self, run: LoadedRun, split: str = "test", dataset: str | Path | None = None
    ) -> None:
        changes: dict[str, object] = {"limit_photos": None, "cache": "none"}
        if dataset is not None:
            changes["dataset"] = str(dataset)
        self.config: Config = replace_fields(run.config, changes, "viz")
        self.dataset: Dataset = open_dataset(self.config.data, split)
        run.check_fits(self.dataset)
        self.loader: Loader = make_loader(self.dataset, self.config, train=False, device=run.device)

    def __enter__(self) -> Split:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()

    def __len__(self) -> int:
        return len(self.dataset)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these rows, in this order."""
        self.loader.close()
        self.dataset, device = only(self.dataset, rows), self.loader.device
        self.loader = make_loader(self.dataset, self.config, train=False, device=device)

    def keep_named(self, names: Sequence[str]) -> None:
        """Keep only the photos with these names."""
        named = np.isin(self.dataset.names, names)
        if not named.all():
            self.keep(np.flatnonzero(named))

    def photos(self, rows: Iterable[int]) -> list[Photo]:
        """The photos in these rows of the split. Leaves out photos that cannot be read, with a
        warning; raises UserError where none can be read."""
        photos: list[Photo] = []
        failed: UserError | None = None
        for row in rows:
            try:
                photos.append(self.photo(int(row)))
            except UserError as error:
                failed = error
                log.warning("left out: %s", error)
        if failed is not None and not photos:
            raise failed
        return photos

    def photo(self, row: int) -> Photo:
        """One photo. Raises UserError if it cannot be read."""
        dataset, loader = self.dataset, self.loader
        if isinstance(loader, DigitLoader):
            batch = loader.make(torch.tensor([row], device=loader.home), seed=0)
        else:
            assert isinstance(loader, PhotoLoader)  # there are two kinds
            index = np.array([row])
            batch = loader.maker.make(0, Rows(index, np.zeros_like(index)))
            for error in batch.unreadable.values():
                raise UserError(error)
        given_4 = batch.boxes_B4[0].cpu().numpy()
        box_4 = None if np.isnan(given_4).any() else given_4
        name, label, labels = dataset.names[row], None, None
        if dataset.multi_label:
            labels = tuple(np.flatnonzero(dataset.labels[row]).tolist())
        else:
            label = int(dataset.labels[row])
        if isinstance(batch.pixels_BCHW, LazyPhotos):
            photo = large_photo(name, batch.pixels_BCHW.photos[0], label, box_4)
            return dataclasses.replace(photo, labels=labels)
        height, width = (int(side) for side in dataset.sizes[row])
        pixels_CHW = batch.pixels_BCHW[0].cpu().numpy()
        return Photo(name, pixels_CHW, (height, width), label, box_4, labels=labels)

"""Which photos are drawn: files, images and arrays given by the user, or a split of a data set."""

from __future__ import annotations

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
from stacked_ram.data.dataset import Dataset, only, open_dataset
from stacked_ram.data.loader import Loader, make_loader
from stacked_ram.images.decoding import ORIENTATION, SIDEWAYS, image_pixels
from stacked_ram.images.formats import size_in_file
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.names import path_text
from stacked_ram.images.opening import open_photo, photo_endings, reduced
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
    """True class, where it is known."""
    box_4: np.ndarray | None = None
    """Object's (left, top, right, bottom) in pixels of `pixels_CHW`."""
    large: LazyPhoto | None = None
    """The file that the model reads by region, where the photo is too large for memory;
    `pixels_CHW` is then a reduced picture of it to draw on."""
    path: Path | None = None
    """Of a photo that was given as a file; photos of a data set differ by name."""

    @property
    def key(self) -> Path | str:
        """Tells the photo from others, and is the same in every run."""
        return self.path or self.name

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the model looks at: the units of locations and boxes."""
        height, width = self.pixels_CHW.shape[1:] if self.large is None else self.large.size
        return height, width

    @property
    def true_aspect(self) -> float:
        """Height over width, as the photo was taken."""
        return self.true_size[0] / self.true_size[1]


AnyPhoto = Photo | str | Path | Image.Image | np.ndarray | torch.Tensor


def as_photo(run: LoadedRun, photo: AnyPhoto, name: str | None = None) -> Photo:
    """A photo as the run's model wants it: channels, short_side and photo_size of its config.

    photo: a path, a PIL image, an array H x W x C (or H x W), or a tensor C x H x W; arrays and
    tensors hold uint8, or floats from 0 to 1. Raises UserError when it cannot be read or has
    another shape or type.
    """
    if isinstance(photo, Photo):
        return photo
    if isinstance(photo, str | Path):
        return read_file(run, Path(photo), name)
    image = photo if isinstance(photo, Image.Image) else array_image(photo)
    image = ImageOps.exif_transpose(image)
    data = run.config.data
    pixels_CHW = image_pixels(image, data.short_side, data.photo_size, run.card.channels)
    return Photo(name or "photo", pixels_CHW, (image.height, image.width))


def array_image(pixels: np.ndarray | torch.Tensor) -> Image.Image:
    """A PIL image of an array H x W x C (or H x W) or of a tensor C x H x W.

    Raises UserError for other shapes, types and ranges.
    """
    kind = "array H x W x C"
    if isinstance(pixels, torch.Tensor):
        kind = "tensor C x H x W"
        pixels = pixels.detach().cpu()
        pixels = (pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).numpy()
    if not isinstance(pixels, np.ndarray):
        raise UserError(f"photo: {type(pixels).__name__} is no path, PIL image, array or tensor")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise UserError(f"photo: shape {tuple(pixels.shape)} is no {kind} of 1 or 3 channels")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError("photo: floats outside 0 to 1; divide by 255, or give uint8")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UserError(f"photo: {pixels.dtype} values; give uint8, or floats from 0 to 1")
    return Image.fromarray(pixels)


def photo_files(names: Iterable[str | Path]) -> list[Path]:
    """Files as they are, and the images inside folders, sorted. Raises UserError for a name that
    is neither, and for a folder without images."""
    endings = photo_endings()
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in endings and file.is_file()
            )
            if not inside:
                raise UserError(f"{path}: no images in this folder")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such photo or folder")
    return files


def read_files(run: LoadedRun, files: Sequence[Path]) -> list[Photo]:
    """Photos as the run's model wants them. Warns of each that cannot be read and leaves it out;
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


def read_file(run: LoadedRun, path: Path, name: str | None = None) -> Photo:
    """One photo file; in a folder named like a class, it is of that class.

    Raises UserError, naming the file, when it cannot be read.
    """
    opened = open_photo(path, run.config, run.card.channels)
    folder = path.resolve().parent.name
    label = run.classes.index(folder) if folder in run.classes else None
    name = path_text(name or path.name)
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
    return Photo(name, reduced(opened, (height, width)), opened.size, label, box_4, opened)


def true_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the photo in a file, upright."""
    with Image.open(path) as image:
        width, height = size_in_file(image)
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if sideways else (height, width)


class Split:
    """A split of the run's data set, photo by photo or in batches.

    dataset: where the data set lies now, if not where it lay in training.
    Raises UserError when there is none, or when it has other classes or channels than the run.
    """

    def __init__(
        self,
        run: LoadedRun,
        split: str = "test",
        dataset: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        changes: dict[str, object] = {"limit_photos": limit, "cache": "none"}
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
        device = self.loader.device
        self.loader.close()
        self.dataset = only(self.dataset, rows)
        self.loader = make_loader(self.dataset, self.config, train=False, device=device)

    def keep_named(self, names: Sequence[str]) -> None:
        """Keep only the photos with these names."""
        named = np.isin(self.dataset.names, names)
        if not named.all():
            self.keep(np.flatnonzero(named))

    def photos(self, rows: Iterable[int]) -> list[Photo]:
        """The photos in these rows of the split."""
        return [self.photo(int(row)) for row in rows]

    def photo(self, row: int) -> Photo:
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

"""What the model did with each photo, as plain arrays that every drawing reads.

B photos   T steps   S levels   K patches of P x P pixels   N classes   R regions
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stacked_ram.images.lazy import LazyPhotos, UnreadablePhoto
from stacked_ram.models.ram import RAM
from stacked_ram.models.trace import Trace
from stacked_ram.ops.geometry import glimpse_boxes
from stacked_ram.ops.patches import Photos
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.feature_colours import FeatureColours
from stacked_ram.viz.photos import AnyPhoto, Photo, as_photo
from stacked_ram.viz.style import counted

log = logging.getLogger(__name__)

BATCH = 16


@dataclass
class Surface:
    """What a retina reads from: the photo, the photo as a level sees it, or a feature map."""

    title: str
    image_HWC: np.ndarray
    """uint8 RGB, at its own resolution."""
    size: tuple[float, float]
    """(height, width) in the units of the boxes, whatever the resolution of the image."""
    boxes_TK4: np.ndarray
    """Exactly what the retina read: (left, top, right, bottom)."""
    patches_TKPPC: np.ndarray | None
    """uint8 RGB, as the network got them but for the normalisation; None if nothing was read."""
    is_map: bool = False
    """Whether it is a feature map (which may be as large as the photo); boxes are in cells."""

    @property
    def unit(self) -> str:
        return "cells" if self.is_map else "px"


@dataclass
class PhotoRecord:
    """What the model did with one photo."""

    photo: Photo
    classes: tuple[str, ...]
    beliefs_TN: np.ndarray
    """Class probabilities after each step."""
    locations_TS2: np.ndarray
    """(x, y) of each glimpse, in [-1, 1]."""
    surfaces: list[Surface]
    """One for each level, or the surfaces of a stack of maps, finest first."""
    glance_belief_N: np.ndarray | None = None
    glance_HWC: np.ndarray | None = None
    """uint8 RGB: what the glance saw of the whole photo."""
    region_weights_TR: np.ndarray | None = None
    regions: tuple[int, int] | None = None
    """Rows and columns of the regions."""
    std: float | None = None
    """Of the Gaussian policy, in units of location."""
    means_TS2: np.ndarray | None = None
    """Centre of the policy at each step."""
    chosen_T: tuple[bool, ...] = ()
    """Whether the policy chose the location of each step."""

    @property
    def photo_surfaces(self) -> list[Surface]:
        """The surfaces whose patches come from the photo itself, not from a feature map."""
        return [
            surface
            for surface in self.surfaces
            if not surface.is_map and surface.patches_TKPPC is not None
        ]

    @property
    def steps(self) -> int:
        return len(self.beliefs_TN)

    @property
    def predicted(self) -> int:
        """The class predicted after the last step."""
        return int(self.beliefs_TN[-1].argmax())

    @property
    def confidence(self) -> float:
        """Probability of the predicted class."""
        return float(self.beliefs_TN[-1].max())

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; None where the true class is not known."""
        return None if self.photo.label is None else self.predicted == self.photo.label

    @property
    def followed_class(self) -> int:
        """The class whose belief drawings follow: the true one, or the predicted one where the
        true one is not known."""
        return self.predicted if self.photo.label is None else self.photo.label

    @property
    def final_from(self) -> int:
        """The step (from 1) from which the prediction stayed the same until the end."""
        differs = np.flatnonzero(self.beliefs_TN.argmax(1) != self.predicted)
        return int(differs[-1]) + 2 if len(differs) else 1

    def until(self, steps: int) -> PhotoRecord:
        """The record as if the model had stopped after this many steps."""
        surfaces = [
            dataclasses.replace(
                surface,
                boxes_TK4=surface.boxes_TK4[:steps],
                patches_TKPPC=first(surface.patches_TKPPC, steps),
            )
            for surface in self.surfaces
        ]
        return dataclasses.replace(
            self,
            beliefs_TN=self.beliefs_TN[:steps],
            locations_TS2=self.locations_TS2[:steps],
            surfaces=surfaces,
            region_weights_TR=first(self.region_weights_TR, steps),
            means_TS2=first(self.means_TS2, steps),
            chosen_T=self.chosen_T[:steps],
        )


def first(values: np.ndarray | None, steps: int) -> np.ndarray | None:
    return None if values is None else values[:steps]


def record_photos(
    run: LoadedRun,
    photos: Iterable[AnyPhoto],
    *,
    num_glimpses: int | None = None,
    first_location: tuple[float, float] | None = None,
    skip_unreadable: bool = False,
) -> Iterator[PhotoRecord]:
    """Run the model on photos, deterministically, and record everything; in the order given.

    Works in batches of neighbouring photos of one size, in the precision the run is tested in.

    Args:
        photos: paths, PIL images, arrays H x W x C, tensors C x H x W, or `Photo` objects.
        num_glimpses: default: the run's.
        first_location: force the first glimpse to (x, y), each in [-1, 1].
        skip_unreadable: leave out photos that cannot be read, with a warning.

    Raises UserError, naming the photo, when one cannot be read.
    """
    precision = run.config.training.precision
    for batch in batches(run, photos, skip_unreadable):
        try:
            yield from record_batch(
                run.model,
                batch,
                run.classes,
                num_glimpses=num_glimpses,
                first_location=first_location,
                precision=precision,
            )
        except UnreadablePhoto as error:
            if not skip_unreadable:
                raise UserError(str(error)) from None
            log.warning("left out: %s", error)


def batches(
    run: LoadedRun, photos: Iterable[AnyPhoto], skip_unreadable: bool
) -> Iterator[list[Photo]]:
    """Up to BATCH neighbouring photos of one size; a large photo is a batch of its own."""
    batch: list[Photo] = []
    for given in photos:
        try:
            photo = as_photo(run, given)
        except UserError as error:
            if not skip_unreadable:
                raise
            log.warning("left out: %s", error)
            continue
        if batch and (len(batch) == BATCH or not may_share_batch(batch[0], photo)):
            yield batch
            batch = []
        batch.append(photo)
    if batch:
        yield batch


def may_share_batch(photo: Photo, other: Photo) -> bool:
    small = photo.large is None and other.large is None
    return small and photo.pixels_CHW.shape == other.pixels_CHW.shape


def model_input(model: RAM, photos: Sequence[Photo]) -> Photos | LazyPhotos:
    """Photos of one size, or one large one, as the model takes them."""
    device = model.classifier.weight.device
    if photos[0].large is not None:
        return model.photos(LazyPhotos([photo.large for photo in photos], device=device))
    pixels_BCHW = torch.from_numpy(np.stack([photo.pixels_CHW for photo in photos]))
    return model.photos(pixels_BCHW.to(device))


@torch.inference_mode()
def record_batch(
    model: RAM,
    photos: Sequence[Photo],
    classes: Sequence[str],
    *,
    num_glimpses: int | None = None,
    first_location: tuple[float, float] | None = None,
    precision: str = "float32",
) -> list[PhotoRecord]:
    """Records of photos of one size, or of one large photo.

    precision: of the matrix products. Raises UnreadablePhoto for a large photo that cannot be
    read where the model looks.
    """
    ready = model_input(model, photos)
    with autocast(ready.device, precision):
        if first_location is None:
            trace = model(ready, keep_patches=True, num_glimpses=num_glimpses)
        else:
            trace = look_from(model, ready, first_location, num_glimpses)
    glance_BCHW = None if model.glance is None else ready.resized(model.glance.size)
    maps = model.levels[0].retina.view(ready).surfaces if model.needs_whole_photo else None
    records = []
    for row, photo in enumerate(photos):
        record = record_of(trace, row, photo, classes)
        if maps is not None:
            record.surfaces = map_surfaces(model, trace, row, photo, maps)
        else:
            patches = as_rgb(denormalised(model, trace.patches_BTSKCPP[row]))
            record.surfaces = level_surfaces(trace, row, photo, patches)
        if glance_BCHW is not None:
            record.glance_HWC = as_rgb(denormalised(model, glance_BCHW[row]))
        if record.region_weights_TR is not None:
            record.regions = model.config.regions
        policy = model.levels[-1].attention
        if getattr(policy, "std", None) is not None:
            record.std = float(policy.std)
        records.append(record)
    return records


def look_from(
    model: RAM, photos: Photos, first: tuple[float, float], num_glimpses: int | None
) -> Trace:
    """The trace of a scan path that begins at `first` and is the model's own from there on."""
    first_B1S2 = torch.tensor(first, device=photos.device).expand(
        photos.batch_size, 1, len(model.levels), 2
    )
    trace = model(photos, locations_BTS2=first_B1S2, keep_patches=True, num_glimpses=num_glimpses)
    # the location that was given is not the policy's own
    return dataclasses.replace(trace, first_chosen=max(1, trace.first_chosen))


def record_of(trace: Trace, row: int, photo: Photo, classes: Sequence[str]) -> PhotoRecord:
    """One row of a trace, with boxes on the photo and without patches."""
    glance, weights = trace.glance_logits_BN, trace.region_weights_BTR
    return PhotoRecord(
        photo=photo,
        classes=tuple(classes),
        beliefs_TN=numpy(trace.logits_BTN[row].float().softmax(1)),
        locations_TS2=numpy(trace.locations_BTS2[row]),
        surfaces=level_surfaces(trace, row, photo),
        glance_belief_N=None if glance is None else numpy(glance[row].float().softmax(0)),
        region_weights_TR=None if weights is None else numpy(weights[row]),
        means_TS2=numpy(trace.means_BTS2[row]),
        chosen_T=trace.chosen_T,
    )


def level_surfaces(
    trace: Trace, row: int, photo: Photo, patches_TSKPPC: np.ndarray | None = None
) -> list[Surface]:
    """The photo as each level sees it, with its boxes and (if given) its patches."""
    pixels_HWC = as_rgb(photo.pixels_CHW)
    levels = range(trace.boxes_BTSK4.shape[2])
    return [
        Surface(
            title="the photo" if len(levels) == 1 else level_title(level),
            image_HWC=pooled(pixels_HWC, 2**level),
            size=photo.size,
            boxes_TK4=numpy(trace.boxes_BTSK4[row, :, level]),
            patches_TKPPC=None if patches_TSKPPC is None else patches_TSKPPC[:, level],
        )
        for level in levels
    ]


def map_surfaces(
    model: RAM, trace: Trace, row: int, photo: Photo, maps: list[Photos]
) -> list[Surface]:
    """The photo and the feature maps that the model reads from, with their boxes and patches."""
    pixels_HWC = as_rgb(photo.pixels_CHW)
    retina = model.levels[0].retina
    geometry = retina.geometry if model.has_policy else retina.smooth_geometry
    locations_T2 = trace.locations_BTS2[row, :, 0]
    levels = model.config.levels or range(model.config.num_levels)
    surfaces = []
    if 0 not in levels:  # drawn too: a feature map alone shows nobody where
        boxes_TK4 = numpy(trace.boxes_BTSK4[row, :, 0])
        surfaces.append(Surface("the photo (not read)", pixels_HWC, photo.size, boxes_TK4, None))
    for level, feature_map, patches in zip(levels, maps, trace.map_patches_BTKCPP, strict=True):
        height, width = (int(side) for side in feature_map.sizes_B2[row])
        sides_T2 = feature_map.sizes_B2[row].expand(len(locations_T2), 2)
        boxes_TK4 = numpy(glimpse_boxes(locations_T2, sides_T2, geometry))
        if level == 0:
            read = as_rgb(denormalised(model, patches[row]))
            surfaces.append(Surface("the photo", pixels_HWC, (height, width), boxes_TK4, read))
            continue
        map_CHW = numpy(feature_map.pixels_BCHW[row, :, :height, :width])
        colours = FeatureColours(map_CHW)
        title = f"feature map {level}: {height} × {width}, {counted(len(map_CHW), 'channel')}"
        surfaces.append(
            Surface(
                title,
                colours(map_CHW),
                (height, width),
                boxes_TK4,
                colours(numpy(patches[row])),
                is_map=True,
            )
        )
    return surfaces


def level_title(level: int) -> str:
    times = 2**level
    return f"level {level + 1}: " + ("the photo" if times == 1 else f"pooled {times} × {times}")


@torch.inference_mode()
def sampled_locations(
    model: RAM, photo: Photo, samples: int, num_glimpses: int | None = None, seed: int = 0
) -> np.ndarray:
    """Locations of `samples` sampled scan paths on one photo, M x T x S x 2; equal for equal
    seeds."""
    device = model.classifier.weight.device
    before, model.generator = model.generator, torch.Generator(device).manual_seed(seed)
    try:
        trace = model(
            model_input(model, [photo]), rollouts=samples, sample=True, num_glimpses=num_glimpses
        )
    finally:
        model.generator = before
    return numpy(trace.locations_BTS2)


def numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def denormalised(model: RAM, values: Tensor) -> np.ndarray:
    """Pixels ... C x H x W from the network's normalised values: uint8."""
    values = values.detach().float()
    if model.normalises:
        channels = (-1, 1, 1)
        values = values * model.std.view(channels) + model.mean.view(channels)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 ... C x H x W (1 or 3 channels) -> ... H x W x 3."""
    moved = np.moveaxis(pixels, -3, -1)
    return np.ascontiguousarray(np.repeat(moved, 3, axis=-1) if moved.shape[-1] == 1 else moved)


def pooled(pixels_HWC: np.ndarray, times: int) -> np.ndarray:
    """The photo as a level sees it: averages of times x times pixels."""
    if times == 1:
        return pixels_HWC
    return np.asarray(Image.fromarray(pixels_HWC).reduce(times))

"""What the model did with each photo, as plain arrays that every drawing reads.

B photos   T steps   S levels   K patches of P x P pixels   N classes
Y X rows and columns of the regions that an attention weighs
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stacked_ram.evaluation.early_exit import Stop, check_criterion, stopped_after
from stacked_ram.evaluation.multi_label import least_margin
from stacked_ram.images.lazy import LazyPhotos, UnreadablePhoto
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.models.trace import Trace
from stacked_ram.ops.geometry import GlimpseGeometry, glimpse_boxes
from stacked_ram.ops.patches import Photos
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.feature_colours import FeatureColours, thinned
from stacked_ram.viz.photos import AnyPhoto, Photo, as_photo
from stacked_ram.viz.style import counted, step_colours

log = logging.getLogger(__name__)

BATCH = 16
DRAWN = 1_500_000  # pixels of a photo that is drawn; more would not be seen
BOX = Image.Resampling.BOX

Answer = tuple[int, ...]
"""The classes that a photo has or is said to have, in their order; one, where it may have one."""

MapColours = dict[int, FeatureColours]
"""Colours of the feature maps, by level."""


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
    patches_TKPPC: np.ndarray
    """uint8 RGB, as the network got them, without the normalisation; K is 0 if nothing was read."""
    is_map: bool = False
    """Whether it is a feature map; its boxes are in cells."""

    @property
    def unit(self) -> str:
        return "cells" if self.is_map else "px"

    @property
    def patch_rows(self) -> int:
        """Number of patches read at each step."""
        return self.patches_TKPPC.shape[1]


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
    means_TS2: np.ndarray
    """Centre of the policy at each step."""
    chosen_T: tuple[bool, ...]
    """Whether the policy chose the location of each step."""
    glance_belief_N: np.ndarray | None = None
    glance_HWC: np.ndarray | None = None
    """uint8 RGB: the whole photo at the glance's resolution."""
    region_weights_TYX: np.ndarray | None = None
    """Weight of each region before each glimpse, where the attention weighs regions."""
    std: float | None = None
    """Standard deviation of a Gaussian policy, in units of location."""
    stops_T: np.ndarray | None = None
    """Probability of being right already after each step, by the stopping head where there is
    one."""
    most_steps: int = 0
    """The steps of the whole pass, where the record holds fewer of them; see `until`."""
    stop: Stop | None = None
    """What it was made to stop by."""
    thresholds_N: np.ndarray | None = None
    """Where a photo may have several classes: the probability from which on each is said."""

    @property
    def main_surface(self) -> Surface:
        """What small pictures show: the photo, in a stack of levels as the top level sees it."""
        return [each for each in self.surfaces if not each.is_map][-1]

    @property
    def maps(self) -> list[Surface]:
        """The feature maps among the surfaces."""
        return [each for each in self.surfaces if each.is_map]

    @property
    def photo_surfaces(self) -> list[Surface]:
        """The surfaces whose patches come from the photo itself, not from a feature map."""
        return [each for each in self.surfaces if each.patch_rows and not each.is_map]

    @property
    def steps(self) -> int:
        return len(self.beliefs_TN)

    @property
    def all_steps(self) -> int:
        """The steps of the whole pass, also of one that was stopped."""
        return max(self.most_steps, self.steps)

    @property
    def stopped(self) -> bool:
        """Whether it stopped before its last step."""
        return self.steps < self.all_steps

    @property
    def colours(self) -> list[str]:
        """A colour for each step, the same whether it was stopped or not."""
        return step_colours(self.all_steps)

    @property
    def belief_N(self) -> np.ndarray:
        """Class probabilities after the last step; without steps, after the glance."""
        if self.steps:
            return self.beliefs_TN[-1]
        assert self.glance_belief_N is not None  # only a glance can be enough
        return self.glance_belief_N

    @property
    def predicted(self) -> int:
        """The likeliest class in the end."""
        return int(self.belief_N.argmax())

    def answer_of(self, belief_N: np.ndarray) -> Answer:
        """What these class probabilities say: the likeliest class; or, where a photo may have
        several, those above their thresholds."""
        if self.thresholds_N is None:
            return (int(belief_N.argmax()),)
        return tuple(np.flatnonzero(belief_N >= self.thresholds_N).tolist())

    @property
    def answer(self) -> Answer:
        """What it said in the end."""
        return self.answer_of(self.belief_N)

    @property
    def truth(self) -> Answer | None:
        """What would be right; None where that is not known."""
        if self.thresholds_N is not None:
            return self.photo.labels
        return None if self.photo.label is None else (self.photo.label,)

    def name_of(self, answer: Answer) -> str:
        return answer_name(answer, self.classes)

    def sure(self, belief_XN: np.ndarray) -> np.ndarray:
        """How sure answers are, 0 to 1, X values: what early exit compares."""
        if self.thresholds_N is None:
            return belief_XN.max(1)
        return least_margin(belief_XN, self.thresholds_N)

    @property
    def confidence(self) -> float:
        """Probability of the predicted class; where a photo may have several, the smallest margin
        of a decision."""
        return float(self.sure(self.belief_N[None])[0])

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; None where the truth is not known."""
        return None if self.truth is None else self.answer == self.truth

    @property
    def followed(self) -> Answer:
        """What is followed over the steps: the truth where it is known, else the prediction."""
        return self.answer if self.truth is None else self.truth

    def followed_belief(self, belief_XN: np.ndarray) -> np.ndarray:
        """The probability of what is followed, X values."""
        if self.thresholds_N is None:
            return belief_XN[:, self.followed[0]]
        has_N = np.zeros(len(self.classes), bool)
        has_N[list(self.followed)] = True
        return answer_probability(belief_XN, has_N)

    @property
    def final_from(self) -> int:
        """The step (from 1) from which the prediction stayed the same until the end; 0 without
        steps."""
        if not self.steps:
            return 0
        differs = np.flatnonzero(
            [self.answer_of(belief_N) != self.answer for belief_N in self.beliefs_TN]
        )
        return int(differs[-1]) + 2 if len(differs) else 1

    def until(self, steps: int) -> PhotoRecord:
        """The record as if the model had stopped after this many steps."""
        surfaces = [
            dataclasses.replace(
                surface,
                boxes_TK4=surface.boxes_TK4[:steps],
                patches_TKPPC=surface.patches_TKPPC[:steps],
            )
            for surface in self.surfaces
        ]
        weights = self.region_weights_TYX
        return dataclasses.replace(
            self,
            beliefs_TN=self.beliefs_TN[:steps],
            locations_TS2=self.locations_TS2[:steps],
            surfaces=surfaces,
            region_weights_TYX=None if weights is None else weights[:steps],
            means_TS2=self.means_TS2[:steps],
            chosen_T=self.chosen_T[:steps],
            stops_T=None if self.stops_T is None else self.stops_T[:steps],
            most_steps=self.all_steps,
        )

    def stopped_by(self, stop: Stop | None) -> PhotoRecord:
        """The record as if the model had stopped where `look_until` stops; None: the whole."""
        if stop is None:
            return self
        if stop.by == "belief":
            glance = self.glance_belief_N
            sure_T = self.sure(self.beliefs_TN)
            fewest = 1 if glance is None else 0
            sure_T = sure_T if glance is None else np.append(self.sure(glance[None]), sure_T)
        else:
            assert self.stops_T is not None  # `check_criterion` was asked
            sure_T, fewest = self.stops_T, 1
        steps = fewest + int(stopped_after(sure_T[None], stop.at)[0])
        return dataclasses.replace(self.until(steps), stop=stop)


def record_photos(
    run: LoadedRun,
    photos: Iterable[AnyPhoto],
    *,
    num_glimpses: int | None = None,
    first_location: tuple[float, float] | None = None,
    stop: Stop | None = None,
    colours: MapColours | None = None,
    skip_unreadable: bool = False,
) -> Iterator[PhotoRecord]:
    """Run the model on photos and record everything, in the order given.

    One deterministic pass, in batches of neighbouring photos of one size, in the precision in which
    the run is tested.

    Args:
        photos: paths, PIL images, arrays H x W x C, tensors C x H x W, or `Photo` objects.
        num_glimpses: at each photo. Default: the run's.
        first_location: (x, y) of the first glimpse, each in [-1, 1]. Default: the model's own.
        stop: when to look no longer. Default: never before the last glimpse.
        colours: of feature maps (`map_colours`). Default: fitted on each batch.
        skip_unreadable: leave out large photos that cannot be read where the model looks, with a
            warning.

    Raises UserError, naming the photo, when a photo cannot be read, and where the model cannot
    stop by what is asked.
    """
    if stop is not None:
        check_criterion(run.model, stop.by)
    for batch in batches(run, photos):
        try:
            records = record_batch(
                run.model, batch, run.classes, num_glimpses=num_glimpses,
                first_location=first_location, precision=run.config.training.precision,
                colours=colours,
            )  # fmt: skip
            yield from (record.stopped_by(stop) for record in records)
        except UnreadablePhoto as error:
            if not skip_unreadable:
                raise UserError(str(error)) from None
            log.warning("left out: %s", error)


def batches(run: LoadedRun, photos: Iterable[AnyPhoto]) -> Iterator[list[Photo]]:
    """Up to BATCH neighbouring photos of one size; a large photo is a batch of its own."""
    batch: list[Photo] = []
    for given in photos:
        photo = as_photo(run, given)
        if batch and (len(batch) == BATCH or not may_share_batch(batch[0], photo)):
            yield batch
            batch = []
        batch.append(photo)
    if batch:
        yield batch


def may_share_batch(photo: Photo, other: Photo) -> bool:
    in_memory = photo.large is None and other.large is None
    return in_memory and photo.pixels_CHW.shape == other.pixels_CHW.shape


def model_input(model: RAM, photos: Sequence[Photo]) -> PhotoBatch:
    """Photos of one size, or one large photo, as the model takes them."""
    device = model.classifier.weight.device
    if photos[0].large is not None:
        return model.photos(LazyPhotos([photos[0].large], device=device))
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
    colours: MapColours | None = None,
) -> list[PhotoRecord]:
    """Records of photos of one size, or of one large photo.

    precision: of the matrix products. colours: as for `record_photos`. Raises UnreadablePhoto for a
    large photo that cannot be read where the model looks.
    """
    ready = model_input(model, photos)
    with autocast(ready.device, precision):
        if first_location is None:
            trace = model(ready, keep_patches=True, num_glimpses=num_glimpses)
        else:
            trace = look_from(model, ready, first_location, num_glimpses)
    thresholds_N = model.thresholds_N.numpy()
    records = [
        record_of(trace, row, photo, classes, thresholds_N) for row, photo in enumerate(photos)
    ]
    retina, attention = model.levels[0].retina, model.levels[-1].attention
    if isinstance(retina, PatchRetina) and retina.maps is not None:
        geometry = retina.geometry if model.has_policy else retina.smooth_geometry
        maps = dict(zip(retina.maps.levels, retina.maps(ready), strict=True))
        colours = colours or fitted_colours([maps_of(maps, row) for row in range(len(records))])
        for row, record in enumerate(records):
            record.surfaces = map_surfaces(
                model, trace, row, record.surfaces[0], maps, geometry, colours
            )
    else:
        patches_BTSKPPC = as_rgb(denormalised(model, trace.patches_BTSKCPP))
        for row, record in enumerate(records):
            for level, surface in enumerate(record.surfaces):
                surface.patches_TKPPC = patches_BTSKPPC[row, :, level]
    if model.glance is not None:
        glances_BHWC = as_rgb(denormalised(model, ready.resized(model.glance.size)))
        for row, record in enumerate(records):
            record.glance_HWC = glances_BHWC[row]
    regions = getattr(attention, "regions", None if model.glance is None else model.glance.regions)
    if trace.region_weights_BTR is not None and regions is not None:
        weights_BTYX = numpy(trace.region_weights_BTR.unflatten(2, regions))
        for row, record in enumerate(records):
            record.region_weights_TYX = weights_BTYX[row]
    std = getattr(attention, "std", None)
    if std is not None:
        for record in records:
            record.std = float(std)
    return records


def map_colours(run: LoadedRun, photos: Iterable[AnyPhoto]) -> MapColours | None:
    """Colours for the feature maps that the model reads, fitted on these photos together; None
    for a model that reads none (the photos are not read then)."""
    retina = run.model.levels[0].retina
    if not isinstance(retina, PatchRetina) or retina.maps is None:
        return None
    found = []
    for batch in batches(run, photos):
        with contextlib.suppress(UnreadablePhoto), torch.inference_mode():
            ready = model_input(run.model, batch)
            with autocast(ready.device, run.config.training.precision):
                maps = dict(zip(retina.maps.levels, retina.maps(ready), strict=True))
            found += [maps_of(maps, row) for row in range(len(batch))]
    return fitted_colours(found) if found else None


def maps_of(maps: dict[int, Photos], row: int) -> dict[int, np.ndarray]:
    """The feature maps of one photo, C x H x W, by level."""
    found = {}
    for level, surface in maps.items():
        if level:
            height, width = surface.sizes_B2[row].tolist()
            found[level] = numpy(surface.pixels_BCHW[row, :, :height, :width])
    return found


def fitted_colours(maps: Sequence[dict[int, np.ndarray]]) -> MapColours:
    return {level: FeatureColours([each[level] for each in maps]) for level in maps[0]}


def look_from(
    model: RAM, photos: PhotoBatch, first: tuple[float, float], num_glimpses: int | None
) -> Trace:
    """The trace of a scan path that begins at `first` and is the model's own from there on."""
    first_B1S2 = torch.tensor(first, device=photos.device).expand(
        photos.batch_size, 1, len(model.levels), 2
    )
    trace = model(photos, locations_BTS2=first_B1S2, keep_patches=True, num_glimpses=num_glimpses)
    # the policy did not choose the given location
    return dataclasses.replace(trace, first_chosen=max(1, trace.first_chosen))


def record_of(
    trace: Trace, row: int, photo: Photo, classes: Sequence[str], thresholds_N: np.ndarray
) -> PhotoRecord:
    """One row of a trace: the photo as each level sees it, with its boxes and without patches.
    thresholds_N: where a photo may have several classes."""
    assert trace.boxes_BTSK4 is not None  # only traces of training have none
    boxes_TSK4 = numpy(trace.boxes_BTSK4[row])
    pixels_HWC = drawn_pixels(photo)
    reduced_by = photo.pixels_CHW.shape[1] / len(pixels_HWC)
    levels = range(boxes_TSK4.shape[1])
    title = "the photo" if len(levels) == 1 else "level 1: the photo"
    surfaces = [
        Surface(
            title=title if level == 0 else f"level {level + 1}: pooled {2**level} × {2**level}",
            image_HWC=pooled(pixels_HWC, round(2**level / reduced_by)),
            size=photo.size,
            boxes_TK4=boxes_TSK4[:, level],
            patches_TKPPC=np.empty((len(boxes_TSK4), 0, 0, 0, 3), np.uint8),
        )
        for level in levels
    ]
    glance, stops = trace.glance_logits_BN, trace.stop_logits_BT
    return PhotoRecord(
        photo=photo,
        classes=tuple(classes),
        beliefs_TN=believed(trace, trace.logits_BTN[row]),
        locations_TS2=numpy(trace.locations_BTS2[row]),
        surfaces=surfaces,
        glance_belief_N=None if glance is None else believed(trace, glance[row]),
        means_TS2=numpy(trace.means_BTS2[row, ..., :2]),
        chosen_T=trace.chosen_T,
        stops_T=None if stops is None else numpy(stops[row].sigmoid()),
        thresholds_N=thresholds_N if trace.multi_label else None,
    )


def believed(trace: Trace, scores: Tensor) -> np.ndarray:
    """Class probabilities from class scores of a trace, ... x N."""
    scores = scores.float()
    return numpy(scores.sigmoid() if trace.multi_label else scores.softmax(-1))


def answer_probability(beliefs: np.ndarray, has: np.ndarray) -> np.ndarray:
    """The probability that a photo has exactly these classes (bool, ... x N), from that of each."""
    return np.where(has, beliefs, 1 - beliefs).prod(-1)


def answer_name(answer: Answer, classes: Sequence[str]) -> str:
    """Name an answer: the class, or the classes."""
    return ", ".join(classes[label] for label in answer) or "no class"


def map_surfaces(
    model: RAM,
    trace: Trace,
    row: int,
    photo: Surface,
    maps: dict[int, Photos],
    geometry: GlimpseGeometry,
    colours: MapColours,
) -> list[Surface]:
    """The photo and the feature maps that the model reads from, with their boxes and patches.

    maps: by level; level 0 is the photo.
    """
    assert trace.map_patches_BTKCPP is not None  # `record_batch` asked for them
    locations_T2 = trace.locations_BTS2[row, :, 0]
    surfaces = []
    if 0 not in maps:  # drawn too: a feature map alone does not show where its boxes lie
        surfaces.append(dataclasses.replace(photo, title="the photo (not read)"))
    for (level, surface), patches_BTKCPP in zip(
        maps.items(), trace.map_patches_BTKCPP, strict=True
    ):
        if level == 0:
            patches_TKPPC = as_rgb(denormalised(model, patches_BTKCPP[row]))
            surfaces.append(dataclasses.replace(photo, patches_TKPPC=patches_TKPPC))
            continue
        height, width = surface.sizes_B2[row].tolist()
        sides_T2 = surface.sizes_B2[row].expand(len(locations_T2), 2)
        map_CHW = maps_of({level: surface}, row)[level]
        surfaces.append(
            Surface(
                f"feature map {level}: {height} × {width}, {counted(len(map_CHW), 'channel')}",
                colours[level](thinned(map_CHW, DRAWN)),
                (height, width),
                numpy(glimpse_boxes(locations_T2, sides_T2, geometry)),
                colours[level](numpy(patches_BTKCPP[row])),
                is_map=True,
            )
        )
    return surfaces


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


def drawn_pixels(photo: Photo, most: int = DRAWN) -> np.ndarray:
    """The photo to draw on, H x W x 3, uint8, reduced to about this many pixels at most."""
    height, width = photo.pixels_CHW.shape[1:]
    scale = math.sqrt(most / (height * width))
    if scale >= 1:
        return as_rgb(photo.pixels_CHW)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # plane by plane: a large photo is not copied
    planes = [Image.fromarray(plane).resize(size, BOX) for plane in photo.pixels_CHW]
    return as_rgb(np.stack([np.asarray(plane) for plane in planes]))


def pooled(pixels_HWC: np.ndarray, times: int) -> np.ndarray:
    """The photo as a level sees it: averages of times x times pixels."""
    if times <= 1:
        return pixels_HWC
    return np.asarray(Image.fromarray(pixels_HWC).reduce(times))

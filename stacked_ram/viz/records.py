"""Run the model on photos, and record what it did with each (photo_record.py).

B photos   T steps   S levels   K patches of P x P pixels   N classes
Y X rows and columns of the regions that an attention weighs
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stacked_ram.evaluation.early_exit import Stop, check_criterion
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
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.photos import AnyPhoto, Photo, as_photo
from stacked_ram.viz.style import counted

log = logging.getLogger(__name__)

BATCH = 16
DRAWN = 1_500_000  # pixels of a photo that is drawn; more would not be seen
BOX = Image.Resampling.BOX


MapColours = dict[int, FeatureColours]
"""Colours of the feature maps, by level."""


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
        shape = f"{height} × {width}, {counted(len(map_CHW), 'channel')}"
        image_HWC = colours[level](thinned(map_CHW, DRAWN))
        if not image_HWC.size:  # a photo of a few pixels, halved by each level
            shape, image_HWC = "empty, for so small a photo", np.zeros((1, 1, 3), np.uint8)
        surfaces.append(
            Surface(
                f"feature map {level}: {shape}",
                image_HWC,
                (max(height, 1), max(width, 1)),
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


def grey_photo(record: PhotoRecord, side: int = 480) -> np.ndarray:
    """The photo in grey, H x W, 0 to 1, its longer side at most `side` pixels: to draw maps on."""
    image = Image.fromarray(record.surfaces[0].image_HWC).convert("L")
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image.resize(size, BOX)) / 255


def pooled(pixels_HWC: np.ndarray, times: int) -> np.ndarray:
    """The photo as a level sees it: averages of times x times pixels."""
    if times <= 1:
        return pixels_HWC
    return np.asarray(Image.fromarray(pixels_HWC).reduce(times))

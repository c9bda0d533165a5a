"""Photos in, what the model did with each of them out: plain arrays that every drawing reads.

B photos   T steps   S levels   K patches of P x P pixels   N classes   R regions
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stacked_ram.images.lazy import LazyPhoto, LazyPhotos, UnreadablePhoto
from stacked_ram.models.ram import RAM
from stacked_ram.models.trace import Step, Trace, assemble
from stacked_ram.ops.geometry import glimpse_boxes
from stacked_ram.ops.patches import Photos
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.devices import autocast
from stacked_ram.viz.feature_colours import FeatureColours

log = logging.getLogger(__name__)

BATCH = 16


@dataclass
class Photo:
    """A photo as the model gets it."""

    name: str
    pixels_CHW: np.ndarray
    """uint8."""
    shape: tuple[int, int]
    """True (height, width): where photo_size squeezed the pixels, drawings undo it."""
    label: int | None = None
    box_4: np.ndarray | None = None
    """Object's (left, top, right, bottom) in these pixels."""
    large: LazyPhoto | None = None
    """What is looked at, where the photo is too large to be held: the pixels are then a small
    picture of it, to draw on."""
    path: Path | None = None
    """Of a file that was named; the photos of a data set are told apart by their names."""

    @property
    def key(self) -> Path | str:
        """Tells it from other photos, and is the same in every run."""
        return self.path or self.name

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is looked at, in pixels: the units of locations and boxes."""
        height, width = self.pixels_CHW.shape[1:] if self.large is None else self.large.size
        return height, width


@dataclass
class Surface:
    """One thing that is looked at: the photo, the photo as a level sees it, or a feature map."""

    title: str
    image_HWC: np.ndarray
    """uint8 RGB, at its own resolution."""
    size: tuple[float, float]
    """(height, width) in the units of the boxes, whatever the resolution of the image."""
    boxes_TK4: np.ndarray
    """Exactly what was read: (left, top, right, bottom)."""
    patches_TKPPC: np.ndarray | None
    """uint8 RGB, as the network got them but for the normalisation."""
    is_map: bool = False
    """Whether it is a feature map (one may be as large as the photo); its boxes are in cells."""

    @property
    def unit(self) -> str:
        return "cells" if self.is_map else "px"


@dataclass
class PhotoRecord:
    """What the model did with one photo."""

    photo: Photo
    classes: tuple[str, ...]
    belief_TN: np.ndarray
    """Class probabilities after each step."""
    locations_TS2: np.ndarray
    surfaces: list[Surface]
    """One a level, or the surfaces of a stack of maps, finest first."""
    glance_belief_N: np.ndarray | None = None
    glance_HWC: np.ndarray | None = None
    """uint8 RGB: what the glance saw of the whole photo."""
    weights_TR: np.ndarray | None = None
    regions: tuple[int, int] | None = None
    """Rows and columns that weights_TR are about."""
    std: float | None = None
    """Of the Gaussian policy, in units of location."""
    means_TS2: np.ndarray | None = None
    chosen_T: tuple[bool, ...] = ()

    @property
    def photo_surfaces(self) -> list[Surface]:
        """Those whose patches were cut from the photo itself, not from a map of it."""
        return [one for one in self.surfaces if not one.is_map and one.patches_TKPPC is not None]

    @property
    def steps(self) -> int:
        return len(self.belief_TN)

    @property
    def says(self) -> int:
        """The class predicted after the last step."""
        return int(self.belief_TN[-1].argmax())

    @property
    def sure(self) -> float:
        """Probability of that class."""
        return float(self.belief_TN[-1].max())

    @property
    def right(self) -> bool | None:
        return None if self.photo.label is None else self.says == self.photo.label

    @property
    def answers_T(self) -> np.ndarray:
        return self.belief_TN.argmax(1)

    @property
    def settled(self) -> int:
        """The step (from 1) from which on the answer stayed what it was in the end."""
        other = np.flatnonzero(self.answers_T != self.says)
        return int(other[-1]) + 2 if len(other) else 1


def cut(seen: PhotoRecord, steps: int) -> PhotoRecord:
    """As if the model had stopped looking after so many steps."""
    surfaces = [
        dataclasses.replace(
            one,
            boxes_TK4=one.boxes_TK4[:steps],
            patches_TKPPC=None if one.patches_TKPPC is None else one.patches_TKPPC[:steps],
        )
        for one in seen.surfaces
    ]
    return dataclasses.replace(
        seen,
        belief_TN=seen.belief_TN[:steps],
        locations_TS2=seen.locations_TS2[:steps],
        surfaces=surfaces,
        weights_TR=None if seen.weights_TR is None else seen.weights_TR[:steps],
        means_TS2=None if seen.means_TS2 is None else seen.means_TS2[:steps],
        chosen_T=seen.chosen_T[:steps],
    )


def look_at(
    model: RAM,
    photos: Sequence[Photo],
    classes: Sequence[str],
    *,
    num_glimpses: int | None = None,
    first_location: tuple[float, float] | None = None,
    precision: str = "float32",
) -> Iterator[PhotoRecord]:
    """Look at photos, deterministically, and keep everything; in the order of the photos.

    Photos of one size share a batch, large ones stand alone: one that cannot be read where it is
    looked at is told of and left out, so that fewer may come back than were given.
    first_location: force the first glimpse there, (x, y).
    precision: of the matrix products; answers near the edge change with it.
    """
    start = 0
    while start < len(photos):
        like = batch_key(photos[start])
        stop = start + 1
        while stop < min(start + BATCH, len(photos)) and like and batch_key(photos[stop]) == like:
            stop += 1
        part = photos[start:stop]
        try:
            yield from look_at_batch(model, part, classes, num_glimpses, first_location, precision)
        except UnreadablePhoto as error:
            log.warning("left out: %s", error)
        start = stop


def look_as_tested(run: LoadedRun, photos: Sequence[Photo], **how: Any) -> Iterator[PhotoRecord]:
    """As `look_at`, in the precision in which the run was trained and is tested."""
    precision = run.config.training.precision
    return look_at(run.model, photos, run.classes, precision=precision, **how)


def batch_key(photo: Photo) -> tuple[int, ...]:
    """Photos with one key may share a batch; nothing: this one stands alone."""
    return photo.pixels_CHW.shape if photo.large is None else ()


def ready_for(model: RAM, photos: Sequence[Photo]) -> Photos | LazyPhotos:
    """Photos of one size, or one large one, as the model takes them."""
    device = model.classifier.weight.device
    if photos[0].large is not None:
        return model.photos(LazyPhotos([one.large for one in photos], device=device))
    return model.photos(torch.from_numpy(np.stack([one.pixels_CHW for one in photos])).to(device))


@torch.inference_mode()
def look_at_batch(
    model: RAM,
    photos: Sequence[Photo],
    classes: Sequence[str],
    num_glimpses: int | None = None,
    first_location: tuple[float, float] | None = None,
    precision: str = "float32",
) -> list[PhotoRecord]:
    """As `look_at`, for photos of one size. Raises UnreadablePhoto for what cannot be read."""
    ready = ready_for(model, photos)
    with autocast(ready.device, precision):
        if first_location is None:
            trace = model(ready, keep_patches=True, num_glimpses=num_glimpses)
        else:
            trace = look_from(model, ready, first_location, num_glimpses)
    glance_BCHW = None if model.glance is None else ready.resized(model.config.glance)
    maps = model.levels[0].retina.view(ready).surfaces if model.levels[0].retina.maps else None
    seen = []
    for b, photo in enumerate(photos):
        one = seen_in(trace, b, photo, classes)
        one.surfaces = surfaces_of(model, trace, b, photo, maps)
        if glance_BCHW is not None:
            one.glance_HWC = as_rgb(shown(model, glance_BCHW[b]))
        one.regions = model.config.regions if one.weights_TR is not None else None
        policy = model.levels[-1].attention
        if getattr(policy, "std", None) is not None:
            one.std = float(policy.std)
        seen.append(one)
    return seen


def look_from(
    model: RAM, photos: Photos, first: tuple[float, float], num_glimpses: int | None
) -> Trace:
    """The trace of a scan path that begins at `first` and is the model's own from there on."""
    loop, glance_logits = model.start(photos)
    first_BS2 = torch.tensor(first, device=photos.device).expand(
        photos.batch_size, len(model.levels), 2
    )
    steps = num_glimpses or model.config.num_glimpses
    known, done = [loop.known[-1]], []
    for step in range(steps):
        choices = model.choose(loop, given_RS2=first_BS2 if step == 0 else None)
        seen = model.glimpse(loop, choices)
        loop = model.integrate(loop, choices, seen)
        known.append(loop.known[-1])
        done.append(Step(choices, [patches for _, patches in seen]))
    heads, boxes = model.heads(known), model.boxes(loop, done)
    first = max(1, model.first_chosen("policy", steps))  # the place that was given is not its own
    return assemble(done, heads, boxes, photos.sizes_B2, 1, glance_logits, first)


def seen_in(trace: Trace, row: int, photo: Photo, classes: Sequence[str]) -> PhotoRecord:
    """One row of a trace, with the photo as its only surface and without the patches."""
    glance, weights = trace.glance_logits_BN, trace.region_weights_BTR
    return PhotoRecord(
        photo=photo,
        classes=tuple(classes),
        belief_TN=numpy(trace.logits_BTN[row].float().softmax(1)),
        locations_TS2=numpy(trace.locations_BTS2[row]),
        surfaces=[
            Surface(
                "the photo",
                as_rgb(photo.pixels_CHW),
                photo.size,
                numpy(trace.boxes_BTSK4[row, :, level]),
                None,
            )
            for level in range(trace.boxes_BTSK4.shape[2])
        ],
        glance_belief_N=None if glance is None else numpy(glance[row].float().softmax(0)),
        weights_TR=None if weights is None else numpy(weights[row]),
        means_TS2=numpy(trace.means_BTS2[row]),
        chosen_T=trace.chosen_T,
    )


def surfaces_of(
    model: RAM, trace: Trace, row: int, photo: Photo, maps: list[Photos] | None
) -> list[Surface]:
    """Everything that was looked at, with its boxes and patches."""
    pixels_HWC = as_rgb(photo.pixels_CHW)
    size = photo.size
    if maps is None:
        patches = shown(model, trace.patches_BTSKCPP[row])
        levels = range(patches.shape[1])
        return [
            Surface(
                title="the photo" if len(levels) == 1 else level_title(level),
                image_HWC=pooled(pixels_HWC, 2**level),
                size=size,
                boxes_TK4=numpy(trace.boxes_BTSK4[row, :, level]),
                patches_TKPPC=as_rgb(patches[:, level]),
            )
            for level in levels
        ]
    retina = model.levels[0].retina
    smooth = model.config.attention == "soft"
    geometry = retina.smooth_geometry if smooth else retina.geometry
    locations_T2 = trace.locations_BTS2[row, :, 0]
    levels = model.config.levels or range(model.config.num_levels)
    surfaces = []
    if 0 not in levels:  # shown all the same: nobody can read a feature map
        boxes_TK4 = numpy(trace.boxes_BTSK4[row, :, 0])
        surfaces.append(Surface("the photo (not read)", pixels_HWC, size, boxes_TK4, None))
    for level, one, patches in zip(levels, maps, trace.map_patches_BTKCPP, strict=True):
        side_2 = one.sizes_B2[row]
        sides_T2 = side_2.expand(len(locations_T2), 2)
        boxes_TK4 = numpy(glimpse_boxes(locations_T2, sides_T2, geometry))
        map_size = int(side_2[0]), int(side_2[1])
        if level == 0:
            read = as_rgb(shown(model, patches[row]))
            surfaces.append(Surface("the photo", pixels_HWC, map_size, boxes_TK4, read))
            continue
        map_CHW = numpy(one.pixels_BCHW[row, :, : map_size[0], : map_size[1]])
        colours = FeatureColours(map_CHW)
        title = f"feature map {level}: {map_size[0]} × {map_size[1]}, {len(map_CHW)} channels"
        read = colours(numpy(patches[row]))
        surfaces.append(Surface(title, colours(map_CHW), map_size, boxes_TK4, read, is_map=True))
    return surfaces


def level_title(level: int) -> str:
    times = 2**level
    return f"level {level + 1}: " + ("the photo" if times == 1 else f"pooled {times} × {times}")


@torch.inference_mode()
def sampled_locations(
    model: RAM, photo: Photo, samples: int, num_glimpses: int | None = None, seed: int = 0
) -> np.ndarray:
    """Locations of many sampled scan paths of one photo, M x T x S x 2. The same every time."""
    device = model.classifier.weight.device
    before, model.generator = model.generator, torch.Generator(device).manual_seed(seed)
    try:
        trace = model(
            ready_for(model, [photo]), rollouts=samples, sample=True, num_glimpses=num_glimpses
        )
    finally:
        model.generator = before
    return numpy(trace.locations_BTS2)


def numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def shown(model: RAM, values: Tensor) -> np.ndarray:
    """Pixels ... C x H x W as the network gets them, de-normalised: uint8."""
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
    """Averages of times x times pixels, as a level sees the photo."""
    from PIL import Image

    if times == 1:
        return pixels_HWC
    return np.asarray(Image.fromarray(pixels_HWC).reduce(times))

"""Pictures of a training: scan paths on the same few validation photos, every few epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.trace import Trace
from stacked_ram.training.callbacks import Callback, Training
from stacked_ram.training.meters import Row
from stacked_ram.training.trackers import Tracker, make_tracker
from stacked_ram.viz.animation import figure_pixels
from stacked_ram.viz.gallery import gallery_figure
from stacked_ram.viz.photos import Photo, large_photo
from stacked_ram.viz.records import record_of

PICTURES = 8


def tracking_callbacks(
    name: Literal["tensorboard", "wandb", "mlflow"] = "tensorboard",
) -> list[Callback]:
    """The callbacks that send a run's metrics and scan paths to a tracker. Raises UserError if its
    package is not installed."""
    tracker = make_tracker(name)
    return [tracker, ScanPathPictures(tracker)]


class ScanPathPictures(Callback):
    """Send pictures to a tracker, every `pictures_every` epochs."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.photos: tuple[tuple[str, ...], Batch] | None = None

    def on_train_start(self, trainer: Training) -> None:
        self.photos = None

    def on_epoch_end(self, trainer: Training, row: Row) -> None:
        every = trainer.config.training.pictures_every
        if not every or trainer.epoch % every or trainer.valid_loader is None:
            return
        if not trainer.world.is_main:
            return
        self.photos = self.photos or a_few_photos(trainer.config)
        classes, batch = self.photos
        model = trainer.model.eval()

        def draw(batch: Batch) -> Figure:
            with torch.no_grad():
                trace = model(batch.photos(model))
            return draw_scan_paths(
                batch.pixels_BCHW, trace, classes, batch.labels_B.cpu(), batch.sizes_B2.cpu(),
                model.thresholds_N.numpy(),
            )  # fmt: skip

        batch = batch.to(trainer.device)
        for _, figure in trainer.valid_left_out.each([batch] if len(batch) else [], draw):
            self.tracker.write_picture("scan paths", figure_pixels(figure), trainer.epoch)


def a_few_photos(config: Config) -> tuple[tuple[str, ...], Batch]:
    """The classes, and PICTURES validation photos in one batch, as they are evaluated."""
    few = min(PICTURES, config.data.limit_photos or PICTURES)
    fields = {"limit_photos": few, "batch_size": few, "workers": 0, "cache": "none"}
    config = replace_fields(config, fields)
    dataset = open_dataset(config.data, "valid")
    return dataset.classes, next(iter(make_loader(dataset, config, train=False)))


def draw_scan_paths(
    pixels_BCHW: Tensor | LazyPhotos,
    trace: Trace,
    classes: Sequence[str],
    labels_B: Tensor | Sequence[int] | None = None,
    sizes_B2: Tensor | None = None,
    thresholds_N: np.ndarray | None = None,
) -> Figure:
    """The scan paths of a batch as a grid; the first rollout of each photo.

    labels_B: classes; B x N where a photo may have several, with the thresholds of the classes
    (None: 0.5). sizes_B2: (height, width) of each photo inside the padding; None: all of it.
    """
    records = []
    if thresholds_N is None:
        thresholds_N = np.full(len(classes), 0.5)
    for row in range(len(trace.logits_BTN) // trace.rollouts):
        label, labels = None, None
        if labels_B is not None and trace.multi_label:
            labels = tuple(torch.as_tensor(labels_B[row]).nonzero()[:, 0].tolist())
        elif labels_B is not None:
            label = int(torch.as_tensor(labels_B[row]))
        if isinstance(pixels_BCHW, LazyPhotos):
            photo = large_photo("", pixels_BCHW.photos[row], label)
        else:
            pixels_CHW = pixels_BCHW[row].detach().cpu()
            height, width = pixels_CHW.shape[1:] if sizes_B2 is None else sizes_B2[row].tolist()
            photo = Photo("", pixels_CHW[:, :height, :width].numpy(), (height, width), label)
        photo.labels = labels
        records.append(record_of(trace, row * trace.rollouts, photo, classes, thresholds_N))
    return gallery_figure(records, "Scan paths")

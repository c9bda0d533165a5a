"""Pictures of scan paths while a model trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.models.trace import Trace
from stacked_ram.viz.gallery import gallery_figure
from stacked_ram.viz.photos import Photo, large_photo
from stacked_ram.viz.records import record_of


def draw_scan_paths(
    pixels_BCHW: Tensor | LazyPhotos,
    trace: Trace,
    classes: Sequence[str],
    labels_B: Tensor | Sequence[int] | None = None,
    sizes_B2: Tensor | None = None,
) -> Figure:
    """The scan paths of a batch as a grid; the first rollout of each photo.

    sizes_B2: (height, width) of each photo inside the padding; None: all of it.
    """
    records = []
    for row in range(len(trace.logits_BTN) // trace.rollouts):
        label = None if labels_B is None else int(torch.as_tensor(labels_B[row]))
        if isinstance(pixels_BCHW, LazyPhotos):
            photo = large_photo("", pixels_BCHW.photos[row], label)
        else:
            pixels_CHW = pixels_BCHW[row].detach().cpu()
            height, width = pixels_CHW.shape[1:] if sizes_B2 is None else sizes_B2[row].tolist()
            photo = Photo("", pixels_CHW[:, :height, :width].numpy(), (height, width), label)
        records.append(record_of(trace, row * trace.rollouts, photo, classes))
    return gallery_figure(records, "Scan paths")

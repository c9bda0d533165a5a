"""What the app shows of an uploaded photo, step by step. Does not need Gradio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.images.decoding import true_size
from stacked_ram.images.uploads import check_upload
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import figures
from stacked_ram.viz.animation import figure_pixels
from stacked_ram.viz.belief import beliefs, stop_words, verdict
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.photos import read_file
from stacked_ram.viz.records import record_photos
from stacked_ram.viz.style import EDGE, Sheet, styled
from stacked_ram.viz.thumbnails import draw_panels, small_size

SIDE = 4.6  # inches of the picture, at most
PAUSE = 0.35  # seconds between steps, drawing included


@lru_cache(maxsize=4)
def cached_run(path: str, device: str) -> LoadedRun:
    return load_run(path, device)


def location_of(path: str, index: Any) -> tuple[float, float]:
    """The location (x, y) of a click on a pixel (x, y). Raises UserError if it is no photo."""
    check_upload(path)
    try:
        height, width = true_size(path)
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"{path}: not an image that can be read") from None
    x, y = (float(value) for value in index)
    return (
        float(np.clip(2 * (x + 0.5) / width - 1, -1, 1)),
        float(np.clip(2 * (y + 0.5) / height - 1, -1, 1)),
    )


def watch(
    run: LoadedRun, path: str, steps: int, least: float, first: tuple[float, float] | None
) -> Iterator[tuple[str, np.ndarray, dict[str, float], np.ndarray | None]]:
    """Yield a line of text, a picture and the belief after the glance, where there is one, and
    after each step; after the last the patches too.

    least: stop at the first step with this confidence; 1: never. first: location (x, y) of the
    first glimpse; None: the model's own. Raises UserError for a file that is no photo, cannot be
    read or is too large.
    """
    check_upload(path)
    photo = read_file(run, Path(path))
    photo.label = None  # an upload's folder says nothing about it
    stop = Stop(least) if least < 1 else None
    how: dict[str, Any] = {"num_glimpses": steps, "first_location": first, "stop": stop}
    (record,) = record_photos(run, [photo], **how)
    if not np.isfinite(record.beliefs_TN).all():
        raise UserError(f"{path}: the model's answer is not finite")
    for step, belief_N in zip(*beliefs(record), strict=True):
        started = time.monotonic()
        frame = figure_pixels(path_frame(record, int(step)))
        probabilities = {
            name: float(probability)
            for name, probability in zip(record.classes, belief_N, strict=True)
        }
        last = step == record.steps
        so_far = f"after glimpse {step} …" if step else "after the glance …"
        says = verdict(record)[0] + stop_words(record) if last else so_far
        if last and first is not None and record.steps:
            says += "; you chose where the first glimpse looked"
        strip = figure_pixels(figures.strip(record)) if last else None
        yield f"### {says}" if last else says, frame, probabilities, strip
        if not last:
            time.sleep(max(0.0, PAUSE - (time.monotonic() - started)))


@styled
def path_frame(record: PhotoRecord, steps: int) -> Figure:
    """The scan path after this many steps, large enough to be read on a phone; beside it the last
    feature map, if there is one."""
    wide, tall = small_size(record, SIDE, SIDE)
    sheet = Sheet(wide + 2 * EDGE, tall + 2 * EDGE)
    draw_panels(sheet, record, EDGE, EDGE, wide, tall, last=steps, nested=True)
    return sheet.figure

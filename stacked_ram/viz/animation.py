"""Animations: scan paths step by step, of one photo or of a grid, as GIF and as MP4.

GIF through Pillow. MP4 as H.264, which every browser and slide program plays, through the ffmpeg
of the package imageio-ffmpeg: matplotlib's own writer needs an installed ffmpeg, and OpenCV's
wheel writes only codecs that browsers do not play.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from stacked_ram.runs.folder import write_atomically
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.belief import beliefs, draw_lines, draw_top, stop_words, top_rows, verdict
from stacked_ram.viz.boxes import draw_surface, fit, view_of, view_shape, visible
from stacked_ram.viz.figures import LINES_LEFT, LINES_TOP
from stacked_ram.viz.foveate import foveated
from stacked_ram.viz.key import belief_marks, box_marks, draw_key, key_height
from stacked_ram.viz.patch_strip import ROW
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import (
    EDGE,
    FAINT,
    INK,
    PAGE,
    QUIET,
    RIGHT,
    SCREEN,
    WRONG,
    Sheet,
    counted,
    drawn,
    drawn_for,
    fitted,
    step_colours,
    styled,
)
from stacked_ram.viz.thumbnails import draw_panels, file_name, panels, small_size
from stacked_ram.viz.zoom import HIGH as ZOOM
from stacked_ram.viz.zoom import draw_zoom, is_tiny

TITLE = 0.3  # height of a title
STEP, LAST = 0.9, 2.6  # seconds that a step and the last frame are shown
FPS = 10
MOST = 12  # photos of a grid


@styled
def photo_frame(record: PhotoRecord, steps: int) -> Figure:
    """One photo after this many steps (0: before the first)."""
    surface = record.main_surface
    view = view_of(surface.size, surface.boxes_TK4)
    wide, tall = fit(view_shape(record, surface, view), 3.75, 3.75)
    zoomed = is_tiny(surface, view, wide, tall)
    right = EDGE + max(wide, 1.2) + 0.2
    room = PAGE - EDGE - right
    # what was seen so far, and the last feature map: one of them, or both beside each other
    aside: list[Surface | None] = [*([None] if record.photo_surfaces else []), *record.maps[-1:]]
    each = (room - 0.1 * (len(aside) - 1)) / len(aside)
    known_tall = max(aside_size(record, other, each)[1] for other in aside)
    bars = top_rows(record) * (ROW + 0.03)
    lines = 1.55
    height = max(tall + (ZOOM + 0.12 if zoomed else 0), known_tall + 0.3 + bars)
    marks = [*box_marks([record]), *belief_marks([record])]
    inner = PAGE - 2 * EDGE
    sheet = Sheet(PAGE, TITLE + height + lines + key_height(marks, inner) + 2 * EDGE)
    if steps == record.steps:
        text, colour = verdict(record)
        text += stop_words(record)
    else:
        text = (
            f"after {steps} of {counted(record.all_steps, 'glimpse')}"
            if steps
            else "before the first glimpse"
        )
        colour = QUIET
    sheet.text(EDGE, 0.2, fitted(text, PAGE - 2 * EDGE, 10, "bold"), fontsize=10, color=colour,
               fontweight="bold")  # fmt: skip
    axes = sheet.axes(EDGE, TITLE, wide, tall)
    draw_surface(axes, surface, view, record.colours, last=steps)
    if zoomed and steps:
        place = (EDGE, TITLE + tall + 0.12, max(wide, 3.0), ZOOM)
        draw_zoom(sheet, record.until(steps), surface_until(surface, steps), axes, place)
    below = TITLE + known_tall
    for number, other in enumerate(aside):
        x = right + number * (each + 0.1)
        size = aside_size(record, other, each)
        if other is None:
            sheet.image(foveated(record, steps), x, TITLE, *size, FAINT, 0.7)
        else:
            small = sheet.axes(x, TITLE, *size)
            view = view_of(other.size, other.boxes_TK4)
            draw_surface(small, other, view, record.colours, last=steps, weight=0.7, numbers=False)
        words = "seen so far" if other is None else other.title
        sheet.text(x, below + 0.13, fitted(words, each, 7), fontsize=7, color=QUIET)
    column = steps - int(beliefs(record)[0][0])
    if column >= 0:
        draw_top(sheet, record, column, right, below + 0.24, room, ROW + 0.03)
        y = TITLE + height + EDGE
        height, width = lines - LINES_TOP - 0.36, PAGE - 2 * EDGE - LINES_LEFT
        axes = sheet.axes(EDGE + LINES_LEFT, y + LINES_TOP, width, height)
        draw_lines(axes, record, width, height, steps)
    draw_key(sheet, marks, EDGE, sheet.height - EDGE - key_height(marks, inner), inner)
    return sheet.figure


def surface_until(surface: Surface, steps: int) -> Surface:
    return dataclasses.replace(surface, boxes_TK4=surface.boxes_TK4[:steps])


def aside_size(record: PhotoRecord, surface: Surface | None, side: float) -> tuple[float, float]:
    """(width, height) of what was seen so far (None), or of a feature map, beside the photo."""
    if surface is None:
        return fit(visible(record.photo.true_aspect), side, 1.9)
    view = view_of(surface.size, surface.boxes_TK4)
    return fit(view_shape(record, surface, view), side, 1.9)


@styled
def grid_frame(records: Sequence[PhotoRecord], steps: int) -> Figure:
    """Many photos after this many steps."""
    columns = min(4 // max(len(panels(record)) for record in records), len(records))
    side = (PAGE - EDGE) / columns - EDGE
    tall = max(small_size(record, side, side)[1] for record in records)
    rows, below = -(-len(records) // columns), 0.4
    marks = box_marks(records, nested=False)
    key = key_height(marks, PAGE - 2 * EDGE)
    sheet = Sheet(PAGE, EDGE + rows * (tall + below) + key)
    for number, record in enumerate(records):
        x = EDGE + number % columns * (side + EDGE)
        y = EDGE + number // columns * (tall + below)
        done = min(steps, record.steps)
        draw_panels(sheet, record, x, y, side, tall, last=done)
        seen = done or record.glance_belief_N is not None
        text, colour = verdict(record.until(done)) if seen else ("…", QUIET)
        text = text.split(", is ")[0]
        sheet.text(x + side / 2, y + tall + 0.14, fitted(text, side, 7.5, "bold"), fontsize=7.5,
                   color=colour, ha="center", fontweight="bold")  # fmt: skip
        sheet.text(x + side / 2, y + tall + 0.26, fitted(file_name(record), side, 6.5),
                   fontsize=6.5, color=QUIET, ha="center")  # fmt: skip
    draw_key(sheet, marks, EDGE, sheet.height - key, PAGE - 2 * EDGE)
    return sheet.figure


def formats() -> tuple[str, ...]:
    """Return the formats that can be written here. MP4 needs the package imageio-ffmpeg."""
    return ("gif", "mp4") if find_spec("imageio_ffmpeg") else ("gif",)


def save(records: PhotoRecord | Sequence[PhotoRecord], path: str | Path) -> Path:
    """Write the animation of one photo, or of several as a grid, as .gif or .mp4.

    A grid shows the first MOST photos. Raises UserError for another ending, and for .mp4 without
    the package imageio-ffmpeg.
    """
    path = Path(path)
    writers = {".gif": write_gif, ".mp4": write_mp4}
    if path.suffix not in writers:
        raise UserError(f"{path}: animations end in .gif or .mp4")
    frames = draw_frames(records)
    writers[path.suffix](frames, [STEP] * (len(frames) - 1) + [LAST], path)
    return path


def draw_frames(records: PhotoRecord | Sequence[PhotoRecord]) -> list[np.ndarray]:
    """The pictures of an animation, one for each step, of one size with even sides."""
    records = [records] if isinstance(records, PhotoRecord) else records
    steps = max(record.steps for record in records)
    with drawn_for("screen"):
        return [
            figure_pixels(
                photo_frame(records[0], step) if len(records) == 1
                else grid_frame(records[:MOST], step)
            )
            for step in range(steps + 1)
        ]  # fmt: skip


def figure_pixels(figure: Figure) -> np.ndarray:
    """A drawn figure as uint8 RGB, H x W x 3, with even sides as MP4 needs them."""
    pixels = drawn(figure, SCREEN)[..., :3]
    height, width = (side - side % 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def write_gif(frames: Sequence[np.ndarray], seconds: Sequence[float], path: Path) -> None:
    """Write frames that share a palette of 256 colours and repeat endlessly.

    The colours of steps and answers are in the palette as they are; a palette fitted to the
    pixels would lose them to the photo, which has more. No dithering, which would flicker.
    """
    named = [*step_colours(len(frames) - 1), INK, QUIET, RIGHT, WRONG, "#ffffff", "#000000"]
    kept = [[round(255 * part) for part in to_rgb(colour)] for colour in named]
    some = np.concatenate(frames)[::2, ::2]  # a quarter of the pixels says which colours they have
    fitted_to = Image.fromarray(some).quantize(256 - len(kept)).getpalette()
    assert fitted_to is not None  # a quantized image has a palette
    palette = Image.new("P", (1, 1))
    palette.putpalette(fitted_to[: 3 * (256 - len(kept))] + list(itertools.chain(*kept)))
    images = [
        Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
        for pixels in frames
    ]
    content = io.BytesIO()
    durations = [int(1000 * shown) for shown in seconds]
    images[0].save(
        content, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
    )
    write_atomically(path, content.getvalue())


def write_mp4(frames: Sequence[np.ndarray], seconds: Sequence[float], path: Path) -> None:
    """Write H.264 in yuv420p. Raises UserError when imageio-ffmpeg is missing."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError(
            "MP4 needs the package imageio-ffmpeg: pip install -r requirements-video.txt"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(temporary), (width, height), fps=FPS, codec="libx264", quality=8, macro_block_size=2,
        output_params=["-movflags", "+faststart"],
    )  # fmt: skip
    try:
        writer.send(None)
        for pixels, shown in zip(frames, seconds, strict=True):
            for _ in range(round(shown * FPS)):
                writer.send(pixels)
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error})") from None

"""Small scan paths, alone or in a grid, each with the prediction below."""

from __future__ import annotations

from stacked_ram.viz.belief import percent, used_words, verdict
from stacked_ram.viz.boxes import View, draw_surface, fit, view_of, view_shape
from stacked_ram.viz.records import PhotoRecord
from stacked_ram.viz.style import INK, QUIET, Sheet, shrunk

CAPTION = 0.48  # inches for the lines below
ROOMY = 1.2  # inches; smaller pictures have no room for numbers


def small_view(record: PhotoRecord) -> View:
    """What a small picture shows: the last surface, with the narrowest boxes alone."""
    surface = record.surfaces[-1]
    return view_of(surface.size, surface.boxes_TK4[:, :1])


def small_size(record: PhotoRecord, width: float, height: float) -> tuple[float, float]:
    """Largest (width, height) of a small picture that fits."""
    return fit(view_shape(record, record.surfaces[-1], small_view(record)), width, height)


def draw_small(
    sheet: Sheet, record: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """A small scan path in this area; below, one or two lines about the prediction, and the name
    of the file."""
    surface, view = record.surfaces[-1], small_view(record)
    wide, tall = small_size(record, width, height)
    axes = sheet.axes(x + (width - wide) / 2, y + (height - tall), wide, tall)
    roomy = width >= ROOMY
    draw_surface(
        axes, surface, view, record.colours, weight=0.8 if roomy else 0.6, nested=False,
        numbers=roomy,
    )  # fmt: skip
    lines, colour = caption(record, roomy)
    for number, text in enumerate([*lines, file_name(record)]):
        text, size = shrunk(text, width, 6.8, 5.5)
        tint = (colour, INK)[number] if number < len(lines) else QUIET
        sheet.text(x + width / 2, y + height + 0.13 + 0.115 * number, text, fontsize=size,
                   color=tint, ha="center")  # fmt: skip


def file_name(record: PhotoRecord) -> str:
    """The photo's name without its folders, which name its class."""
    return record.photo.name.rpartition("/")[2]


def caption(record: PhotoRecord, roomy: bool) -> tuple[list[str], str]:
    """One or two lines about the prediction, and the colour of the first."""
    text, colour = verdict(record)
    if roomy:
        said, _, true = text.partition(", is ")
        more = [f"is {true}"] if true else []
        if record.stop is not None:
            more.append(used_words(record))
        return [said, ", ".join(more)] if more else [said], colour
    predicted = record.classes[record.predicted]
    label = record.photo.label
    if label is None:
        return [predicted, percent(record.confidence)], colour
    if label == record.predicted:
        return [f"✓ {predicted}", percent(record.confidence)], colour
    return [f"✗ {predicted}", f"is {record.classes[label]}"], colour

"""Small scan paths, alone or in a grid, each with the prediction below."""

from __future__ import annotations

from stacked_ram.viz.belief import percent, used_words, verdict
from stacked_ram.viz.boxes import View, draw_surface, fit, view_of, view_shape, visible
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import INK, QUIET, Sheet, shrunk

CAPTION = 0.48  # inches for the lines below
BETWEEN = 0.06  # inches between the panels of a small picture
ROOMY = 1.2  # inches; smaller pictures have no room for numbers


def panels(record: PhotoRecord) -> list[Surface]:
    """What a small picture shows: the photo, and beside it the last feature map, if there is
    one."""
    return [record.main_surface, *record.maps[-1:]]


def small_view(surface: Surface) -> View:
    """The view of a small picture, with the narrowest boxes alone."""
    return view_of(surface.size, surface.boxes_TK4[:, :1])


def panel_sizes(record: PhotoRecord, width: float, height: float) -> list[tuple[float, float]]:
    """Largest (width, height) of each panel of a small picture."""
    shown = panels(record)
    room = (width - BETWEEN * (len(shown) - 1)) / len(shown)
    return [
        fit(visible(view_shape(record, each, small_view(each))), room, height) for each in shown
    ]


def small_size(record: PhotoRecord, width: float, height: float) -> tuple[float, float]:
    """Largest (width, height) of a small picture that fits."""
    sizes = panel_sizes(record, width, height)
    return (
        sum(wide for wide, _ in sizes) + BETWEEN * (len(sizes) - 1),
        max(tall for _, tall in sizes),
    )


def draw_panels(
    sheet: Sheet,
    record: PhotoRecord,
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    last: int | None = None,
    numbers: bool = True,
    nested: bool = False,
) -> None:
    """A small scan path in the middle and at the bottom of this area. last: the steps drawn.
    nested: draw all boxes of a glimpse, not the narrowest alone."""
    sizes = panel_sizes(record, width, height)
    x += (width - small_size(record, width, height)[0]) / 2
    for surface, (wide, tall) in zip(panels(record), sizes, strict=True):
        axes = sheet.axes(x, y + height - tall, wide, tall)
        draw_surface(
            axes, surface, small_view(surface), record.colours, last=last, nested=nested,
            weight=0.8 if numbers else 0.6, numbers=numbers,
        )  # fmt: skip
        x += wide + BETWEEN


def draw_small(
    sheet: Sheet, record: PhotoRecord, x: float, y: float, width: float, height: float
) -> None:
    """A small scan path in this area; below, one or two lines about the prediction, and the name
    of the file."""
    roomy = width / len(panels(record)) >= ROOMY
    draw_panels(sheet, record, x, y, width, height, numbers=roomy)
    lines, colour = caption(record, width >= ROOMY)
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
    if roomy and record.thresholds_N is None:
        said, _, true = text.partition(", is ")
        more = [f"is {true}"] if true else []
        if record.stop is not None:
            more.append(used_words(record))
        return [said, ", ".join(more)] if more else [said], colour
    said = record.name_of(record.answer)
    sure = [percent(record.confidence)] if record.thresholds_N is None else []
    used = [used_words(record)] if roomy and record.stop is not None else []
    if record.truth is None:
        return [said, *sure, *used], colour
    if record.correct:
        return [f"✓ {said}", *sure, *used], colour
    return [f"✗ {said}", ", ".join([f"is {record.name_of(record.truth)}", *used])], colour

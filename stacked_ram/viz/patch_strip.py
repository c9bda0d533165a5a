"""The patch strip: what the network got at each step, and what it has seen so far."""

from __future__ import annotations

from stacked_ram.viz.belief import beliefs, draw_top, top_rows
from stacked_ram.viz.boxes import draw_tag, fit
from stacked_ram.viz.foveate import foveated
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import FAINT, QUIET, Sheet, fitted, text_width

LABEL = 1.05  # inches for the names of the rows
GAP = 0.06
HEAD = 0.22  # inches for the numbers of the columns
ROW = 0.145  # inches for one class of the top five


def columns_of(record: PhotoRecord) -> int:
    """Number of steps of the whole pass, and 1 more where a glance starts the core."""
    return len(beliefs(record)[0]) - record.steps + record.all_steps


def cell_size(record: PhotoRecord, width: float) -> float:
    """Side of a patch in a strip of this width."""
    count = columns_of(record)
    return min(1.15, (width - LABEL) / count - GAP)


def column_x(record: PhotoRecord, x: float, cell: float, step: int) -> float:
    """Left edge of a step's column (step 0: the glance)."""
    first = beliefs(record)[0][0]
    return x + LABEL + (step - first) * (cell + GAP)


def draw_head(sheet: Sheet, record: PhotoRecord, x: float, y: float, cell: float) -> float:
    """Numbers over the columns; returns the y below."""
    colours, middle = record.colours, y + HEAD / 2
    for step in beliefs(record)[0]:
        left = column_x(record, x, cell, step)
        if step == 0:
            text = "glance" if record.glance_HWC is None else glance_words(record, cell)
            sheet.text(left + cell / 2, middle, text, ha="center", va="center", color=QUIET,
                       fontsize=7)  # fmt: skip
        else:
            draw_tag(sheet.page, (left + cell / 2, middle - 0.01), str(step), colours[step - 1])
    if record.stopped:
        left = column_x(record, x, cell, record.steps + 1) + 0.02
        sheet.text(left, middle, "■ stopped here", va="center", fontsize=7, fontweight="bold")
    return y + HEAD


def glance_words(record: PhotoRecord, width: float) -> str:
    assert record.glance_HWC is not None
    high, wide = record.glance_HWC.shape[:2]
    text = f"glance, {wide} × {high} px"
    return text if text_width(text, 7) < width else "glance"


def draw_glance(sheet: Sheet, record: PhotoRecord, x: float, y: float, cell: float) -> None:
    """The picture of a glance that starts the core, beside the first row of patches."""
    if record.glance_HWC is None or record.glance_belief_N is None:
        return
    wide, tall = fit(record.photo.true_aspect, cell, cell)
    left = column_x(record, x, cell, 0)
    left, top = left + (cell - wide) / 2, y + (cell - tall) / 2
    sheet.image(record.glance_HWC, left, top, wide, tall, FAINT, 0.6)


def draw_patches(
    sheet: Sheet, record: PhotoRecord, surface: Surface, x: float, y: float, cell: float
) -> float:
    """A row for each of the K patches, the narrowest first; returns the y below."""
    colours = record.colours
    if not record.steps:
        return y + cell + GAP
    for k in range(surface.patch_rows):
        box_4, pixels = surface.boxes_TK4[0, k], surface.patches_TKPPC.shape[2]
        wide = float(box_4[2] - box_4[0])
        lines = [f"glimpse, {wide:.0f} {surface.unit} wide"]
        original = wide * record.photo.true_size[1] / record.photo.size[1]
        if not surface.is_map and abs(original - wide) >= 1:
            lines.append(f"({original:.0f} px of the file)")
        if abs(wide - pixels) >= 0.5:
            lines.append(f"→ {pixels} × {pixels}")
        row_label(sheet, x, y, cell, *lines)
        for step in range(record.steps):
            left = column_x(record, x, cell, step + 1)
            sheet.image(surface.patches_TKPPC[step, k], left, y, cell, cell, colours[step])
        y += cell + GAP
    return y


def row_label(sheet: Sheet, x: float, y: float, tall: float, *lines: str) -> None:
    middle = y + tall / 2 + 0.035 - 0.06 * (len(lines) - 1)
    for number, line in enumerate(lines):
        sheet.text(
            x + LABEL - 0.08, middle + 0.125 * number, fitted(line, LABEL - 0.08, 6.5), ha="right",
            fontsize=6.5, color=QUIET if number else "#1c2430",
        )  # fmt: skip


def draw_foveated(sheet: Sheet, record: PhotoRecord, x: float, y: float, cell: float) -> float:
    """What was seen of the photo until each step; returns the y below."""
    if not record.photo_surfaces:
        return y
    wide, tall = fit(record.photo.true_aspect, cell, cell)
    row_label(sheet, x, y, tall, "seen so far")
    for step in beliefs(record)[0]:
        left = column_x(record, x, cell, step) + (cell - wide) / 2
        sheet.image(foveated(record, step), left, y, wide, tall, FAINT, 0.6)
    return y + tall + GAP


def draw_top_row(sheet: Sheet, record: PhotoRecord, x: float, y: float, cell: float) -> float:
    """The likeliest classes after each step; returns the y below."""
    rows = top_rows(record)
    row_label(sheet, x, y, rows * ROW, "belief, %")
    for column, step in enumerate(beliefs(record)[0]):
        draw_top(sheet, record, column, column_x(record, x, cell, int(step)), y, cell, ROW)
    return y + rows * ROW + GAP


def rows_of(record: PhotoRecord, surface: Surface) -> int:
    """Rows that `draw_patches` takes; without steps one, for the glance."""
    return surface.patch_rows if record.steps else 1


def strip_height(record: PhotoRecord, cell: float, surfaces: int = 1) -> float:
    """Inches that `draw_head` and `draw_patches` take."""
    rows = sum(rows_of(record, surface) for surface in record.surfaces[:surfaces])
    return HEAD + rows * (cell + GAP)


def foveated_height(record: PhotoRecord, cell: float) -> float:
    if not record.photo_surfaces:
        return 0.0
    return fit(record.photo.true_aspect, cell, cell)[1] + GAP


def top_height(record: PhotoRecord) -> float:
    return top_rows(record) * ROW + GAP

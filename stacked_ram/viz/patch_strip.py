"""The patch strip: what the network got at each step, and what it has seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stacked_ram.viz.belief import beliefs, draw_top, top_rows
from stacked_ram.viz.boxes import draw_tag, fit, visible
from stacked_ram.viz.foveate import foveated
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.style import FAINT, QUIET, Sheet, fitted, is_narrow, text_width

LABEL = 1.05  # inches for the names of the rows
GAP = 0.06
HEAD = 0.22  # inches for the numbers of the columns
ROW = 0.145  # inches for one class of the top five


@dataclass(frozen=True)
class Band:
    """Some steps of a pass (0: the glance), drawn in columns beside each other, from x on."""

    record: PhotoRecord
    steps: tuple[int, ...]
    x: float
    cell: float
    """Side of a patch."""
    ends: bool
    """Whether the pass ends here."""

    def left(self, step: int) -> float:
        """Left edge of a step's column."""
        return self.x + LABEL + self.steps.index(step) * (self.cell + GAP)

    @property
    def glimpses(self) -> list[int]:
        return [step for step in self.steps if step]


def bands_of(record: PhotoRecord, x: float, width: float, least: float | None = None) -> list[Band]:
    """All steps, in as many bands below each other as this width needs. least: side of the smallest
    patch."""
    steps = [int(step) for step in beliefs(record)[0]]
    whole = len(steps) - record.steps + record.all_steps
    room = width - LABEL
    least = (0.5 if is_narrow() else 0.74) if least is None else least
    columns = min(max(1, int(room / (least + GAP))), whole)
    columns = -(-whole // -(-whole // columns))
    cell = min(1.15, room / columns - GAP)
    parts = [tuple(steps[start : start + columns]) for start in range(0, len(steps), columns)]
    return [Band(record, part, x, cell, part is parts[-1]) for part in parts]


def draw_head(sheet: Sheet, band: Band, y: float, *, glance: bool = True) -> float:
    """Numbers over the columns, and over the glance's its name; returns the y below."""
    record, cell, middle = band.record, band.cell, y + HEAD / 2
    for step in band.steps:
        left = band.left(step)
        if step == 0 and not glance:
            continue
        if step == 0:
            text = "glance" if record.glance_HWC is None else glance_words(record, cell)
            sheet.text(left + cell / 2, middle, text, ha="center", va="center", color=QUIET,
                       fontsize=7)  # fmt: skip
        else:
            place = (left + cell / 2, middle - 0.01)
            draw_tag(sheet.page, place, str(step), record.colours[step - 1])
    if record.stopped and band.ends:
        right = band.left(band.steps[-1]) + cell
        words = "■ stopped here"
        style = {"va": "center", "fontsize": 7, "fontweight": "bold"}
        if right + text_width(words, 7, "bold") + 0.1 < sheet.width:
            sheet.text(right + GAP + 0.02, middle, words, **style)
        else:
            words = f"■ stopped after {record.steps}"
            sheet.text(band.x + LABEL - 0.08, middle, words, ha="right", **style)
    return y + HEAD


def small_photo(record: PhotoRecord, cell: float) -> tuple[float, float]:
    """(width, height) of a whole photo in a cell."""
    return fit(visible(record.photo.true_aspect), cell, cell)


def glance_words(record: PhotoRecord, width: float) -> str:
    assert record.glance_HWC is not None
    high, wide = record.glance_HWC.shape[:2]
    text = f"glance, {wide} × {high} px"
    return text if text_width(text, 7) < width else "glance"


def draw_glance(sheet: Sheet, band: Band, y: float) -> None:
    """The picture of a glance that starts the core, beside the first row of patches."""
    record, cell = band.record, band.cell
    if record.glance_HWC is None or 0 not in band.steps:
        return
    wide, tall = small_photo(record, cell)
    left, top = band.left(0) + (cell - wide) / 2, y + (cell - tall) / 2
    sheet.image(record.glance_HWC, left, top, wide, tall, FAINT, 0.6)


def draw_patches(sheet: Sheet, band: Band, surface: Surface, y: float) -> float:
    """A row for each of the K patches, the narrowest first; returns the y below."""
    record, cell = band.record, band.cell
    if not band.glimpses:
        return y + rows_of(band, surface) * (cell + GAP)
    for k in range(surface.patch_rows):
        row_label(sheet, band.x, y, cell, *patch_words(record, surface, k))
        for step in band.glimpses:
            pixels = surface.patches_TKPPC[step - 1, k]
            sheet.image(pixels, band.left(step), y, cell, cell, record.colours[step - 1])
        y += cell + GAP
    return y


def patch_words(record: PhotoRecord, surface: Surface, k: int) -> list[str]:
    """How wide the patches of a row are: in the stored photo, in the file, and as they are read."""
    box_4, pixels = surface.boxes_TK4[0, k], surface.patches_TKPPC.shape[2]
    wide = float(box_4[2] - box_4[0])
    lines = [f"glimpse, {wide:.0f} {surface.unit} wide"]
    original = wide * record.photo.true_size[1] / record.photo.size[1]
    if not surface.is_map and abs(original - wide) >= 1:
        lines.append(f"({original:.0f} px of the file)")
    if abs(wide - pixels) >= 0.5:
        lines.append(f"→ {pixels} × {pixels}")
    return lines


def row_label(sheet: Sheet, x: float, y: float, tall: float, *lines: str) -> None:
    middle = y + tall / 2 + 0.035 - 0.06 * (len(lines) - 1)
    for number, line in enumerate(lines):
        sheet.text(
            x + LABEL - 0.08, middle + 0.125 * number, fitted(line, LABEL - 0.08, 6.5), ha="right",
            fontsize=6.5, color=QUIET if number else "#1c2430",
        )  # fmt: skip


def draw_foveated(sheet: Sheet, band: Band, y: float) -> float:
    """What was seen of the photo until each step; returns the y below."""
    record = band.record
    if not record.photo_surfaces:
        return y
    wide, tall = small_photo(record, band.cell)
    row_label(sheet, band.x, y, tall, "seen so far")
    for step in band.steps:
        left = band.left(step) + (band.cell - wide) / 2
        sheet.image(foveated(record, step), left, y, wide, tall, FAINT, 0.6)
    return y + tall + GAP


def draw_top_row(sheet: Sheet, band: Band, y: float) -> float:
    """The likeliest classes after each step; returns the y below."""
    record = band.record
    rows, first = top_rows(record), int(beliefs(record)[0][0])
    row_label(sheet, band.x, y, rows * ROW, "belief, %")
    for step in band.steps:
        draw_top(sheet, record, step - first, band.left(step), y, band.cell, ROW)
    return y + rows * ROW + GAP


def rows_of(band: Band, surface: Surface) -> int:
    """Rows that `draw_patches` takes; without glimpses 1, for the glance."""
    return surface.patch_rows if band.glimpses else min(1, surface.patch_rows)


def patches_height(bands: Sequence[Band], *surfaces: Surface) -> float:
    """Inches that `draw_patches` takes."""
    return sum(rows_of(band, each) * (band.cell + GAP) for band in bands for each in surfaces)


def foveated_height(bands: Sequence[Band]) -> float:
    record, cell = bands[0].record, bands[0].cell
    if not record.photo_surfaces:
        return 0.0
    return len(bands) * (small_photo(record, cell)[1] + GAP)


def top_height(bands: Sequence[Band]) -> float:
    return len(bands) * (top_rows(bands[0].record) * ROW + GAP)

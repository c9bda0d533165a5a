"""One photo explained: what the model would have believed elsewhere, and which glimpse decided."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stacked_ram.evaluation.explain_photo import PLACES, PhotoExplanation, explain_photo
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.belief import percent
from stacked_ram.viz.boxes import (
    draw_object,
    draw_surface,
    draw_tag,
    fit,
    view_of,
    view_shape,
    visible,
)
from stacked_ram.viz.figures import draw_title, title_height
from stacked_ram.viz.key import Mark, box_marks, draw_key, key_height, object_marks
from stacked_ram.viz.photo_record import PhotoRecord, Surface
from stacked_ram.viz.records import grey_photo, model_input
from stacked_ram.viz.style import (
    EDGE,
    FAINT,
    INK,
    QUIET,
    RIGHT,
    WRONG,
    Sheet,
    fitted,
    frame,
    is_narrow,
    page_width,
    show_image,
    shrunk,
    styled,
)

BELIEF = mpl.colors.ListedColormap(mpl.colormaps["GnBu"](np.linspace(0, 0.95, 256)))
EVIDENCE = mpl.colormaps["PuOr_r"]  # orange: for the class; purple: against it
SQUARES = 24  # of a patch's evidence, at most, along a side
BAR = 0.15  # inches for one bar under a patch


def ringed(marker: str) -> list[dict[str, Any]]:
    """A white sign with a dark outline."""
    return [
        {"marker": marker, "markersize": 6, "color": colour, "markeredgewidth": line,
         "markerfacecolor": "none"}
        for colour, line in (("#14161a", 3.0), ("#ffffff", 1.4))
    ]  # fmt: skip


PLACES_MARKS: list[Mark] = [
    ("where it looked", {"signs": ringed("x")}),
    ("the best place", {"signs": ringed("o")}),
]


def explain_record(
    run: LoadedRun, record: PhotoRecord, about: int | None = None, places: int = PLACES
) -> PhotoExplanation:
    """Explain what a record shows; the arguments are those of `explain_photo`. Raises UserError for
    one without glimpses."""
    check_explains(run)
    if not record.steps:
        raise UserError(
            f"{record.photo.name}: its glance was enough, so there is no glimpse to explain"
        )
    photo = record.photo
    return explain_photo(
        run, model_input(run.model, [photo]), label=photo.label, about=about, box_4=photo.box_4,
        num_glimpses=record.steps, places=places,
    )  # fmt: skip


def check_explains(run: LoadedRun) -> None:
    """Raise UserError for a model whose answers are not explained."""
    if run.metadata.multi_label:
        raise UserError(
            f"explain: {run.folder} gives a photo several classes, and explanations are of models"
            " that give it one; leave it out"
        )


@styled
def explained_figure(record: PhotoRecord, found: PhotoExplanation) -> Figure:
    """The path; a map for each glimpse; and under each patch what the belief is without it."""
    inner, narrow, title = page_width() - 2 * EDGE, is_narrow(), title_height()
    steps, name = record.steps, found.classes[found.label]
    columns = min(max(steps, 2), int(inner / 1.6))
    rows = -(-steps // columns)
    side = (inner + 0.12) / columns - 0.12
    wide, tall = fit(visible(record.photo.true_aspect), side, 2.3)
    surface = next((each for each in record.surfaces if not each.is_map), record.surfaces[0])
    view = view_of(surface.size, surface.boxes_TK4)
    room = inner * (1 if narrow else 0.5)
    photo_wide, photo_tall = fit(view_shape(record, surface, view), room, 2.9)
    shown = patches_shown(record)
    cell = min(1.1, (side - 0.08) / 2)
    strip = (0 if shown is None else cell + 0.06) + 3 * BAR + 0.4
    top = photo_tall + 1.35 if narrow else max(photo_tall, 1.5)
    aside = 0.3 if narrow else 0.0  # a scale stands below its heading, not beside it
    marks = [*PLACES_MARKS, *box_marks([record]), *object_marks(record)]
    height = (
        title + top + 0.62 + aside + rows * (tall + 0.32) + 0.4 + rows * strip
        + (0 if found.evidence is None else aside) + key_height(marks, inner)
    )  # fmt: skip
    sheet = Sheet(page_width(), height)
    draw_title(sheet, record, EDGE, inner)
    axes = sheet.axes(EDGE, title, photo_wide, photo_tall)
    draw_surface(axes, surface, view, record.colours)
    draw_object(axes, record, surface)
    if narrow:
        draw_words(sheet, record, found, EDGE, title + photo_tall + 0.06, inner)
    else:
        left = photo_wide + 0.2
        draw_words(sheet, record, found, EDGE + left, title, inner - left)
    y = title + top + 0.2
    heading = f"Belief in {name} at the end, with each glimpse elsewhere"
    heading, size = shrunk(heading, inner, 8.5, 7, "bold")
    sheet.text(EDGE, y + 0.06, heading, fontsize=size, fontweight="bold")
    note = fitted("all other glimpses stay where they were", inner, 7)
    sheet.text(EDGE, y + 0.22, note, fontsize=7, color=QUIET)
    y += aside
    draw_scale(sheet, EDGE + inner - 1.7, y + 0.14, 1.7, BELIEF, ("0", "50", "100 %"))
    y += 0.34
    for step in range(steps):
        x = EDGE + step % columns * (side + 0.12)
        row_y = y + step // columns * (tall + 0.32)
        draw_tag(sheet.page, (x + 0.09, row_y + 0.13), str(step + 1), record.colours[step])
        best = float(found.maps_TYX[step].max())
        text = f"best place {percent(best)}"
        sheet.text(x + 0.22, row_y + 0.13, text, fontsize=7, color=QUIET, va="center_baseline")
        draw_map(sheet.axes(x, row_y + 0.25, wide, tall), record, found, step)
    y += rows * (tall + 0.32) + 0.14
    heading = f"Which glimpse decided: belief in {name} at the end"
    heading, size = shrunk(heading, inner, 8.5, 7, "bold")
    sheet.text(EDGE, y + 0.06, heading, fontsize=size, fontweight="bold")
    if found.evidence is not None:
        most = evidence_scale(found)
        y += aside
        sheet.text(EDGE + inner - 1.85, y + 0.06, "evidence, nats a square", fontsize=7,
                   color=QUIET, ha="right")  # fmt: skip
        labels = (f"−{most:.2g}", "0", f"+{most:.2g}")
        draw_scale(sheet, EDGE + inner - 1.7, y - 0.02, 1.7, EVIDENCE, labels)
    y += 0.2
    for step in range(steps):
        x = EDGE + step % columns * (side + 0.12)
        row_y = y + step // columns * strip
        draw_glimpse(sheet, record, found, shown, step, x, row_y, side, cell)
    draw_key(sheet, marks, EDGE, height - key_height(marks, inner), inner)
    return sheet.figure


def draw_words(
    sheet: Sheet, record: PhotoRecord, found: PhotoExplanation, x: float, y: float, width: float
) -> None:
    """What the maps and bars say, in sentences."""
    name = found.classes[found.label]
    step, place = found.best
    best = float(found.forced_TGN[step, place, found.label])
    lines = []
    if found.cause is not None:
        lines.append((f"Cause: {found.cause}", WRONG, "bold"))
    lines.append((f"Belief in {name}: {percent(found.own)}", INK, "bold"))
    if best > found.own + 0.005:
        lines.append((f"best: {percent(best)}, with glimpse {step + 1} elsewhere", INK, "normal"))
    else:
        lines.append(("no other place of one glimpse gives more", INK, "normal"))
    without = float(found.without_T[found.deciding])
    if abs(found.own - without) > 0.005:
        text = f"glimpse {found.deciding + 1} decided: {percent(without)} without it"
    else:
        text = "no single glimpse decided: none would be missed"
    lines.append((text, INK, "normal"))
    rows, columns = found.grid
    lines.append((f"{rows} × {columns} places for each glimpse", QUIET, "normal"))
    if found.calibrated:
        words = f"calibrated (temperature {found.temperature:.2f})"
    else:
        words = "not calibrated: run test --explain first"
    lines.append((words, QUIET, "normal"))
    for number, (text, colour, weight) in enumerate(lines):
        sheet.text(x, y + 0.14 + 0.19 * number, fitted(text, width, 8, weight), color=colour,
                   fontweight=weight)  # fmt: skip


def draw_map(axes: Axes, record: PhotoRecord, found: PhotoExplanation, step: int) -> None:
    """Colours of the belief over the photo, whose light and dark still show."""
    height, width = record.photo.size
    light = grey_photo(record)
    values = found.maps_TYX[step]
    row = (np.arange(light.shape[0]) + 0.5) * values.shape[0] / light.shape[0]
    column = (np.arange(light.shape[1]) + 0.5) * values.shape[1] / light.shape[1]
    colours = BELIEF(values[row.astype(int)[:, None], column.astype(int)])[..., :3]
    show_image(axes, colours * (0.35 + 0.65 * light[..., None]), (0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    frame(axes, FAINT, 0.6)
    best = found.places_G2[int(values.argmax())]
    for location, mark, size in ((record.locations_TS2[step, -1], "x", 6), (best, "o", 8)):
        point = (location + 1) / 2 * (width, height)
        for style in ringed(mark):
            axes.plot(*point, **{**style, "markersize": size}, zorder=8, clip_on=False)


def patches_shown(record: PhotoRecord) -> Surface | None:
    """The surface whose patches stand over the bars."""
    return next((each for each in record.surfaces if each.patch_rows), None)


def draw_glimpse(
    sheet: Sheet, record: PhotoRecord, found: PhotoExplanation, shown: Surface | None, step: int,
    x: float, y: float, width: float, cell: float,
) -> None:  # fmt: skip
    """A glimpse's narrowest patch, the evidence in it, and three bars under it."""
    colour, head = record.colours[step], y + 0.1
    draw_tag(sheet.page, (x + 0.09, head), str(step + 1), colour)
    y += 0.22
    if shown is not None:
        sheet.image(shown.patches_TKPPC[step, 0], x, y, cell, cell, colour)
    if found.evidence is not None:
        total = float(sum(each[step].sum() for each in found.evidence))
        text = f"{total:+.1f} nats".replace("-", "−")
        left = x + cell + 0.08
        sheet.text(left, head, text, fontsize=7, color=QUIET, va="center_baseline")
        values = in_squares(found.evidence[0])[step, 0] / evidence_scale(found)
        sheet.image(EVIDENCE((values + 1) / 2), left, y, cell, cell, colour)
    y += 0 if shown is None else cell + 0.06
    bars = (
        ("as it looked", found.own, INK),
        (f"without {step + 1}", float(found.without_T[step]), RIGHT),
        (f"{step + 1} at random", float(found.elsewhere_T[step]), QUIET),
    )
    left, long = x + 0.74, width - 0.74 - 0.36
    for number, (text, value, tint) in enumerate(bars):
        middle = y + (number + 0.5) * BAR
        style = {"fontsize": 6.5, "va": "center_baseline"}
        sheet.text(left - 0.05, middle, text, ha="right", color=QUIET, **style)
        sheet.bar(left, middle - 0.05, long, 0.1, "#f1f3f6")
        sheet.bar(left, middle - 0.05, long * value, 0.1, tint)
        sheet.text(left + long + 0.04, middle, percent(value), **style)


def in_squares(evidence_TKPP: np.ndarray) -> np.ndarray:
    """Evidence added up over squares of pixels, so that it can be seen."""
    size = evidence_TKPP.shape[-1]
    wide = -(-size // SQUARES)
    count = -(-size // wide)
    room = count * wide - size
    padded = np.pad(evidence_TKPP, ((0, 0), (0, 0), (0, room), (0, room)))
    return padded.reshape(*padded.shape[:2], count, wide, count, wide).sum((3, 5))


def evidence_scale(found: PhotoExplanation) -> float:
    """Nats that have the full colour: 99 of 100 squares have less."""
    assert found.evidence is not None
    return max(float(np.quantile(np.abs(in_squares(found.evidence[0])[:, 0]), 0.99)), 1e-9)


def draw_scale(
    sheet: Sheet, x: float, y: float, width: float, colours: mpl.colors.Colormap,
    labels: tuple[str, str, str],
) -> None:  # fmt: skip
    """A bar of the colours with the values of its ends and middle under it."""
    axes = sheet.axes(x, y - 0.08, width, 0.08)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", extent=(0, 1, 0, 1))
    axes.set(xticks=[0, 0.5, 1], xticklabels=labels, yticks=[])
    axes.tick_params(length=2, labelsize=6.5, pad=1.5)
    axes.spines[:].set_visible(False)
    for label, place in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set(horizontalalignment=place)

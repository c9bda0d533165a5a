"""Colours, type sizes and page layout that all pictures share. Sizes in inches and points."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

from stacked_ram.runs.folder import write_atomically
from stacked_ram.runtime.fonts import families

Width = Literal["column", "page", "slide"]
PAGE = 7.2  # width of a page's text
WIDTHS: dict[Width, tuple[float, int]] = {
    "column": (3.5, 300),
    "page": (PAGE, 200),
    "slide": (5.5, 350),
}
"""Widths of pictures, and dots per inch of PNGs. The type has its size in points at these widths: 6
to 10. A column is that of a paper with two columns; a slide that of a 16:9 page of 160 mm, as LaTeX
has it: over the 13.3 inches of other programs' slides the type is 2.4 times as large."""
SCREEN = 110  # dots per inch of animations
NARROW = 4.5  # in less than this nothing stands beside the photo
EDGE = 0.08
FORMATS = ("png", "svg", "pdf")

INK, QUIET, FAINT, OUTSIDE = "#1c2430", "#5b6675", "#c9cfd8", "#eceef2"
# Okabe and Ito's bluish green and vermilion, which the colour-blind can tell apart, dark enough to
# be read as text on white; a tick or a cross always stands beside them
RIGHT, WRONG, NEUTRAL = "#00785A", "#B94F00", "#56707f"
RUNS = ("#0072B2", "#8B2C8B", "#7A6A00", "#1c2430")  # runs side by side; none means right or wrong

STYLE = mpl.RcParams(
    {
        "font.family": families(),
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": QUIET,
        "axes.linewidth": 0.7,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "text.color": INK,
        "text.hinting": "none",  # a third of the time of text, for coarse screens alone
        "text.parse_math": False,  # a class may be named `$x$`
        "axes.labelcolor": INK,
        "svg.hashsalt": "stacked_ram",
        "svg.fonttype": "none",  # text stays text
        "pdf.fonttype": 42,
        "figure.facecolor": "white",
        "image.composite_image": False,  # in SVG and PDF each keeps its own pixels
    }
)

styled = mpl.rc_context(STYLE)  # decorates functions that make figures

_paper: ContextVar[tuple[float, int]] = ContextVar("paper", default=WIDTHS["page"])


@contextmanager
def drawn_for(width: Width | Literal["screen"]) -> Iterator[None]:
    """Make figures that fit this width, and save them as it needs; `screen`: for animations."""
    token = _paper.set((PAGE, SCREEN) if width == "screen" else WIDTHS[width])
    try:
        yield
    finally:
        _paper.reset(token)


def page_width() -> float:
    """Width of a figure, in inches."""
    return _paper.get()[0]


def is_narrow() -> bool:
    """Whether a figure has no room for text beside its photo."""
    return page_width() < NARROW


@cache
def step_colours(steps: int) -> tuple[str, ...]:
    """A colour for each step, from dark blue (first) to yellow (last), evenly spaced in lightness,
    so that their order shows in grey and with every kind of colour vision."""
    lightness, places = lightness_ramp()
    wanted = np.linspace(lightness[0], lightness[-1], max(steps, 2))[:steps]
    chosen = np.interp(wanted, lightness, places)
    return tuple(mpl.colors.to_hex(mpl.colormaps["plasma"](place)) for place in chosen)


@cache
def lightness_ramp() -> tuple[list[float], np.ndarray]:
    """Lightness at places along the colours of the steps."""
    places = np.linspace(0.02, 0.92, 100)
    ramp = mpl.colormaps["plasma"](places)
    return [lightness_of(mpl.colors.to_hex(colour)) for colour in ramp], places


def lightness_of(colour: str) -> float:
    """CIE L*, 0 (black) to 100 (white)."""
    parts = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16)


def is_dark(colour: str) -> bool:
    red, green, blue = mpl.colors.to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55


def ink_on(colour: str) -> str:
    """Black or white, whichever can be read better on the colour: never less than 4.5 : 1."""
    return "#000000" if lightness_of(colour) > 49.4 else "#ffffff"


def halo_of(colour: str) -> str:
    """A light or dark outline, with which the colour is seen on any photo."""
    return "#ffffff" if is_dark(colour) else "#14161a"


class Sheet:
    """A figure that is drawn on in inches from its top left corner.

    Axes are slow to make, so all that needs none of its own (pictures, bars, numbers) is drawn on
    one that covers the sheet, under the others.
    """

    def __init__(self, width: float, height: float) -> None:
        with mpl.rc_context(STYLE):
            self.figure = Figure(figsize=(width, height))
            FigureCanvasAgg(self.figure)
        self.width, self.height = width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        left, bottom = x / self.width, 1 - (y + height) / self.height
        with mpl.rc_context(STYLE):
            return self.figure.add_axes((left, bottom, width / self.width, height / self.height))

    @cached_property
    def page(self) -> Axes:
        """Axes of the whole sheet, in its inches."""
        axes = self.axes(0, 0, self.width, self.height)
        axes.set(xlim=(0, self.width), ylim=(self.height, 0), zorder=-1)
        axes.axis("off")
        return axes

    def image(
        self, pixels: np.ndarray, x: float, y: float, width: float, height: float,
        colour: str | None = None, line: float = 1.6,
    ) -> None:  # fmt: skip
        """An image in this place, in a frame of this colour (default: none)."""
        show_image(self.page, pixels, (x, x + width, y + height, y))
        if colour is not None:
            edge = Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=line)
            edge.set(zorder=2.5, clip_on=False)
            self.page.add_artist(edge)

    def bar(
        self, x: float, y: float, width: float, height: float, colour: str, alpha: float = 1.0
    ) -> None:
        box = Rectangle((x, y), width, height, facecolor=colour, alpha=alpha, linewidth=0)
        self.page.add_artist(box)

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Text in this place; options: of matplotlib's text, by default size 8 on a baseline."""
        style = {"va": "baseline", "fontfamily": STYLE["font.family"], "color": INK, "fontsize": 8}
        self.figure.text(x / self.width, 1 - y / self.height, text, **{**style, **options})


def show_image(
    axes: Axes, image_HWC: np.ndarray, extent: tuple[float, float, float, float]
) -> None:
    """An image at this place (left, right, bottom, top) of axes whose limits are set: its pixels
    stay pixels where it is enlarged, and are averaged where more are there than can be seen."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inches = np.array(axes.bbox.size) / axes.figure.dpi
    part = np.abs(
        [(extent[1] - extent[0]) / (right - left), (extent[3] - extent[2]) / (top - bottom)]
    )
    fewer = int((np.array(image_HWC.shape[1::-1]) / (inches * part * _paper.get()[1])).min())
    if fewer > 1 and image_HWC.dtype == np.uint8:
        image_HWC = np.asarray(Image.fromarray(image_HWC).reduce(fewer))
    axes.imshow(image_HWC, extent=extent, aspect="auto", interpolation="auto", zorder=1)


def frame(axes: Axes, colour: str, width: float = 1.6) -> None:
    """Axes without ticks, in a frame of this colour."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=width)


def step_ticks(steps: np.ndarray, width: float) -> np.ndarray:
    """The steps that have room for their numbers on an axis of this width in inches."""
    every = max(1, math.ceil(0.17 * len(steps) / max(width, 0.1)))
    kept = steps[::every]
    crowded = len(kept) > 2 and kept[0] == 0 and every * width / len(steps) < 0.3
    return np.delete(kept, 1) if crowded else kept  # "glance" is longer than a number


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2,000 photos`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


@lru_cache(maxsize=8192)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width in inches."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    return TextPath((0, 0), text, prop=font).get_extents().x1 / 72


def fitted(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text, cut with an ellipsis to a width in inches."""
    if text_width(text, size, weight) <= width:
        return text
    for count in range(len(text) - 1, 0, -1):
        cut = text[:count].rstrip() + "…"
        if text_width(cut, size, weight) <= width:
            return cut
    return ""


def shrunk(
    text: str, width: float, size: float, least: float, weight: str = "normal"
) -> tuple[str, float]:
    """The text and a type size that fit a width in inches: the type shrinks down to `least`, then
    the text is cut."""
    while size > least and text_width(text, size, weight) > width:
        size = max(size - 0.25, least)
    return fitted(text, width, size, weight), size


def spread_apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """The places, moved as little as possible until neighbours are `least` apart; same order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [min(max(places[i], low), high) for i in order]
    for _ in range(200):
        worst = 0.0
        for a, b in itertools.pairwise(range(len(moved))):
            lack = least - (moved[b] - moved[a])
            if lack > 1e-9:
                moved[a] -= lack / 2
                moved[b] += lack / 2
                worst = max(worst, lack)
        shift = max(low - moved[0], 0) if moved else 0
        moved = [min(max(place + shift, low), high) for place in moved]
        if worst < 1e-6:
            break
    result = [0.0] * len(places)
    for place, i in zip(moved, order, strict=True):
        result[i] = place
    return result


def figure_bytes(figure: Figure, format: str = "png", dpi: int | None = None) -> bytes:
    """The figure as a file of this format; equal figures give equal bytes. dpi: dots per inch;
    default: what the width needs."""
    content = io.BytesIO()
    dpi = _paper.get()[1] if dpi is None else dpi
    if format == "png":
        # without transparency and loosely packed: half the time of matplotlib's own PNG
        image = Image.fromarray(drawn(figure, dpi)).convert("RGB")
        image.save(content, "png", dpi=(dpi, dpi), compress_level=3)
        return content.getvalue()
    texts = [text.get_text() for text in figure.texts]
    title = texts[0] if texts else None
    metadata = {"svg": {"Date": None, "Title": title}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(STYLE):
        figure.savefig(content, format=format, dpi=dpi, metadata=metadata[format])
    return content.getvalue()


def drawn(figure: Figure, dpi: int) -> np.ndarray:
    """The figure's pixels at this resolution, H x W x 4, uint8."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with mpl.rc_context(STYLE):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure, whole or not at all, in the format of the path's suffix."""
    write_atomically(path, figure_bytes(figure, path.suffix[1:]))
    return path

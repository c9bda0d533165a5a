"""Draw the plots of the report as SVG text, which needs no library and is always the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

from stacked_ram.preparation.records import SPLITS

COLOURS = {"train": "#3567a8", "valid": "#e09f3e", "test": "#6a9a5b"}


def class_balance(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Draw one bar per class, divided by split. `counts`: split -> class -> photos."""
    classes = list(counts["train"])
    totals = {name: sum(counts[split][name] for split in SPLITS) for name in classes}
    most = max([*totals.values(), 1])
    label, bar, row = 220, 640, 19
    parts = []
    for number, name in enumerate(classes):
        y, x = 26 + number * row, float(label)
        shown = name if len(name) <= 32 else name[:31] + "…"
        parts.append(_text(label - 8, y + 12, shown, "end"))
        for split in SPLITS:
            width = counts[split][name] * bar / most
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{row - 4}"'
                f' fill="{COLOURS[split]}"><title>{escape(name)}: {counts[split][name]} {split}'
                "</title></rect>"
            )
            x += width
        parts.append(_text(x + 6, y + 12, str(totals[name])))
    x = label
    for split in SPLITS:
        parts.append(f'<rect x="{x}" y="4" width="12" height="12" fill="{COLOURS[split]}"/>')
        parts.append(_text(x + 17, 14, split))
        x += 90
    return _svg(label + bar + 60, 34 + len(classes) * row, parts)


def sizes_and_ratios(sizes: Iterable[tuple[int, int, int]]) -> str:
    """Draw width against height (darker for more photos), and the aspect ratios.

    Args:
        sizes: (width, height, number of photos of that size).
    """
    cells: dict[tuple[int, int], int] = {}
    ratios: dict[int, int] = {}
    found = list(sizes)
    longest = max([max(width, height) for width, height, _ in found] + [1])
    for width, height, count in found:
        cell = (min(width * 40 // longest, 39), min(height * 40 // longest, 39))
        cells[cell] = cells.get(cell, 0) + count
        # Steps of a tenth of an octave, so that 2:1 and 1:2 are equally far from 1:1.
        step = max(-20, min(20, round(10 * math.log2(width / height))))
        ratios[step] = ratios.get(step, 0) + count
    return _size_plot(cells, longest) + _ratio_plot(ratios)


def _size_plot(cells: Mapping[tuple[int, int], int], longest: int) -> str:
    side, left, top = 8, 60, 10
    edge = 40 * side
    most = max([*cells.values(), 1])
    parts = [f'<rect x="{left}" y="{top}" width="{edge}" height="{edge}" fill="#f3f5f8"/>']
    for (column, row), count in sorted(cells.items()):
        strength = 0.25 + 0.75 * math.log1p(count) / math.log1p(most)
        parts.append(
            f'<rect x="{left + column * side}" y="{top + edge - (row + 1) * side}" width="{side}"'
            f' height="{side}" fill="{COLOURS["train"]}" fill-opacity="{strength:.2f}">'
            f"<title>{count} photos</title></rect>"
        )
    parts += [
        _text(left, top + edge + 16, "0"),
        _text(left + edge, top + edge + 16, f"{longest} px", "end"),
        _text(left + edge / 2, top + edge + 16, "width", "middle"),
        _text(left - 6, top + 12, str(longest), "end"),
        _text(left - 6, top + edge / 2, "height", "end"),
    ]
    return _svg(left + edge + 20, top + edge + 28, parts)


def _ratio_plot(ratios: Mapping[int, int]) -> str:
    left, top, step_width, tall = 20, 10, 12, 320
    most = max([*ratios.values(), 1])
    parts = []
    for step in range(-20, 21):
        height = ratios.get(step, 0) * (tall - 20) / most
        x = left + (step + 20) * step_width
        parts.append(
            f'<rect x="{x}" y="{top + tall - height:.1f}" width="{step_width - 2}"'
            f' height="{height:.1f}" fill="{COLOURS["train"]}">'
            f"<title>{2 ** (step / 10):.2f}: {ratios.get(step, 0)} photos</title></rect>"
        )
    for step, name in [(-20, "≤ 1:4"), (-10, "1:2"), (0, "1:1"), (10, "2:1"), (20, "≥ 4:1")]:
        middle = left + (step + 20.4) * step_width
        parts.append(_text(middle, top + tall + 16, name, "middle"))
    parts.append(_text(left + 250, top + 12, "width : height", "middle"))
    return _svg(left + 41 * step_width + 30, top + tall + 28, parts)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>'
    )

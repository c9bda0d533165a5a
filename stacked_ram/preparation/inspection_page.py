"""Write inspection.html: what `inspect_photos` found, with pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from stacked_ram.preparation.report import MOST_PICTURES, STYLE, figure, fixes_bar, small_jpeg_of
from stacked_ram.preparation.workdir import write_bytes

if TYPE_CHECKING:
    import pandas

MEANING = {
    "likely_mislabelled": "Likely mislabelled: other photos predict another class",
    "far_from_class": "Unlike the rest of their class",
    "copy": "Copies of another photo, mirrored, turned, cropped or framed",
    "dark": "Dark: 99 % of the pixels are darker than the number (of 255)",
    "overexposed": "Overexposed: 95 % of the pixels are brighter than the number (of 255)",
    "flat": "Flat: the grey values hardly vary (standard deviation)",
    "blurred": "Blurred: fine detail as a fraction of coarser detail",
    "odd_size": "Of an unusual size",
    "odd_shape": "Of an unusual shape",
}


def write_inspection_page(
    folder: Path, table: pandas.DataFrame, manifest: pandas.DataFrame
) -> None:
    """Write the page. table: the findings, sorted. manifest: of the data set."""
    name = escape(folder.name)
    source_of = dict(zip(manifest["path"], manifest["source"], strict=True))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: inspection'
        f"</title><style>{STYLE}</style></head><body><h1>{name}: inspection</h1>"
        f'<p class="quiet">{len(table)} findings in {len(manifest)} photos; inspection.csv lists'
        " all. A finding is a reason to look, not a verdict.</p>"
    ]
    with ThreadPoolExecutor(thread_name_prefix="thumbnail") as threads:
        for problem, rows in table.groupby("problem", observed=True, sort=True):
            shown = rows.head(MOST_PICTURES)
            limit = (
                f'<p class="quiet">The first {len(shown)}.</p>' if len(rows) > len(shown) else ""
            )
            heading = escape(MEANING[str(problem)])
            parts.append(f'<h2>{heading} ({len(rows)})</h2>{limit}<div class="pictures">')
            names = [[row.path, *([row.other] if row.other else [])] for row in shown.itertuples()]
            pictures = threads.map(small_jpeg_of, [str(folder / n) for both in names for n in both])
            for row, both in zip(shown.itertuples(), names, strict=True):
                sources = [source_of[name] for name in both]
                shown_photos = [next(pictures) for _ in both]
                parts.append(figure(shown_photos, str(row[2]), sources, row.detail))
            parts.append("</div>")
    parts.append(fixes_bar(folder, sorted(set(manifest["class"]))))
    write_bytes(folder / "inspection.html", "".join([*parts, "</body></html>\n"]).encode())

"""Write report.html, which shows a data set in one self-contained file.

Its buttons note fixes of photos, and write them as a CSV for --fixes.
"""

from __future__ import annotations

import base64
import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from stacked_ram.preparation import plots
from stacked_ram.preparation.encoding import TILE, small_jpeg, thumbnail_of
from stacked_ram.preparation.fixes import FILE as FIXES
from stacked_ram.preparation.fixes import Fix, read_fixes
from stacked_ram.preparation.multi_label import has_label, photo_counts
from stacked_ram.preparation.records import SPLITS

REPORT_COLUMNS = ("source", "class", "fate", "problem", "detail", "repairs", "path")
# The tables of photos that are shown alone and in pairs.
LISTS = """
CREATE TABLE left_out (source TEXT, class TEXT, fate TEXT, problem TEXT, detail TEXT,
    preview BLOB);
CREATE TABLE pairs (caption TEXT, source TEXT, other TEXT, first, second);
"""
SHEET_TILES = 12
MOST_PICTURES = 200  # most quarantined photos, and most pairs, shown; report.csv lists all

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1220px; margin: 2em auto; padding: 0 1em;
  color: #1c2430; background: #fff; }
h1 { margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 1px solid #d5dae1 }
h3 { margin: 1.2em 0 .3em; font-size: 1em } .quiet { color: #5b6675 }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left;
  vertical-align: top } td.number { text-align: right }
.sheet { max-width: 100%; height: auto; border-radius: 3px; display: block }
.pictures { display: flex; flex-wrap: wrap; gap: 14px }
figure { margin: 0; width: 210px } figure img { max-height: 96px; margin-right: 4px }
figcaption { font-size: 12px; overflow-wrap: anywhere } .none { width: 96px; height: 64px;
  background: #e6e9ee; display: inline-block; text-align: center; line-height: 64px;
  font-size: 12px; color: #5b6675 }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #3a4554 }
"""


def write_report(tree: Path, rows: sqlite3.Connection, info: Mapping[str, Any]) -> None:
    """Write `tree/report.html` for a data set of photos.

    Args:
        tree: the folder of the data set, with its photos.
        rows: the writer's tables `stored`, `left_out` and `pairs`.
        info: the content of dataset.yaml.
    """
    # Decoding releases the interpreter lock, so threads suffice.
    with ThreadPoolExecutor(thread_name_prefix="thumbnail") as threads:
        sizes = rows.execute("SELECT width, height, count(*) FROM stored GROUP BY width, height")
        write_pages(
            tree,
            info,
            ((name, *_tiles(tree, rows, name, info, threads)) for name in info["classes"]),
            before=[
                "<h2>Sizes and aspect ratios of the stored photos</h2>",
                plots.sizes_and_ratios(sizes),
            ],
            after=itertools.chain(
                left_out_figures(rows),
                pair_figures(rows, threads),
                [] if info.get("labels") == "several" else [fixes_bar(tree, info["classes"])],
            ),
        )


def write_pages(
    tree: Path,
    info: Mapping[str, Any],
    sheets: Iterable[tuple[str, Sequence[Image.Image], Sequence[str]]],
    before: Iterable[str] = (),
    after: Iterable[str] = (),
) -> None:
    """Write `tree/report.html`.

    Args:
        info: the content of dataset.yaml.
        sheets: (class name, small pictures of the class, the photos' paths in the source if they
            can be fixed) for every class.
        before, after: HTML to insert before and after the contact sheets.
    """
    with open(tree / "report.html", "w", encoding="utf-8") as file:
        name = escape(str(info["name"]))
        file.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>{STYLE}</style></head><body><h1>{name}</h1>"
        )
        file.writelines(_summary(info))
        file.write("<h2>Class balance</h2>" + plots.class_balance(info["counts"]))
        file.writelines(before)
        file.write("<h2>Contact sheets</h2>")
        for class_name, tiles, files in sheets:
            counts = {split: info["counts"][split][class_name] for split in SPLITS}
            file.write(_contact_sheet(class_name, counts, tiles, files))
        file.writelines(after)
        file.write("</body></html>\n")


def _summary(info: Mapping[str, Any]) -> Iterable[str]:
    totals = ", ".join(f"{count} {split}" for split, count in photo_counts(info).items())
    numbers = ", ".join(f"{value:.3f}" for value in info["mean"])
    spreads = ", ".join(f"{value:.3f}" for value in info["std"])
    lines = [
        (info["kind"], totals),
        ("classes", str(len(info["classes"]))),
        ("read as", info["layout"]),
        ("split", info["rule"]),
        ("mean, std of train", f"{numbers}; {spreads}"),
        ("repaired", _counted(info["repaired"])),
        ("not in the data set", _counted(info["left_out"])),
        ("command", info["command"]),
    ]
    yield "<table>"
    for key, value in lines:
        yield f'<tr><td class="quiet">{key}</td><td>{escape(str(value))}</td></tr>'
    yield "</table>"
    if info["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in info["notes"])
        yield f"<ul>{items}</ul>"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"


def _tiles(
    tree: Path,
    rows: sqlite3.Connection,
    class_name: str,
    info: Mapping[str, Any],
    threads: Executor,
) -> tuple[list[Image.Image], list[str]]:
    """Return small pictures of a dozen photos of a class, and their paths in the source.

    Photos are ordered by hash: a random choice.
    """
    condition = has_label("class") if info.get("labels") == "several" else "class = ?"
    chosen = rows.execute(
        f"SELECT path, preview, source FROM stored WHERE {condition} ORDER BY sha256, path LIMIT ?",
        [class_name, SHEET_TILES],
    ).fetchall()
    pictures = [tree / path if preview is None else preview for path, preview, _ in chosen]
    return list(threads.map(thumbnail_of, pictures)), [source for *_, source in chosen]


def _contact_sheet(
    class_name: str, counts: Mapping[str, int], tiles: Sequence[Image.Image], files: Sequence[str]
) -> str:
    """Return the HTML of one class: its name, its photos per split, and its tiles in one strip."""
    totals = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    head = f'<h3>{escape(class_name)} <span class="quiet">{totals}</span></h3>'
    if not tiles:
        return head
    sheet = Image.new("RGB", (len(tiles) * (TILE + 4) - 4, TILE), "white")
    for number, tile in enumerate(tiles):
        left = number * (TILE + 4) + (TILE - tile.width) // 2
        sheet.paste(tile, (left, (TILE - tile.height) // 2))
    source = _data_uri(small_jpeg(sheet))
    picture = f'<img class="sheet" alt="{escape(class_name)}" src="{source}">'
    return (
        f'{head}<div class="strip" data-files="{escape(json.dumps(list(files)))}">{picture}</div>'
    )


def left_out_figures(rows: sqlite3.Connection) -> Iterable[str]:
    """Yield the HTML of the photos of the table `left_out`."""
    total = rows.execute("SELECT count(*) FROM left_out").fetchone()[0]
    if not total:
        return
    yield _heading("Not in the data set", total)
    for source, fate, problem, detail, preview in rows.execute(
        # Photos before files that are none, which may be very many.
        "SELECT source, fate, problem, detail, preview FROM left_out"
        " ORDER BY problem = 'not_an_image', problem, source LIMIT ?",
        [MOST_PICTURES],
    ):
        caption = f"{problem} ({fate})"
        yield figure([preview], caption, [source], detail)
    yield "</div>"


def pair_figures(rows: sqlite3.Connection, threads: Executor) -> Iterable[str]:
    """Yield the HTML of the photos of the table `pairs`."""
    total = rows.execute("SELECT count(*) FROM pairs").fetchone()[0]
    if not total:
        return
    yield _heading("Copies, and photos that look alike", total)
    query = "SELECT caption, source, other, first, second FROM pairs LIMIT ?"
    shown = rows.execute(query, [MOST_PICTURES]).fetchall()
    pictures = threads.map(small_jpeg_of, [picture for row in shown for picture in row[3:]])
    for caption, source, other, _, _ in shown:
        yield figure([next(pictures), next(pictures)], caption, [source, other])
    yield "</div>"


def small_jpeg_of(picture: bytes | str) -> bytes:
    return picture if isinstance(picture, bytes) else small_jpeg(thumbnail_of(Path(picture)))


def _heading(title: str, total: int) -> str:
    limit = f'<p class="quiet">The first {MOST_PICTURES}.</p>' if total > MOST_PICTURES else ""
    return f'<h2>{title} ({total})</h2>{limit}<div class="pictures">'


def figure(
    pictures: Sequence[bytes | None], caption: str, files: Sequence[str], detail: str = ""
) -> str:
    """Return pictures with a caption, and with their paths in the source, each with its buttons."""
    shown = "".join(
        f'<img alt="" src="{_data_uri(picture)}">'
        if picture
        else '<span class="none">no picture</span>'
        for picture in pictures
    )
    names = "".join(
        f'<div>{escape(file)}</div><div class="fix" data-file="{escape(file)}"></div>'
        for file in dict.fromkeys(files)
    )
    return (
        f"<figure>{shown}<figcaption><b>{escape(caption)}</b> {escape(detail)}{names}</figcaption>"
        "</figure>"
    )


def fixes_bar(tree: Path, classes: Sequence[str]) -> str:
    """Return the bar that shows and downloads the fixes, with the script of all buttons.

    It begins with the fixes that the data set was made with, so that none is lost when a person
    adds more.
    """
    page = Path(__file__).with_name("page")
    made_with: list[Fix] = read_fixes(tree / FIXES) if (tree / FIXES).exists() else []
    data = {
        "classes": list(classes),
        "splits": SPLITS,
        "fixes": [[fix.file, fix.kind, fix.value] for fix in made_with],
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f"<style>{(page / 'fixes.css').read_text(encoding='utf-8')}</style>"
        '<aside id="fixes" hidden><b id="fix-count"></b>'
        ' <button type="button" id="fix-download">Download fixes.csv</button>'
        ' <button type="button" id="fix-clear">Remove all</button>'
        ' <span class="quiet"><span id="fix-hint" hidden>Click a photo of a contact sheet to fix'
        " it.</span> The command with <code>--fixes fixes.csv --overwrite</code> applies them."
        "</span>"
        '<details><summary>Show</summary><pre id="fix-list"></pre></details></aside>'
        f'<script type="application/json" id="fix-data">{text}</script>'
        f"<script>{(page / 'fixes.js').read_text(encoding='utf-8')}</script>"
    )


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")

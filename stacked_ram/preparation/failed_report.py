"""Leave a report of why a run failed, beside DEST: NAME.failed/report.html and report.csv."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.encoding import small_jpeg, thumbnail_of
from stacked_ram.preparation.fixes import FILE as FIXES
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.report import (
    LISTS,
    MOST_PICTURES,
    REPORT_COLUMNS,
    STYLE,
    fixes_bar,
    left_out_figures,
    pair_figures,
)
from stacked_ram.preparation.workdir import publish, remove_tree, working_folder, write_table

_FILES = {"report.html", "report.csv", FIXES}


def failed_folder(dest: Path) -> Path:
    """Return the folder of the report, beside DEST."""
    return dest.parent / f"{dest.name}.failed"


def remove_failed_report(dest: Path) -> None:
    """Remove the report of an earlier run that failed, but no folder with other files."""
    folder = failed_folder(dest)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= _FILES:
        remove_tree(folder)


def write_failed_report(
    catalogue: Catalogue,
    options: PrepareOptions,
    reason: str,
    command: str,
    pairs: Iterable[tuple[str, int, int]],
) -> Path | None:
    """Write the report; return its folder, or None if it could not be written.

    Args:
        reason: why the run failed.
        pairs: (caption, number, number) of photos that are copies or look alike.
    """
    folder = failed_folder(options.dest)
    remove_failed_report(options.dest)
    if folder.exists():  # not ours
        return None
    tree = working_folder(folder)
    try:
        remove_tree(tree)
        tree.mkdir(parents=True)
        _write(tree, catalogue, options, reason, command, pairs)
        publish(tree, folder)
    except (OSError, sqlite3.Error):  # such as a full disk: the reason of the failure is shown
        with contextlib.suppress(OSError):
            remove_tree(tree)
        return None
    return folder


def _write(
    tree: Path,
    catalogue: Catalogue,
    options: PrepareOptions,
    reason: str,
    command: str,
    pairs: Iterable[tuple[str, int, int]],
) -> None:
    write_table(tree / "report.csv", REPORT_COLUMNS, _rows(catalogue))
    if options.fixes_content is not None:
        (tree / FIXES).write_bytes(options.fixes_content)
    total, usable = catalogue.class_counts(), catalogue.class_counts(usable=True)
    with (
        contextlib.closing(sqlite3.connect("")) as rows,  # a temporary file
        ThreadPoolExecutor(thread_name_prefix="thumbnail") as threads,
        open(tree / "report.html", "w", encoding="utf-8") as file,
    ):
        rows.executescript(LISTS)
        for number, photo in enumerate(catalogue.not_in_dataset()):
            *values, preview, stored = photo
            if preview is None and stored is not None and number < MOST_PICTURES:
                preview = small_jpeg(thumbnail_of(stored))
            rows.execute("INSERT INTO left_out VALUES (?,?,?,?,?,?)", [*values, preview])
        for caption, first, second in pairs:
            names = (catalogue.source_of(number) for number in (first, second))
            pictures = [catalogue.picture(number) for number in (first, second)]
            shown = (p if isinstance(p, bytes) else str(p) for p in pictures)
            rows.execute("INSERT INTO pairs VALUES (?,?,?,?,?)", [caption, *names, *shown])
        name = escape(options.dest.name)
        file.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: not '
            'prepared</title><meta name="viewport" content="width=device-width">'
            f"<style>{STYLE}</style></head><body><h1>{name}: not prepared</h1>"
            f'<p><b>{escape(reason)}</b></p><p class="quiet">{escape(command)}</p>'
            "<h2>Photos</h2><table><tr><th>class</th><th>in the source</th><th>usable</th></tr>"
        )
        for class_name, count in total.items():
            file.write(
                f'<tr><td>{escape(class_name)}</td><td class="number">{count}</td>'
                f'<td class="number">{usable.get(class_name, 0)}</td></tr>'
            )
        file.write(
            '</table><p class="quiet">Of the photos checked so far, which report.csv lists.</p>'
        )
        file.writelines(left_out_figures(rows))
        file.writelines(pair_figures(rows, threads))
        if not catalogue.multi_label:  # for which there are no fixes
            file.write(fixes_bar(tree, list(total)))
        file.write("</body></html>\n")


def _rows(catalogue: Catalogue) -> Iterator[tuple[str, ...]]:
    for source, name, repairs in catalogue.usable():
        yield source, name, "usable", "", "", repairs, ""
    for source, name, fate, problem, detail, _, _ in catalogue.not_in_dataset():
        yield source, name, fate, problem, detail, "", ""

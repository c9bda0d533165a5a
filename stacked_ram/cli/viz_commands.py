"""What `viz.py` does, command by command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import check_folder
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import compare
from stacked_ram.viz.animation import draw_frames, write_gif, write_mp4
from stacked_ram.viz.attention_map import attention_figure
from stacked_ram.viz.draw import (
    Drawer,
    draw_one_per_class,
    draw_photos,
    draw_whole,
    sample,
    stem,
)
from stacked_ram.viz.records import Photo, PhotoRecord, look_as_tested
from stacked_ram.viz.sources import Split, photo_files, read_files
from stacked_ram.viz.whole_set import WholeSet, look_at_all

if TYPE_CHECKING:
    from stacked_ram.cli.viz_options import Viz


def run(options: Viz) -> None:
    """Do what the options ask. Prints the files that were written."""
    if options.app:
        from stacked_ram.viz.app import serve

        serve(options)
        return
    if options.out is not None:
        check_folder(options.out)
    chosen = load_run(options.run, options.device)
    other = None if options.compare is None else load_run(options.compare, options.device)
    if other is not None and other.classes != chosen.classes:
        raise UserError(
            f"--compare: {options.compare} knows other classes than {options.run}; compare runs"
            " on the same data set"
        )
    if options.report:
        from stacked_ram.viz.report import write_report

        path = write_report(chosen, options)
        print(f"wrote {path}")
        return
    drawer = Drawer(options.out or chosen.folder / "pictures", options.format)
    if options.named:
        photos = read_files(chosen, limited(options))
        if other is not None:
            draw_compared(drawer, chosen, other, photos, read_files(other, limited(options)))
        else:
            draw_all(drawer, chosen, photos, options)
    else:
        draw_from_data_set(drawer, chosen, other, options)
    for path in drawer.files:
        print(path)


def limited(options: Viz) -> list[Path]:
    """The named photos, at most --limit; says so where there are more."""
    files = photo_files(options.named)
    if len(files) > options.most:
        print(f"drawing {options.most} of {len(files)} photos; --limit {len(files)} draws all")
    return files[: options.most]


def draw_from_data_set(
    drawer: Drawer, chosen: LoadedRun, other: LoadedRun | None, options: Viz
) -> None:
    """Pictures of the run's own data set."""
    split = Split(chosen, options.split, options.dataset)
    try:
        if options.one_per_class:
            draw_one_per_class(drawer, chosen, split, look_at_all(chosen, split))
        elif other is not None:
            compare_whole(drawer, chosen, other, split, options)
        else:
            draw_whole(drawer, chosen, split, look_at_all(chosen, split))
            draw_all(drawer, chosen, sample(split, options.most), options)
    finally:
        split.close()


def compare_whole(
    drawer: Drawer, chosen: LoadedRun, other: LoadedRun, split: Split, options: Viz
) -> None:
    """Both runs on one split. Raises UserError where it holds other photos for the other run."""
    other_split = Split(other, options.split, split.dataset.folder)
    try:
        if other_split.dataset.names != split.dataset.names:
            raise UserError(
                f"--compare: for {options.compare} the {options.split} split holds other photos"
                f" than for {options.run} (their fold or train_on differ); leave out --split: the"
                " test split is the same for both"
            )
        wholes = look_at_both(chosen, other, split, other_split)
        drawer.save("compare", compare.compare_overview(wholes, names_of(chosen, other)))
        rows = compare.telling(*wholes, min(options.most, compare.PHOTOS))
        draw_compared(drawer, chosen, other, split.photos(rows), other_split.photos(rows))
    finally:
        other_split.close()


def look_at_both(
    chosen: LoadedRun, other: LoadedRun, split: Split, other_split: Split
) -> tuple[WholeSet, WholeSet]:
    """Both runs' passes over the photos that both can read where they look; the others are taken
    out of both splits."""
    whole = look_at_all(chosen, split)
    other_split.keep_named(whole.names)
    other_whole = look_at_all(other, other_split)
    if other_whole.names != whole.names:
        split.keep_named(other_whole.names)
        whole = look_at_all(chosen, split)
    return whole, other_whole


def draw_all(drawer: Drawer, chosen: LoadedRun, photos: Sequence[Photo], options: Viz) -> None:
    """One by one, with maps and animations where asked for."""
    how = {"num_glimpses": options.glimpses}
    draw_photos(drawer, chosen, photos, separate=options.separate, **how)
    if not (options.attention or options.animate):
        return
    seen = list(look_as_tested(chosen, photos, **how))
    for one in seen:
        if options.attention:
            drawer.save(f"{stem(one.photo)}_attention", attention_figure(one, chosen.model))
        if options.animate:
            animate(drawer, stem(one.photo), [one])
    if options.animate and len(seen) > 1:
        animate(drawer, "grid", seen)


def animate(drawer: Drawer, name: str, photos: Sequence[PhotoRecord]) -> None:
    """A GIF and an MP4."""
    frames = draw_frames(photos)
    drawer.files.append(write_gif(frames, drawer.free(name, "gif")))
    drawer.files.append(write_mp4(frames, drawer.free(name, "mp4")))


def draw_compared(
    drawer: Drawer,
    chosen: LoadedRun,
    other: LoadedRun,
    photos: Sequence[Photo],
    others: Sequence[Photo],
) -> None:
    """Sheets of a few photos each, of those that both runs could read."""
    theirs = {one.photo.key: one for one in look_as_tested(other, others)}
    pairs = [
        (one, theirs[one.photo.key])
        for one in look_as_tested(chosen, photos)
        if one.photo.key in theirs
    ]
    if not pairs:
        raise UserError("--compare: no photo that both runs could read")
    for start in range(0, len(pairs), compare.PHOTOS):
        part = pairs[start : start + compare.PHOTOS]
        drawer.save("compare_photos", compare.compare_figure(part, names_of(chosen, other)))


def names_of(chosen: LoadedRun, other: LoadedRun) -> tuple[str, str]:
    """The folders' names, or where these agree, with the files'."""
    names = chosen.folder.resolve().name, other.folder.resolve().name
    if names[0] != names[1]:
        return names
    return f"{names[0]}/{chosen.path.stem}", f"{names[1]}/{other.path.stem}"

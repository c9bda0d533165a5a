"""Draw a run: the pictures that `viz.py` and the demo write as files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from stacked_ram.data.dataset import stratified
from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import check_folder
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import animation, explained_set, figures, gallery
from stacked_ram.viz.attention_map import attention_figure
from stacked_ram.viz.explained import check_explains, explain_record, explained_figure
from stacked_ram.viz.overview import overview_figure
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.photos import Photo, Split, evenly, photo_files, read_files
from stacked_ram.viz.records import MapColours, map_colours, record_photos
from stacked_ram.viz.style import FORMATS, counted, save_figure
from stacked_ram.viz.whole_set import WholeSet, chosen_threshold, record_split, warnings

log = logging.getLogger(__name__)

SplitName = Literal["test", "valid", "train"]
LIMIT = 12
SAMPLE = 16  # photos that colours of feature maps are fitted on


class Drawer:
    """Write pictures into a folder, and keep a list of them."""

    def __init__(self, folder: str | Path, format: str = "png") -> None:
        if format not in FORMATS:
            raise UserError(f"format: `{format}` is none of {', '.join(FORMATS)}")
        self.folder, self.format = Path(folder), format
        check_folder(self.folder)
        self.files: list[Path] = []

    def save(self, name: str, figure: Figure) -> None:
        self.files.append(save_figure(figure, self.free(name, self.format)))

    def free(self, name: str, format: str) -> Path:
        """A path for a picture of this name, unlike those written before."""
        base = re.sub(r"[^\w.-]+", "_", name).strip("._") or "photo"
        path, number = self.folder / f"{base}.{format}", 2
        while path in self.files:
            path, number = self.folder / f"{base}_{number}.{format}", number + 1
        return path


def draw_run(
    run: str | Path | LoadedRun,
    photos: Iterable[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    format: str = "png",
    limit: int = LIMIT,
    num_glimpses: int | None = None,
    stop: Stop | None = None,
    separate: bool = False,
    attention: bool = False,
    explain: bool = False,
    animate: bool = False,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw one picture of each photo. Returns the files.

    Without photos: an overview and galleries of a whole split, and a picture of each photo of a
    sample of it.

    Args:
        photos: files and folders.
        out: folder. Default: RUN/pictures.
        limit: the most photos to draw one by one.
        num_glimpses: at each photo. Default: the run's.
        stop: when to look no longer at a photo. Default: never before the last glimpse.
        separate: draw scan path, patch strip and belief as a picture each.
        attention: also draw maps of the attention at each step.
        explain: also draw whether it mattered where the model looked; without photos, of mistakes
            by their causes, as `test --explain` found them.
        animate: also write each photo as GIF and MP4, and all of them as one grid.
        split: of the run's data set, where no photos are given.
        dataset: where the data set lies now. Default: where it was in training.

    Raises UserError where the run or the data set cannot be read, or none of the photos.
    """
    run = loaded(run, device)
    if explain:
        check_explains(run)
    drawer = Drawer(out or run.folder / "pictures", format)
    draw = partial(
        draw_photos, drawer, run, num_glimpses=num_glimpses, stop=stop, separate=separate,
        attention=attention, explain=explain, animate=animate,
    )  # fmt: skip
    if photos is not None:
        read = read_files(run, evenly(photo_files(photos), limit))
        draw(read, colours=map_colours(run, read))
        return drawer.files
    causes = explained_set.read_causes(run.folder, split) if explain else None
    with Split(run, split, dataset) as opened:
        whole = record_split(run, opened, stop)
        colours = split_colours(run, opened)
        draw_split(drawer, run, opened, whole, colours)
        if causes is None:
            draw(opened.photos(stratified(opened.dataset.labels, limit)), colours=colours)
        else:
            draw(draw_causes(drawer, run, opened, causes, limit), colours=colours)
    return drawer.files


def draw_causes(
    drawer: Drawer, run: LoadedRun, split: Split, causes: dict[str, list[str]], limit: int
) -> list[Photo]:
    """Draw the explanation of a split, and a gallery of mistakes by their causes; returns as many
    photos of each cause, `limit` in all."""
    name = split.dataset.split
    title = f"{run.folder.name}: {split.dataset.name}, {name} split"
    arrays = explained_set.read_explained(run.folder, name)
    drawer.save("explained", explained_set.explained_set_figure(arrays, title))
    row_of = {name: row for row, name in enumerate(split.dataset.names)}
    each = -(-limit // max(len(causes), 1))
    photos = {
        cause: split.photos([row_of[path] for path in paths if path in row_of][:each])
        for cause, paths in causes.items()
    }
    groups = [
        (f"{cause} ({counted(len(causes[cause]), 'photo')})", list(record_photos(run, some)))
        for cause, some in photos.items()
        if some
    ]
    if groups:
        more = "those first that one better place would help most"
        figure = gallery.rows_figure(groups, "Mistakes by cause", more, gallery.COLUMNS)
        drawer.save("gallery_causes", figure)
    return [photo for some in photos.values() for photo in some][:limit]


def draw_one_per_class(
    run: str | Path | LoadedRun,
    *,
    out: str | Path | None = None,
    format: str = "png",
    stop: Stop | None = None,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw one photo of each class in a row, that of median confidence. Returns the file."""
    run = loaded(run, device)
    drawer = Drawer(out or run.folder / "pictures", format)
    with Split(run, split, dataset) as opened:
        rows = gallery.one_per_class(record_split(run, opened, stop))
        photos = opened.photos(rows)
        how: dict[str, Any] = {"stop": stop, "colours": split_colours(run, opened)}
        records = list(record_photos(run, photos, skip_unreadable=True, **how))
    more, columns = "that of median confidence", min(8, len(records))
    figure = gallery.rows_figure([("", records)], "One photo of each class", more, columns)
    drawer.save("one_per_class", figure)
    return drawer.files


def split_colours(run: LoadedRun, split: Split) -> MapColours | None:
    """Colours of feature maps for all pictures of a split, fitted on a sample of it."""
    rows = stratified(split.dataset.labels, SAMPLE)
    return map_colours(run, (split.photo(int(row)) for row in rows))


def loaded(run: str | Path | LoadedRun, device: str = "auto") -> LoadedRun:
    return run if isinstance(run, LoadedRun) else load_run(run, device)


def stem(photo: Photo) -> str:
    """The start of the names of a photo's pictures: its path inside the data set, its name, or
    (digits) its split and row."""
    path, _, row = photo.name.partition("/images.npy:")
    if row:
        return f"{path}_{row}"
    return Path(path).with_suffix("").as_posix().replace("/", "_")


def draw_photos(
    drawer: Drawer,
    run: LoadedRun,
    photos: Iterable[Photo],
    *,
    num_glimpses: int | None = None,
    stop: Stop | None = None,
    colours: MapColours | None = None,
    separate: bool = False,
    attention: bool = False,
    explain: bool = False,
    animate: bool = False,
) -> None:
    """Draw photos one by one. colours: of feature maps; the other options are those of
    `draw_run`."""
    grid = []
    how: dict[str, Any] = {"num_glimpses": num_glimpses, "stop": stop, "colours": colours}
    for record in record_photos(run, photos, skip_unreadable=True, **how):
        name = stem(record.photo)
        if separate:
            for part, figure in figures.PARTS.items():
                drawer.save(f"{name}_{part}", figure(record))
        else:
            drawer.save(name, figures.story(record))
        if attention and not record.steps:
            log.warning("%s: the glance was enough; there is no attention to draw", name)
        elif attention:
            drawer.save(f"{name}_attention", attention_figure(record, run.model))
        if explain and not record.steps:
            log.warning("%s: the glance was enough; there is no glimpse to explain", name)
        elif explain:
            found = explain_record(run, record)
            drawer.save(f"{name}_explained", explained_figure(record, found))
        if animate:
            save_animations(drawer, name, [record])
            grid.append(record)
    if len(grid) > 1:
        save_animations(drawer, "grid", grid)


def save_animations(drawer: Drawer, name: str, records: list[PhotoRecord]) -> None:
    for format in animation.formats():
        drawer.files.append(animation.save(records, drawer.free(name, format)))


def draw_split(
    drawer: Drawer,
    run: LoadedRun,
    split: Split,
    whole: WholeSet,
    colours: MapColours | None = None,
) -> None:
    """Draw the overview of a split and its galleries; logs a warning about a collapsed policy.
    colours: of feature maps."""
    for note in warnings(whole):
        log.warning("warning: %s", note)
    photos = counted(len(whole.labels_N), "photo")
    title = f"{run.folder.name}: {photos} of {whole.dataset}, {whole.split} split"
    drawer.save("overview", overview_figure(whole, title, chosen_threshold(run, whole)))

    def records(rows: Iterable[int]) -> list[PhotoRecord]:
        photos = split.photos(rows)
        how: dict[str, Any] = {"stop": whole.stop, "colours": colours}
        return list(record_photos(run, photos, skip_unreadable=True, **how))

    for name, (title, choose) in gallery.choices(whole).items():
        rows = choose(whole, gallery.PHOTOS)
        if len(rows):
            drawer.save(f"gallery_{name}", gallery.gallery_figure(records(rows), title))
    pairs = [
        (gallery.pair_title(whole, true, predicted), records(rows))
        for true, predicted, rows in gallery.confused(whole)
    ]
    if pairs:
        more = "most confident mistakes first"
        figure = gallery.rows_figure(pairs, "Confused most often", more, gallery.EACH)
        drawer.save("gallery_confused", figure)

"""Draw a run: everything that `viz.py` and the demo write as files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stacked_ram.data.dataset import stratified
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import gallery
from stacked_ram.viz.overview import overview_figure
from stacked_ram.viz.records import Photo, PhotoRecord, look_as_tested
from stacked_ram.viz.scan_path import scan_path_figure
from stacked_ram.viz.sources import Split, photo_files, read_files
from stacked_ram.viz.story import belief_figure, story_figure, strip_figure
from stacked_ram.viz.style import FORMATS, save_figure
from stacked_ram.viz.whole_set import WholeSet, look_at_all, warnings

PARTS: dict[str, Callable[[PhotoRecord], Figure]] = {
    "scan_path": scan_path_figure,
    "strip": strip_figure,
    "belief": belief_figure,
}


class Drawer:
    """Writes pictures into a folder, under names that say what they are, and remembers them."""

    def __init__(self, out: str | Path, kind: str = "png") -> None:
        if kind not in FORMATS:
            raise UserError(f"format: `{kind}` is none of {', '.join(FORMATS)}")
        self.out, self.kind = Path(out), kind
        self.files: list[Path] = []

    def save(self, name: str, figure: Figure) -> None:
        self.files.append(save_figure(figure, self.free(name, self.kind)))

    def free(self, name: str, kind: str) -> Path:
        """A path for a picture of this name that is none of those written before."""
        base = re.sub(r"[^\w.-]+", "_", name).strip("._") or "photo"
        path, number = self.out / f"{base}.{kind}", 2
        while path in self.files:
            path, number = self.out / f"{base}_{number}.{kind}", number + 1
        return path


def draw_run(
    run: str | Path | LoadedRun,
    photos: Iterable[str | Path] | None = None,
    out: str | Path | None = None,
    limit: int = 12,
    kind: str = "png",
    device: str = "auto",
) -> list[Path]:
    """One picture a photo; without photos, of a sample of the run's test split, with pictures of
    the whole split. Returns the files.

    photos: files and folders. out: default RUN/pictures. limit: photos drawn one by one.
    """
    run = loaded(run, device)
    drawer = Drawer(out or run.folder / "pictures", kind)
    if photos is not None:
        draw_photos(drawer, run, read_files(run, photo_files(photos)[:limit]))
        return drawer.files
    split = Split(run)
    try:
        draw_whole(drawer, run, split, look_at_all(run, split))
        draw_photos(drawer, run, sample(split, limit))
    finally:
        split.close()
    return drawer.files


def loaded(run: str | Path | LoadedRun, device: str = "auto") -> LoadedRun:
    return run if isinstance(run, LoadedRun) else load_run(run, device)


def sample(split: Split, count: int) -> list[Photo]:
    """Photos of a split, each class with its share; the same every time."""
    return split.photos(stratified(split.dataset.labels, count))


def stem(photo: Photo) -> str:
    """What a photo's pictures are called: its path inside the data set, or its name; of digits,
    split and row."""
    path, _, row = photo.name.partition("/images.npy:")
    if row:
        return f"{path}_{row}"
    return Path(path).with_suffix("").as_posix().replace("/", "_")


def draw_photos(
    drawer: Drawer,
    run: LoadedRun,
    photos: Sequence[Photo],
    *,
    separate: bool = False,
    num_glimpses: int | None = None,
) -> None:
    """One picture a photo with everything in it, or (separate) each of its parts by itself."""
    for seen in look_as_tested(run, photos, num_glimpses=num_glimpses):
        if separate:
            for name, figure in PARTS.items():
                drawer.save(f"{stem(seen.photo)}_{name}", figure(seen))
        else:
            drawer.save(stem(seen.photo), story_figure(seen))


def draw_whole(drawer: Drawer, run: LoadedRun, split: Split, whole: WholeSet) -> None:
    """The overview of a split and its galleries. Warns on stdout of a policy that looks nowhere."""
    for note in warnings(whole):
        print(f"warning: {note}")
    drawer.save("overview", overview_figure(whole, title_of(run, split)))
    for name, (title, choose) in gallery.CHOICES.items():
        rows = choose(whole)
        if len(rows):
            photos = list(look_as_tested(run, split.photos(rows)))
            drawer.save(f"gallery_{name}", gallery.gallery_figure(photos, title))
    pairs = [
        (
            f"{whole.classes[true]}, taken for {whole.classes[answer]}",
            list(look_as_tested(run, split.photos(rows))),
        )
        for true, answer, rows in gallery.confused(whole)
    ]
    if pairs:
        drawer.save("gallery_confused", gallery.confused_figure(pairs))


def draw_one_per_class(drawer: Drawer, run: LoadedRun, split: Split, whole: WholeSet) -> None:
    rows = gallery.one_per_class(whole)
    photos = list(look_as_tested(run, split.photos(rows)))
    drawer.save("one_per_class", gallery.one_per_class_figure(photos))


def title_of(run: LoadedRun, split: Split) -> str:
    dataset = split.dataset
    return f"{run.folder.name}: {len(dataset):,} photos of {dataset.name}, {dataset.split} split"

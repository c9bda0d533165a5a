"""The report: one HTML file with everything in it, that opens by double click.

Photos travel as JPEG (small ones as PNG), their patches as one picture a surface; the
page paints boxes, strips and what was known from them. Its own content policy forbids it to load
anything.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import string
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from stacked_ram.data.dataset import stratified
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.folder import check_folder, now, write_atomically
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import gallery
from stacked_ram.viz.belief import TOP, beliefs
from stacked_ram.viz.boxes import view_of
from stacked_ram.viz.draw import SplitName, loaded
from stacked_ram.viz.overview import chosen_places, class_order, density_of
from stacked_ram.viz.photos import Photo, Split, photo_files, read_files
from stacked_ram.viz.records import PhotoRecord, Surface, record_photos
from stacked_ram.viz.style import step_colours
from stacked_ram.viz.whole_set import WholeSet, record_split, spread_T, warnings

LIMIT = 100  # photos
LARGEST = 15_000_000  # bytes of a report of a hundred photos
SIDES = (640, 480, 360, 256)  # longest side of a photo, as large as that allows
PATCH = 64  # largest side of a patch
SMALL = 4096  # pixels up to which nothing is lost to JPEG
MOST_CLASSES = 60
CURVES = (  # title, whether it is a share, columns of metrics.csv
    ("Loss", False, {"train": "train_classification", "valid": "valid_loss"}),
    ("Accuracy", True, {"train": "train_accuracy", "valid": "valid_accuracy"}),
)


def write_report(
    run: str | Path | LoadedRun,
    photos: Iterable[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    limit: int = LIMIT,
    num_glimpses: int | None = None,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Write report.html, with a player for every photo, and return its path.

    Without photos: of a whole split, with its figures and galleries. The other arguments are
    those of `draw_run`; out: a folder, by default the run's. Raises UserError when there is
    nothing to show.
    """
    run = loaded(run, device)
    folder = Path(out or run.folder)
    check_folder(folder)
    if photos is not None:
        content = page(run, read_files(run, photo_files(photos)[:limit]), num_glimpses)
    else:
        with Split(run, split, dataset) as opened:
            whole = record_split(run, opened)
            rows, galleries = chosen_rows(opened, whole, limit)
            chosen = opened.photos(rows)
            content = page(run, chosen, num_glimpses, whole, galleries, opened)
    write_atomically(folder / "report.html", content)
    return folder / "report.html"


def chosen_rows(split: Split, whole: WholeSet, most: int) -> tuple[list[int], list[dict[str, Any]]]:
    """Photos of the report (rows of the split), and the galleries as names of some of them: the
    galleries take at most half of the room, an even sample of the classes the rest."""
    count = max(2, most // 8)
    groups = [
        (title, choose(whole, min(count, gallery.PHOTOS)))
        for title, choose in gallery.CHOICES.values()
    ]
    groups += [
        (gallery.pair_title(whole, true, predicted), rows)
        for true, predicted, rows in gallery.confused(whole, pairs=max(1, min(3, most // 16)))
    ]
    groups = [(title, [int(row) for row in rows]) for title, rows in groups if len(rows)]
    rows = stratified(split.dataset.labels, most).tolist()
    shown = list(dict.fromkeys(row for _, members in groups for row in members))[: most // 2]
    chosen = (shown + [row for row in rows if row not in set(shown)])[:most]
    chosen = sorted(chosen, key=lambda row: (int(split.dataset.labels[row]), row))
    galleries = [
        {"title": title, "photos": [split.dataset.names[row] for row in members if row in chosen]}
        for title, members in groups
    ]
    return chosen, galleries


def page(
    run: LoadedRun,
    photos: Sequence[Photo],
    num_glimpses: int | None = None,
    whole: WholeSet | None = None,
    galleries: Sequence[dict[str, Any]] = (),
    split: Split | None = None,
) -> bytes:
    """The file's content, its photos as large as the whole may be."""
    record = list(record_photos(run, photos, num_glimpses=num_glimpses, skip_unreadable=True))
    if not record:
        raise UserError("--report: no photos to show")
    about = facts(run, record, whole, galleries, split)
    room = LARGEST * max(1.0, len(record) / 100)
    for side in SIDES:
        about["photos"] = [photo_entry(one, side) for one in record]
        content = filled(about)
        if len(content) <= room:
            break
    return content


def filled(about: dict[str, Any]) -> bytes:
    """The page around its data."""
    folder = resources.files("stacked_ram.viz") / "page"
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    page_text = string.Template((folder / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(about["title"]),
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        data=text.replace("<", "\\u003c"),  # no class can be named </script>
    )
    return page_text.encode()


def facts(
    run: LoadedRun,
    record: Sequence[PhotoRecord],
    whole: WholeSet | None,
    galleries: Sequence[dict[str, Any]],
    split: Split | None,
) -> dict[str, Any]:
    """Everything but the photos."""
    model = run.config.model
    words = [
        f"{model.num_glimpses} glimpses of {model.num_patches} patches, {model.patch_size} px",
        f"{model.attention} attention",
        f"{len(run.classes)} classes",
        f"epoch {run.card.epoch}",
    ]
    if whole is not None:
        words.insert(0, f"accuracy {100 * whole.right_N.mean():.1f} % on {len(whole.labels_N):,}"
                     f" photos ({split.dataset.name}, {split.dataset.split})")  # fmt: skip
    counts = {one.steps for one in record} | ({whole.steps} if whole is not None else set())
    return {
        "title": run.folder.resolve().name,
        "facts": " · ".join(words),
        "footer": f"{run.path} · made {now()}",
        "classes": list(run.classes),
        "colours": {count: step_colours(count) for count in sorted(counts)},
        "ramp": ramp(),
        "warnings": [] if whole is None else warnings(whole),
        "galleries": placed(galleries, record),
        "whole": None if whole is None else whole_entry(whole, split.dataset.split),
        "training": training_curves(run.folder / "metrics.csv"),
    }


def placed(
    galleries: Sequence[dict[str, Any]], record: Sequence[PhotoRecord]
) -> list[dict[str, Any]]:
    """The galleries as places among the photos of the page, without those left empty."""
    place = {one.photo.name: number for number, one in enumerate(record)}
    found = [
        one | {"photos": [place[name] for name in one["photos"] if name in place]}
        for one in galleries
    ]
    return [one for one in found if one["photos"]]


def ramp(count: int = 24) -> list[str]:
    """Colours of a density, from rare to frequent."""
    colours = mpl.colormaps["magma_r"](np.linspace(0.15, 1, count))
    return [mpl.colors.to_hex(one) for one in colours]


def photo_entry(record: PhotoRecord, side: int) -> dict[str, Any]:
    """One photo, as the page's script reads it."""
    photo = record.photo
    _, belief = beliefs(record)
    followed = record.predicted if photo.label is None else photo.label
    image_HWC = np.moveaxis(photo.pixels_CHW, 0, -1)
    return {
        "name": photo.name,
        "label": photo.label,
        "says": record.predicted,
        "sure": rounded(record.confidence),
        "right": record.correct,
        "settled": record.final_from,
        "shape": list(photo.true_size),
        "image": picture(as_shaped(image_HWC, photo.true_size, side)),
        "glance": None if record.glance_HWC is None else picture(record.glance_HWC),
        "first": len(belief) - record.steps,
        "belief": [
            {
                "top": [[int(label), rounded(row[label])] for label in np.argsort(-row)[:TOP]],
                "own": rounded(row[followed]),
            }
            for row in belief
        ],
        "surfaces": [surface_entry(record, one, side) for one in record.surfaces],
    }


def surface_entry(record: PhotoRecord, surface: Surface, side: int) -> dict[str, Any]:
    same_size = surface.image_HWC.shape[:2] == record.photo.pixels_CHW.shape[1:]
    is_photo = same_size and not surface.is_map
    return {
        "title": surface.title,
        "size": list(surface.size),
        "pixels": list(surface.image_HWC.shape[:2]),
        "view": [rounded(edge, 2) for edge in view_of(surface.size, surface.boxes_TK4)],
        "boxes": np.round(surface.boxes_TK4.astype(float), 2).tolist(),
        "image": None if is_photo else picture(surface.image_HWC),
        "sprite": None if surface.patches_TKPPC is None else picture(sprite(surface)),
        "onPhoto": any(surface is one for one in record.photo_surfaces),
    }


def sprite(surface: Surface) -> np.ndarray:
    """All patches as one picture, a column a step."""
    patches = surface.patches_TKPPC
    times = -(-patches.shape[2] // PATCH)
    steps, count = patches.shape[:2]
    if times > 1:
        small = [
            [np.asarray(Image.fromarray(one).resize((PATCH, PATCH), Image.Resampling.BOX))
             for one in step] for step in patches
        ]  # fmt: skip
        patches = np.array(small)
    side = patches.shape[2]
    return patches.transpose(1, 2, 0, 3, 4).reshape(count * side, steps * side, 3)


def as_shaped(image_HWC: np.ndarray, shape: tuple[int, int], side: int) -> np.ndarray:
    """Not larger than `side`; small photos keep their pixels. The page stretches it to shape."""
    image_HWC = image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC
    longest = max(image_HWC.shape[:2])
    if longest <= side:
        return image_HWC
    height, width = (max(1, round(edge * side / longest)) for edge in image_HWC.shape[:2])
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BOX))


def picture(pixels: np.ndarray) -> str:
    """A data URL: PNG for what is small, JPEG else."""
    image, content = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if image.width * image.height <= SMALL else "jpeg"
    image.save(content, kind, **({} if kind == "png" else {"quality": 84, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def whole_entry(whole: WholeSet, split: str) -> dict[str, Any]:
    """The figures of the whole split."""
    shape = float(np.median(whole.sizes_N2[:, 0] / whole.sizes_N2[:, 1]))
    accuracy = whole.right_NT.mean(0).tolist()
    if whole.glance_answers_N is not None:
        accuracy.insert(0, float((whole.glance_answers_N == whole.labels_N).mean()))
    entry = {
        "split": split,
        "count": len(whole.labels_N),
        "shape": shape,
        "first": int(whole.glance_answers_N is not None),
        "accuracy": [rounded(one) for one in accuracy],
        "distance": [rounded(one) for one in whole.distance_NT.mean(0)],
        "spread": [rounded(one) for one in spread_T(whole)],
        "bystep": [
            grid(whole.locations_NTS2[:, step, -1], whole.cells_at(step), shape)
            for step in range(whole.steps)
        ],
        "byclass": [
            [
                label,
                grid(*chosen_places(whole, whole.labels_N == label), shape),
                rounded(whole.right_N[whole.labels_N == label].mean()),
            ]
            for label in class_order(whole)[:MOST_CLASSES]
        ],
        "inside": None,
    }
    if whole.has_boxes:
        boxed = np.isfinite(whole.inside_NT[:, 0])
        entry |= {
            "inside": [rounded(one) for one in whole.inside_NT[boxed].mean(0)],
            "centre": rounded(whole.centre_inside_N[boxed].mean()),
            "random": rounded(whole.box_share_N[boxed].mean()),
        }
    return entry


def grid(places_X2: np.ndarray, cells: tuple[int, int] | None, shape: float) -> list[list[float]]:
    """A density of locations, its root from 0 to 1."""
    density = np.sqrt(density_of(places_X2, shape, cells))
    return np.round(density / max(float(density.max()), 1e-9), 3).tolist()


def training_curves(path: Path) -> list[dict[str, Any]]:
    """Curves of metrics.csv, those of training and validation together; none without the file.

    The loss is the cross-entropy of the classes: in training as it was learned from (after every
    glimpse by default, on augmented photos), in validation that of the last prediction.
    """
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(float(row["epoch"])) for row in rows if row.get("epoch")]
    curves = []
    for title, share, columns in CURVES:
        series = [
            {"name": part, "values": [number(row.get(column)) for row in rows]}
            for part, column in columns.items()
            if rows and column in rows[0]
        ]
        if series and len(epochs) == len(rows):
            curves.append({"title": title, "share": share, "epochs": epochs, "series": series})
    return curves


def number(text: str | None) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return rounded(value) if np.isfinite(value) else None


def rounded(value: Any, digits: int = 4) -> float:
    return round(float(value), digits)

"""The report: a single HTML file that opens by double click.

It holds photos as JPEG (small ones as PNG) and the patches of each surface as one picture; its
script draws boxes, patch strips and the photo as known so far from them. Its content policy
forbids it to load anything.
"""

from __future__ import annotations

import base64
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
import pandas
from numpy.typing import ArrayLike
from PIL import Image

from stacked_ram.data.dataset import stratified
from stacked_ram.evaluation.early_exit import Stop, exit_at, exit_curve
from stacked_ram.evaluation.verdict import spread_T
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.folder import check_folder, now, write_atomically
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz import gallery
from stacked_ram.viz.belief import TOP, beliefs, percent
from stacked_ram.viz.boxes import view_of
from stacked_ram.viz.compare import check_comparable
from stacked_ram.viz.draw import SplitName, loaded
from stacked_ram.viz.explained_set import explain_command
from stacked_ram.viz.mistakes import causes_of_mistakes, whether_it_mattered
from stacked_ram.viz.overview import chosen_locations, density_of
from stacked_ram.viz.photo_record import Answer, PhotoRecord, Surface, answer_name
from stacked_ram.viz.photos import Photo, Split, evenly, photo_files, read_files
from stacked_ram.viz.records import map_colours, record_photos
from stacked_ram.viz.style import RUNS, counted, step_colours
from stacked_ram.viz.whole_set import WholeSet, chosen_threshold, record_split, warnings

LIMIT = 100  # photos
LARGEST = 15_000_000  # bytes of a report of a hundred photos
SIDES = (640, 480, 360, 256)  # longest side of a photo; the first that fits into LARGEST
PATCH = 64  # largest side of a patch
SMALL = 4096  # pixels; smaller pictures are kept as PNG
MOST_CLASSES = 60
CURVES = (  # title, whether in per cent, columns of metrics.csv
    ("Loss", False, {"train": "train_classification", "valid": "valid_loss"}),
    ("Accuracy", True, {"train": "train_accuracy", "valid": "valid_accuracy"}),
    ("Mean average precision (mAP)", True, {"valid": "valid_mAP"}),
    ("F1 of a photo at probabilities of 0.5", True, {"train": "train_F1", "valid": "valid_F1"}),
)


def write_report(
    run: str | Path | LoadedRun,
    photos: Iterable[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    limit: int = LIMIT,
    num_glimpses: int | None = None,
    stop: Stop | None = None,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    others: Sequence[str | Path | LoadedRun] = (),
    device: str = "auto",
) -> Path:
    """Write report.html, with a player for every photo, and return its path.

    Without photos: of a whole split, with its figures and galleries. out: a folder; default: the
    run's. others: runs with the same classes to compare on the split. The other arguments are
    those of `draw_run`. Raises UserError where there is nothing to show.
    """
    run = loaded(run, device)
    folder = Path(out or run.folder)
    check_folder(folder)
    how: dict[str, Any] = {"num_glimpses": num_glimpses, "stop": stop}
    if photos is not None:
        files = photo_files(photos)
        read = read_files(run, evenly(files, limit))
        said = (
            ""
            if len(read) == len(files)
            else (f"{len(read):,} of {len(files):,} photos, chosen evenly from their folders")
        )
        content = page(run, read, how, shown=said)
    else:
        with Split(run, split, dataset) as opened:
            whole = record_split(run, opened, stop)
            causes = causes_of_mistakes(run.folder, whole)
            rows, galleries, shown = chosen_rows(opened, whole, limit, causes)
            chosen = opened.photos(rows)
            runs = [whole, *(same_split(run, other, opened, whole, device) for other in others)]
            compared = runs_entry(run, others, runs) if others else None
            content = page(run, chosen, how, whole, galleries, shown, compared, causes)
    write_atomically(folder / "report.html", content)
    return folder / "report.html"


def chosen_rows(
    split: Split, whole: WholeSet, most: int, causes: dict[str, Any] | None = None
) -> tuple[list[int], list[dict[str, Any]], str]:
    """Rows of the split that get pictures, galleries of some of them by name, and in words what
    was chosen.

    `most` rows are an even sample of the classes; at most half as many more are of galleries.
    causes: of `causes_of_mistakes`; each gets a gallery, before the others.
    """
    labels, names = split.dataset.labels, split.dataset.names
    count = min(max(2, most // 8), gallery.PHOTOS)
    groups: dict[str, list[int]] = {}
    if causes is not None:
        for cause in causes["causes"]:
            rows = [row for row in causes["order"] if causes["rows"][row] == cause["name"]]
            groups[f"Wrong: {cause['name']}"] = rows[:count]
    groups |= {
        title: choose(whole, count).tolist() for title, choose in gallery.choices(whole).values()
    } | {
        gallery.pair_title(whole, true, predicted): rows.tolist()
        for true, predicted, rows in gallery.confused(whole, pairs=max(1, min(3, most // 16)))
    }
    sample = stratified(labels, most).tolist()
    further = list(dict.fromkeys(row for rows in groups.values() for row in rows))
    further = [row for row in further if row not in sample][: most // 2]
    chosen = [*sample, *further]
    words = "all photos have pictures"
    if len(chosen) < len(labels):
        words = f"pictures: {counted(len(sample), 'photo')} chosen evenly from the classes"
        words += f", and {len(further)} more for the galleries" if further else ""
    galleries = [
        {"title": title, "photos": [names[row] for row in rows if row in chosen]}
        for title, rows in groups.items()
    ]
    return sorted(chosen, key=lambda row: (whole.labels_N[row], row)), galleries, words


def page(
    run: LoadedRun,
    photos: Sequence[Photo],
    how: dict[str, Any],
    whole: WholeSet | None = None,
    galleries: Sequence[dict[str, Any]] = (),
    shown: str = "",
    compared: list[dict[str, Any]] | None = None,
    causes: dict[str, Any] | None = None,
) -> bytes:
    """The content of report.html, with photos as large as the limit on its size allows. how: as
    for `record_photos`. shown: which photos these are, in words. compared: other
    runs on the same split. causes: of its mistakes."""
    colours = map_colours(run, photos)
    records = list(record_photos(run, photos, colours=colours, skip_unreadable=True, **how))
    if not records:
        raise UserError("--report: no photos to show")
    answers = Answers(run) if whole is None else Answers(run, whole.answers)
    data = page_data(run, records, whole, galleries, answers) | {"shown": shown}
    data["runs"] = None if compared is None else [answers.shared(entry) for entry in compared]
    if causes is not None:
        data["table"] |= {"cause": causes["rows"], "better": causes["better"]}
        data |= {"causes": causes["causes"], "uncaused": causes["uncaused"]}
    rows = {name: row for row, name in enumerate(data["table"]["name"])}
    data["photos"] = [
        photo_entry(record, answers) | {"row": number if whole is None else rows[record.photo.name]}
        for number, record in enumerate(records)
    ]
    data |= {"answers": answers.names, "sets": list(answers.numbers)}
    room = LARGEST * max(1.0, len(records) / 100) - len(filled(data))
    for side in SIDES:
        images = [picture(reduced(record.surfaces[0].image_HWC, side)) for record in records]
        if sum(map(len, images)) <= room:
            break
    for entry, image in zip(data["photos"], images, strict=True):
        entry["image"] = image
    return filled(data)


class Answers:
    """The answers on a page, numbered: single classes, or the sets of classes that occur."""

    def __init__(self, run: LoadedRun, answers: Sequence[Answer] = ()) -> None:
        self.classes = run.classes
        if not answers and not run.metadata.multi_label:
            answers = [(label,) for label in range(len(run.classes))]
        self.numbers = {answer: number for number, answer in enumerate(answers)}

    def number(self, answer: Answer) -> int:
        return self.numbers.setdefault(answer, len(self.numbers))

    @property
    def names(self) -> list[str]:
        return [answer_name(answer, self.classes) for answer in self.numbers]

    def shared(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry of another run, with this page's numbers of its answers."""
        others = entry.pop("answers")
        return entry | {"predicted": [self.number(others[each]) for each in entry["predicted"]]}


def filled(data: dict[str, Any]) -> bytes:
    """The page around its data."""
    folder = resources.files("stacked_ram.viz") / "page"
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    page_text = string.Template((folder / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(data["title"]),
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        data=text.replace("<", "\\u003c"),  # no class can be named </script>
    )
    return page_text.encode()


def page_data(
    run: LoadedRun,
    records: Sequence[PhotoRecord],
    whole: WholeSet | None,
    galleries: Sequence[dict[str, Any]],
    answers: Answers,
) -> dict[str, Any]:
    """What the page's script reads, without the photos."""
    model = run.config.model
    counts = {record.all_steps for record in records}
    parts = [
        f"{counted(max(counts), 'glimpse')} of {counted(model.num_patches, 'patch', 'patches')},"
        f" {model.patch_size} px",
        f"{model.attention} attention",
        counted(len(run.classes), "class", "classes"),
        f"epoch {run.metadata.epoch}",
    ]
    if whole is not None:
        photos = counted(len(whole.labels_N), "photo")
        good = 100 * whole.figure[0]
        parts.insert(0, f"{whole.metric} {good:.1f} % on {photos} ({whole.dataset}, {whole.split})")
        if whole.stop is not None:
            parts.insert(1, f"{whole.used_N.mean():.2f} glimpses a photo on average")
        counts.add(whole.steps)
    stop = records[0].stop
    if stop is not None:
        by = "one class has" if stop.by == "belief" else "its stopping head has"
        if run.metadata.multi_label and stop.by == "belief":
            by = "every class's margin is"
        parts.insert(0, f"stops looking once {by} {percent(stop.at)}")
    return {
        "title": run.folder.resolve().name,
        "summary": " · ".join(parts),
        "footer": f"{run.path} · made {now()}",
        "classes": list(run.classes),
        "thresholds": rounded(run.model.thresholds_N) if run.metadata.multi_label else None,
        "metric": "accuracy" if whole is None else whole.metric,
        "colours": {count: step_colours(count) for count in sorted(counts)},
        "ramp": ramp(),
        "warnings": [] if whole is None else warnings(whole),
        "galleries": numbered(galleries, records),
        "whole": None if whole is None else whole_entry(whole, chosen_threshold(run, whole)),
        "table": table_of_records(records, answers) if whole is None else table_of_split(whole),
        "causes": None,
        "explain": ""
        if whole is None or run.metadata.multi_label
        else explain_command(run.folder, whole.split),
        "tested": None if whole is None else tested(run.folder / f"{whole.split}.json"),
        "mattered": None
        if whole is None
        else whether_it_mattered(run.folder / f"{whole.split}.json"),
        "stops": stop is not None,
        "training": training_curves(run.folder / "metrics.csv"),
    }


def table_of_split(whole: WholeSet) -> dict[str, Any]:
    """The columns of the table of all photos."""
    return {
        "name": whole.names,
        "label": whole.labels_N.tolist(),
        "predicted": whole.predicted_N.tolist(),
        "confidence": rounded(whole.confidence_N, 3),
        "true": rounded(whole.true_N, 3),
        "used": whole.used_N.tolist(),
        "final": whole.final_from_N.tolist(),
    }


def table_of_records(records: Sequence[PhotoRecord], answers: Answers) -> dict[str, Any]:
    """The same columns for photos that were named; labels and beliefs in them may be unknown."""
    return {
        "name": [record.photo.name for record in records],
        "label": [
            None if record.truth is None else answers.number(record.truth) for record in records
        ],
        "predicted": [answers.number(record.answer) for record in records],
        "confidence": [rounded(record.confidence, 3) for record in records],
        "true": [
            None
            if record.truth is None
            else rounded(record.followed_belief(record.belief_N[None])[0], 3)
            for record in records
        ],
        "used": [record.steps for record in records],
        "final": [record.final_from for record in records],
    }


def tested(path: Path) -> dict[str, Any] | None:
    """What `test` found on this split: its sentences, and the accuracy (or mAP) of each control;
    None where it was not tested."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        metric = "mAP" if "mAP" in report else "accuracy"
        controls = (
            {name: float(figures[metric]) for name, figures in report["controls"].items()}
            if "controls" in report
            else {}
        )
        return {
            "accuracy": float(report[metric]),
            "controls": controls,
            "meaning": [str(line) for line in report["meaning"]],
            "when": str(report["when"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def numbered(
    galleries: Sequence[dict[str, Any]], records: Sequence[PhotoRecord]
) -> list[dict[str, Any]]:
    """The galleries with the numbers of photos on the page instead of their names, without empty
    galleries."""
    numbers = {record.photo.name: number for number, record in enumerate(records)}
    found = [
        gallery | {"photos": [numbers[name] for name in gallery["photos"] if name in numbers]}
        for gallery in galleries
    ]
    return [gallery for gallery in found if gallery["photos"]]


def ramp(count: int = 24) -> list[str]:
    """Colours of a density, from rare to frequent."""
    colours = mpl.colormaps["magma_r"](np.linspace(0.15, 1, count))
    return [mpl.colors.to_hex(colour) for colour in colours]


def photo_entry(record: PhotoRecord, answers: Answers) -> dict[str, Any]:
    """One photo, as the page's script reads it, without its picture."""
    photo, truth = record.photo, record.truth
    _, belief = beliefs(record)
    followed = record.followed_belief(belief)
    return {
        "name": photo.name,
        "label": None if truth is None else answers.number(truth),
        "has": None if truth is None else list(truth),
        "predicted": answers.number(record.answer),
        "confidence": rounded(record.confidence),
        "correct": record.correct,
        "finalFrom": record.final_from,
        "shape": list(photo.true_size),
        "object": None if record.object_4 is None else rounded(record.object_4),
        "glance": None if record.glance_HWC is None else picture(record.glance_HWC),
        "first": len(belief) - record.steps,
        "steps": record.all_steps,
        "belief": [
            {
                "top": [[int(label), rounded(row[label])] for label in np.argsort(-row)[:TOP]],
                "followed": rounded(value),
                "answer": answers.number(record.answer_of(row)),
                "said": list(record.answer_of(row)),
            }
            for row, value in zip(belief, followed, strict=True)
        ],
        "surfaces": [surface_entry(record, surface) for surface in record.surfaces],
    }


def surface_entry(record: PhotoRecord, surface: Surface) -> dict[str, Any]:
    is_photo = surface is record.surfaces[0]
    return {
        "title": surface.title,
        "size": list(surface.size),
        "pixels": list(surface.image_HWC.shape[:2]),
        "view": rounded(view_of(surface.size, surface.boxes_TK4), 2),
        "boxes": rounded(surface.boxes_TK4, 2),
        "image": None if is_photo else picture(surface.image_HWC),
        "sprite": picture(sprite(surface.patches_TKPPC)) if surface.patches_TKPPC.size else None,
        "isMap": surface.is_map,
        "onPhoto": any(surface is other for other in record.photo_surfaces),
    }


def sprite(patches_TKPPC: np.ndarray) -> np.ndarray:
    """All patches as one picture, a column for each step."""
    steps, count = patches_TKPPC.shape[:2]
    patches = [reduced(patch, PATCH) for step in patches_TKPPC for patch in step]
    side = len(patches[0])
    grid_TKPPC = np.reshape(patches, (steps, count, side, side, 3))
    return grid_TKPPC.transpose(1, 2, 0, 3, 4).reshape(count * side, steps * side, 3)


def reduced(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """The image with its longer side at most `side` pixels."""
    image_HWC = image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC
    longest = max(image_HWC.shape[:2])
    if longest <= side:
        return image_HWC
    height, width = (max(1, round(edge * side / longest)) for edge in image_HWC.shape[:2])
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BOX))


def picture(pixels: np.ndarray) -> str:
    """A data URL: PNG for small pictures, JPEG for others."""
    image, content = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if image.width * image.height <= SMALL else "jpeg"
    image.save(content, kind, **({} if kind == "png" else {"quality": 84, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def whole_entry(whole: WholeSet, threshold: float | None) -> dict[str, Any]:
    """The figures of the whole split. threshold: of early exit, to be marked on its curve."""
    shape = whole.aspect
    steps, accuracy = whole.accuracy()
    entry = {
        "split": whole.split,
        "count": len(whole.labels_N),
        "shape": shape,
        "first": len(steps) - whole.steps,
        "accuracy": rounded(accuracy),
        "distance": rounded(whole.distance_NT.mean(0)),
        "spread": rounded(spread_T(whole.locations_NTS2[:, :, -1])),
        "bystep": [
            grid(whole.locations_NTS2[:, step, -1], whole.cells_at(step), shape)
            for step in range(whole.steps)
        ],
        "byclass": [
            [
                label,
                grid(*chosen_locations(whole, whole.photos_of(label)), shape),
                rounded(whole.class_figure(label)[1]),
                whole.class_figure(label)[0],
            ]
            for label in whole.labels[:MOST_CLASSES]
        ],
        "inside": None,
        "exits": exits_entry(whole, threshold) if whole.can_stop else None,
    }
    if whole.has_boxes:
        entry |= {
            "inside": rounded(np.nanmean(whole.inside_NT, 0)),
            "centre": rounded(np.nanmean(whole.centre_inside_N)),
            "random": rounded(np.nanmean(whole.box_fraction_N)),
        }
    return entry


def same_split(
    run: LoadedRun,
    other: str | Path | LoadedRun,
    split: Split,
    whole: WholeSet,
    device: str,
) -> WholeSet:
    """A pass of another run over the same photos, in the same order. Raises UserError where its
    classes or its photos differ, or it cannot read one of them."""
    other = loaded(other, device)
    check_comparable(run, other)
    with Split(other, whole.split, split.dataset.folder) as same:
        same.keep_named(whole.names)
        found = record_split(other, same, whole.stop)
    if found.names != whole.names:
        raise UserError(
            f"--compare: {other.path} does not have all photos of the {whole.split} split that"
            f" {run.path} has (their fold or train_on differ, or a photo cannot be read)"
        )
    return found


def runs_entry(
    run: LoadedRun, others: Sequence[str | Path | LoadedRun], wholes: Sequence[WholeSet]
) -> list[dict[str, Any]]:
    """The figures of several runs on one split, and what each predicts for every photo."""
    paths = [run.folder, *(other.folder if isinstance(other, LoadedRun) else Path(other)
                           for other in others)]  # fmt: skip
    entries = []
    for number, (path, whole) in enumerate(zip(paths, wholes, strict=True)):
        assert whole.cost is not None  # of a recorded split
        glimpses = float(whole.used_N.mean())
        steps, accuracy = whole.accuracy()
        entries.append(
            {
                "name": path.resolve().name,
                "colour": RUNS[number % len(RUNS)],
                "accuracy": rounded(whole.figure[0]),
                "interval": whole.figure[1],
                "glimpses": rounded(glimpses, 2),
                "gmacs": rounded(whole.cost.before + glimpses * whole.cost.per_glimpse),
                "steps": steps.tolist(),
                "curve": rounded(accuracy),
                "predicted": whole.predicted_N.tolist(),
                "answers": whole.answers,
            }
        )
    return entries


def exits_entry(whole: WholeSet, threshold: float | None) -> dict[str, Any]:
    """Accuracy against mean cost over all thresholds, and at the chosen one."""
    assert whole.cost is not None  # of a recorded split
    table, by = whole.exits()
    curve = exit_curve(table, whole.cost)
    entry = {"accuracy": rounded(curve["accuracy"]), "gmacs": rounded(curve["mean_gmacs"], 5)}
    if threshold is None:
        return entry
    accuracy, glimpses = exit_at(table, threshold)
    gmacs = whole.cost.before + glimpses * whole.cost.per_glimpse
    by = by if whole.labels_NC is None or by != "belief" else "margin"
    words = f"{by} ≥ {percent(threshold)}: {100 * accuracy:.1f} %, {glimpses:.2f} glimpses"
    return entry | {"chosen": {"accuracy": accuracy, "gmacs": gmacs, "words": words}}


def grid(
    locations_X2: np.ndarray, cells: tuple[int, int] | None, shape: float
) -> list[list[float]]:
    """The square root of a density of locations, scaled to 0 to 1."""
    density = np.sqrt(density_of(locations_X2, shape, cells))
    return rounded(density / max(float(density.max()), 1e-9), 3)


def training_curves(path: Path) -> list[dict[str, Any]]:
    """Curves of metrics.csv, training and validation together; empty without the file.

    The loss is the cross-entropy of the classes: in training as the losses use it (by default
    after every glimpse, on augmented photos), in validation of the last prediction.
    """
    if not path.is_file():
        return []
    table = pandas.read_csv(path)
    epochs = table["epoch"].astype(int).tolist()
    curves = []
    for title, in_percent, columns in CURVES:
        series = []
        for part, column in columns.items():
            if column in table:
                values = [rounded(value) if np.isfinite(value) else None for value in table[column]]
                series.append({"name": part, "values": values})
        if series:
            curves.append(
                {"title": title, "percent": in_percent, "epochs": epochs, "series": series}
            )
    return curves


def rounded(values: ArrayLike, digits: int = 4) -> Any:
    """Numbers in lists of lists, as JSON holds them; of a single number, the number."""
    return np.round(np.asarray(values, float), digits).tolist()

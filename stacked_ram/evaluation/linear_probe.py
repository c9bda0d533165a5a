"""The linear probe, a control without attention: logistic regression on a frozen backbone.

Photos are resized so that their shorter side is R / 0.875 and the central R x R is cut out, as
ImageNet models are tested. (It loses objects at the edge of scenes, and tells them better than all
of the scene squeezed to R x R: results/scenes.md.) Features are standardised; C is a constant. The
backbone has the weights that the configuration names, or, where it names none, those that the run
learned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset, open_dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import Loader, opened_loader
from stacked_ram.data.remote import dataset_folder
from stacked_ram.evaluation.cost import gmacs
from stacked_ram.evaluation.multi_label import mean_average_precision
from stacked_ram.images.decoding import reduced_size
from stacked_ram.images.lazy import LazyPhotos
from stacked_ram.images.opening import reduced
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.ops.digest import digest
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.folder import write_atomically
from stacked_ram.runtime.errors import NotWritten, UserError

SIZES = (96, 128, 160, 224)
MARGIN = 0.875
C = 0.01


def linear_probe(
    loaded: LoadedRun, loader: Loader, left_out: LeftOut
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Measure the probe on the loader's photos: accuracy and GMACs at each of SIZES, and for each
    whether each photo, in the order of the split, is answered right. With several labels: mAP, and
    the scores of the classes, N x C.

    It is trained on the training split of the run's data set (where that has moved, of the
    loader's). left_out: notes the loader's photos that cannot be read."""
    config = loaded.config
    backbone = probe_backbone(loaded)
    training = open_training(loaded, loader)
    kept = KeptFigures(backbone, loaded, training, loader.dataset)
    rows = kept.read()
    if rows is None:
        missing = LeftOut(training)
        backbone = backbone.to(loaded.device).eval()
        rows = measure(backbone, loaded, missing, loader, left_out)
        if not missing and not left_out:
            kept.write(rows)
    if training.multi_label:
        metric, answers = "mAP", [row["scores"] for row in rows]
    else:
        metric, answers = "accuracy", [np.array(list(row["right"])) == "1" for row in rows]
    return {
        "is": "frozen backbone on the middle of the photo (7/8 of its shorter side), standardised"
        f" features, logistic regression (C={C}) trained on the training split",
        "weights": "the run's own" if config.model.weights == "none" else config.model.weights,
        "sizes": [{name: row[name] for name in ("size", metric, "gmacs")} for row in rows],
    }, answers


def open_training(loaded: LoadedRun, loader: Loader, most: int | None = None) -> Dataset:
    """The training split of the run's data set or, where that has moved, of the loader's; at most
    this many photos of it, always the same."""
    data = loaded.config.data
    data = data if dataset_folder(data.dataset).is_dir() else loader.data
    return open_dataset(
        data if most is None else dataclasses.replace(data, limit_photos=most), "train"
    )


def probe_backbone(loaded: LoadedRun) -> Backbone:
    """The backbone with the weights that the run's configuration names, or else its own."""
    model = loaded.config.model
    if model.weights == "none":
        return loaded.model.backbone
    return Backbone(model.backbone, model.weights)


class KeptFigures:
    """A probe's figures in the data set's cache: they are the same for every run with this backbone
    on these photos, so that further seeds need not read the training split again."""

    def __init__(
        self, backbone: Backbone, loaded: LoadedRun, training: Dataset, asked: Dataset
    ) -> None:
        data = dataclasses.asdict(loaded.config.data)
        # with several labels it would hold a number for each photo and class
        self.on = data.pop("cache") != "none" and not training.multi_label
        for name in ("dataset", "cache_limit", "workers"):
            del data[name]
        weights = {name: value.cpu() for name, value in backbone.state_dict().items()}
        depends = (
            loaded.config.model.backbone, digest(weights), training.digest(), asked.digest(), data,
            SIZES, MARGIN, C, torch.__version__,
        )  # fmt: skip
        self.key = hashlib.sha256(repr(depends).encode()).hexdigest()
        self.file = training.folder / ".cache" / "linear_probe.json"

    def all(self) -> dict[str, Any]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def read(self) -> list[dict[str, Any]] | None:
        return self.all().get(self.key) if self.on else None

    def write(self, rows: list[dict[str, Any]]) -> None:
        if self.on:
            with contextlib.suppress(NotWritten):  # a data set that is not ours to write to
                write_atomically(self.file, json.dumps(self.all() | {self.key: rows}).encode())


def measure(
    backbone: Backbone, loaded: LoadedRun, missing: LeftOut, loader: Loader, left_out: LeftOut
) -> list[dict[str, Any]]:
    """Size, accuracy, GMACs and right answers (or mAP and scores) at each of SIZES. missing,
    left_out: note unreadable photos of the training split and of the loader's."""
    sizes = sizes_for(backbone, loaded)
    with opened_loader(missing.dataset, loaded.config, loaded.device) as train:
        given = features(backbone, sizes, train, loaded, missing)
        asked = features(backbone, sizes, loader, loaded, left_out)
    rows = []
    for size in sizes:
        classifier = fit_probe(given[size], given["labels"])
        order = asked["index"].argsort()
        labels, found = asked["labels"][order], asked[size][order]
        if labels.ndim == 2:
            scores_NC = classifier.decision_function(found).reshape(labels.shape)
            answers = {"mAP": mean_average_precision(labels, scores_NC), "scores": scores_NC}
        else:
            right_N = classifier.predict(found) == labels
            right = "".join(str(int(right)) for right in right_N)
            answers = {"accuracy": float(right_N.mean()), "right": right}
        gmacs_of_photo = image_gmacs(backbone, size, loaded.device)
        rows.append({"size": size, "gmacs": gmacs_of_photo, **answers})
    return rows


def fit_probe(features_ND: np.ndarray, labels_N: np.ndarray) -> Any:
    """Fit the probe: scikit-learn's pipeline of standardisation and logistic regression; with
    several labels, labels N x C, one regression for each class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    regression = LogisticRegression(C=C, max_iter=2000)
    if labels_N.ndim == 2:
        regression = OneVsRestClassifier(regression)
    probe = make_pipeline(StandardScaler(), regression)
    with threadpool_limits(torch.get_num_threads()):
        return probe.fit(features_ND, labels_N)


def sizes_for(backbone: Backbone, loaded: LoadedRun) -> Sequence[int]:
    """Those of SIZES that the backbone takes; one that takes none of them is made for one size."""

    def takes(size: int) -> bool:
        try:
            backbone.check_size("", (size, size))
        except UserError:
            return False
        return True

    own = loaded.config.model.patch_size, backbone.network.pretrained_cfg["input_size"][1]
    return [size for size in SIZES if takes(size)] or [size for size in own if takes(size)][:1]


@torch.no_grad()
def features(
    backbone: Backbone,
    sizes: Sequence[int],
    loader: Loader,
    loaded: LoadedRun,
    left_out: LeftOut,
) -> dict[Any, np.ndarray]:
    """Pooled features at each of these sizes, the labels, and the rows in the split."""
    from tqdm import tqdm

    found: dict[Any, list[np.ndarray]] = {size: [] for size in (*sizes, "labels", "index")}
    mean, std = (
        value.to(loaded.device)[:, None, None] for value in (loaded.model.mean, loaded.model.std)
    )
    loader.set_epoch(0)
    batches = tqdm(loader, desc="linear probe", unit=" batches", disable=None, leave=False)
    for batch, photos in left_out.each(batches, whole_photos):
        found["labels"].append(batch.labels_B.cpu().numpy())
        found["index"].append(batch.index_B.cpu().numpy())
        for size in sizes:
            images_BCRR = torch.stack([middle(photo_CHW, size) for photo_CHW in photos])
            pooled = backbone((images_BCRR.float() / 255 - mean) / std)
            found[size].append(pooled.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def whole_photos(batch: Batch) -> list[torch.Tensor]:
    """pixels_CHW of each photo, without padding; one that is read by region is reduced to twice
    what the largest of SIZES needs."""
    if isinstance(batch.pixels_BCHW, LazyPhotos):
        photos = batch.pixels_BCHW.photos
        most = round(2 * max(SIZES) / MARGIN)
        return [
            torch.from_numpy(
                reduced(photo, reduced_size(photo.size[0], photo.size[1], most, None))
            ).to(batch.labels_B.device)
            for photo in photos
        ]
    return [
        pixels_CHW[:, :height, :width]
        for pixels_CHW, (height, width) in zip(
            batch.pixels_BCHW, batch.sizes_B2.tolist(), strict=True
        )
    ]


def middle(photo_CHW: torch.Tensor, size: int) -> torch.Tensor:
    """The central size x size of the reduced photo."""
    from torchvision.transforms.v2 import functional

    reduced = functional.resize(photo_CHW, [round(size / MARGIN)], antialias=True)
    return functional.center_crop(reduced, [size, size])


@torch.no_grad()
def image_gmacs(backbone: Backbone, size: int, device: torch.device) -> float:
    total, _ = gmacs(lambda: backbone(torch.zeros(1, 3, size, size, device=device)))
    return total

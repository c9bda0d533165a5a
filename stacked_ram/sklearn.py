"""A classifier with scikit-learn's protocol, for cross_val_score, pipelines and searches.

    classifier = GlimpseClassifier("flowers17_lite0", epochs=5)
    cross_val_score(classifier, paths, labels, cv=5)

https://scikit-learn.org/stable/developers/develop.html
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from stacked_ram.api import resolve
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import dump_yaml, field_sections
from stacked_ram.data.dataset_info import FORMAT
from stacked_ram.evaluation.predict import predict_stream
from stacked_ram.images.decoding import read_photo, true_size
from stacked_ram.images.in_memory import array_image
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runs.folder import write_rows
from stacked_ram.runtime.errors import UserError, nearest
from stacked_ram.trained import Model
from stacked_ram.training.run import train_run

NOT_FIELDS = {  # fields of a config that `fit` sets, and what to use in their place
    "dataset": "fit(X, y)",
    "train_on": "fit(X, y), which trains on all of X",
    "fold": "cross_val_score",
    "seed": "random_state",
}


class GlimpseClassifier(ClassifierMixin, BaseEstimator):
    """Train a glimpse model on photos that are in memory or in files.

    Args:
        preset: name of a preset (`ram.list_presets()`), path of a YAML file, or a `ram.Config`.
        random_state: a whole number or a RandomState; an equal one gives an equal model. None:
            the preset's seed.
        verbose: print a line for each epoch.
        fields: any field of the config (`epochs=5, device="cpu"`).

    Attributes:
        classes_: the classes, sorted, as they are in y.
        model_: the fitted `stacked_ram.Model`.
    """

    def __init__(
        self,
        preset: str | Path | Config,
        *,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        **fields: Any,
    ) -> None:
        self.preset, self.random_state, self.verbose = preset, random_state, verbose
        self.fields = fields

    # ------------------------------------------------------------------ parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments; of the fields, those that were given."""
        return {
            "preset": self.preset,
            "random_state": self.random_state,
            "verbose": self.verbose,
            **self.fields,
        }

    def set_params(self, **params: Any) -> Self:
        """Change arguments by name. Raises ValueError for an unknown name."""
        own = {"preset", "random_state", "verbose"}
        known = own | field_sections().keys()
        for name, value in params.items():
            if name not in known:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}"
                    f"{nearest(name, known)}"
                )
            if name in own:
                setattr(self, name, value)
            else:
                self.fields = {**self.fields, name: value}
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    # ------------------------------------------------------------------ fitting

    def fit(self, X: ArrayLike | Sequence[Any], y: ArrayLike) -> Self:
        """Train a new model on all of X.

        Args:
            X: N photos: paths; or arrays, N x H x W or N x H x W x 3 (or a list of arrays of
                several sizes), uint8 or floats from 0 to 1.
            y: N labels, numbers or strings.

        Raises:
            ValueError: X and y do not fit together, there is only one class, or y has several
                labels for a photo.
            UserError: a photo cannot be read, or the fields do not make a valid config.
        """
        if np.ndim(y) == 2 and np.shape(y)[1] > 1:
            raise ValueError(
                "y gives a photo several labels, and this estimator takes one for each photo;"
                " prepare the photos with multi_label=True and use stacked_ram.train"
            )
        photos, labels = list_photos(X), column_or_1d(y, warn=True)
        check_classification_targets(labels)
        check_consistent_length(photos, labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has {len(self.classes_)} class: a classifier needs at least two")
        for name, instead in NOT_FIELDS.items():
            if name in self.fields:
                raise ValueError(f"{name}: not a parameter of {type(self).__name__}; use {instead}")
        fields = dict(self.fields)
        if self.random_state is not None:
            fields["seed"] = int(check_random_state(self.random_state).randint(2**31))
        with tempfile.TemporaryDirectory(prefix="stacked_ram_") as folder:
            dataset, run = Path(folder) / "data", Path(folder) / "run"
            config = resolve(self.preset, dataset, train_on="train+valid", fold=None, **fields)
            names = [f"{index}: {name}" for index, name in enumerate(self.classes_)]
            write_dataset(dataset, photos, indices, names)
            quiet = contextlib.redirect_stdout(io.StringIO())
            with contextlib.nullcontext() if self.verbose else quiet:
                train_run(config, run)
            self.model_ = Model(load_run(run, config.training.device))
        return self

    # ------------------------------------------------------------------ predicting

    def predict_proba(self, X: ArrayLike | Sequence[Any]) -> NDArray[np.float64]:
        """Class probabilities after the last glimpse, N photos x classes in the order of
        `classes_`. Raises UserError for a photo that cannot be read."""
        check_is_fitted(self)
        loaded = self.model_._loaded
        count = len(self.classes_)
        beliefs = []
        for row in predict_stream(loaded, list_photos(X), top=count):
            if row.error:
                raise UserError(row.error)
            by_name = dict(row.top)
            beliefs.append([by_name[name] for name in loaded.classes])
        return np.array(beliefs).reshape(-1, count)

    def predict(self, X: ArrayLike | Sequence[Any]) -> NDArray[Any]:
        """The likeliest class of each photo, as in y."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]


def list_photos(X: Any) -> list[Any]:
    """The photos as paths and arrays. Raises ValueError where X is a table of numbers."""
    if isinstance(X, str | Path):
        raise ValueError(f"X is one name ({X}): give a list of photos")
    photos = [str(photo) if isinstance(photo, Path) else photo for photo in X]
    for photo in photos:
        if not isinstance(photo, str) and np.ndim(photo) not in (2, 3):
            raise ValueError(
                f"X holds photos, but one has {np.ndim(photo)} dimension(s): give paths, or arrays"
                " H x W or H x W x C (X.reshape(-1, H, W) where each row is a flattened photo)"
            )
    return photos


def write_dataset(
    folder: Path, photos: Sequence[Any], labels: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write a data set for one training: grayscale arrays of equal size as digits, anything else as
    photos. Files are not copied: the manifest holds their paths."""
    arrays = [photo for photo in photos if not isinstance(photo, str)]
    images = [array_image(array) for array in arrays]
    (folder / "train").mkdir(parents=True)
    as_digits = len(images) == len(photos) and all(image.mode == "L" for image in images)
    if as_digits and len({image.size for image in images}) == 1:
        pixels = np.stack([np.asarray(image) for image in images])
        info = {"kind": "digits", "channels": 1, **statistics([pixels.reshape(1, -1)])}
        (folder / "valid").mkdir()
        for split, count in (("train", len(pixels)), ("valid", 0)):
            np.save(folder / split / "images.npy", pixels[:count])
            np.save(folder / split / "labels.npy", labels[:count])
    else:
        names, sizes = [], []
        waiting = iter(images)
        for index, photo in enumerate(photos):
            if isinstance(photo, str):
                names.append(os.path.abspath(photo))
                sizes.append(true_size(photo))
            else:
                image = next(waiting)
                names.append(f"train/{index}.png")
                sizes.append((image.height, image.width))
                image.save(folder / names[-1])
        rows = [
            {"path": name, "class": classes[label], "split": "train", "width": w, "height": h}
            for name, label, (h, w) in zip(names, labels, sizes, strict=True)
        ]
        write_rows(folder / "manifest.csv", rows)
        read = (read_photo(folder / name) for name in names)
        info = {"kind": "photos", "channels": 3, **statistics(read)}
    info |= {"format": FORMAT, "name": "photos", "classes": list(classes)}
    (folder / "dataset.yaml").write_text(dump_yaml(info), encoding="utf-8")


def statistics(photos: Iterable[NDArray[np.uint8]]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over photos C x H x W, in 0 to 1. The std of a
    channel that does not vary is 1: photos are divided by it."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for photo in photos:
        values = photo.reshape(len(photo), -1)
        count += values.shape[1]
        total = total + values.sum(1, dtype=np.float64)
        squares = squares + np.square(values, dtype=np.float64).sum(1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {"mean": (mean / 255).tolist(), "std": np.where(std > 0, std / 255, 1.0).tolist()}

"""What training leaves behind: a run, and the model that it trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from stacked_ram.config.schema import Config
from stacked_ram.evaluation.evaluate import Evaluation, evaluate
from stacked_ram.evaluation.predict import Row, photo_names, predict_stream
from stacked_ram.models.ram import RAM
from stacked_ram.results import Result
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import RunFolder, metric_column
from stacked_ram.runtime.errors import UserError, check
from stacked_ram.viz.photo_record import PhotoRecord
from stacked_ram.viz.photos import AnyPhoto
from stacked_ram.viz.records import record_photos

if TYPE_CHECKING:
    import pandas


class Run:
    """A run folder: its configuration, its metrics, and the model that it trained.

    Raises UserError where the folder holds no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = RunFolder(self.folder).config()

    @property
    def metrics(self) -> pandas.DataFrame:
        """Losses, accuracies (0 to 1) and learning rate: a row for each finished epoch."""
        import pandas

        path = self.folder / "metrics.csv"
        if not path.is_file():
            raise UserError(f"{path}: no epoch is finished yet")
        return pandas.read_csv(path, index_col="epoch")

    @property
    def best(self) -> pandas.Series:
        """The metrics of the epoch whose weights `load` takes."""
        metrics = self.metrics
        name = metric_column(self.config.training.metric, metrics)
        if name not in metrics or metrics[name].isna().all():
            return metrics.iloc[-1]
        chosen = metrics[name]
        return metrics.loc[chosen.idxmin() if name == "valid_loss" else chosen.idxmax()]

    def load(self, device: str = "auto", *, fast: bool = False) -> Model:
        """The model of the best epoch; see `stacked_ram.load`."""
        return Model(load_run(self.folder, device, fast=fast))

    def __repr__(self) -> str:
        try:
            best = self.best
        except UserError:
            return f"<Run {self.folder}: no epoch is finished yet>"
        names = ["valid_accuracy", "train_accuracy", "valid_mAP", "train_F1"]
        shown = [f"{name.replace('_', ' ')} {best[name]:.1%}" for name in names if name in best]
        return f"<Run {self.folder}: epoch {best.name}, {', '.join(shown)}>"


class Model:
    """A trained model, ready to look at photos; `stacked_ram.load` and `Run.load` make it."""

    net: RAM
    """The `torch.nn.Module`, in evaluation mode."""
    config: Config
    """The configuration it was trained with."""
    classes: tuple[str, ...]
    """The names of its N classes."""
    device: torch.device
    path: Path
    """The file of its weights."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._loaded = loaded
        self.net, self.config, self.classes = loaded.model, loaded.config, loaded.classes
        self.device, self.path = loaded.device, loaded.path

    @overload
    def look(
        self, photo: list[AnyPhoto] | tuple[AnyPhoto, ...], *, stop_at: float | None = None
    ) -> list[Result]: ...
    @overload
    def look(self, photo: AnyPhoto, *, stop_at: float | None = None) -> Result: ...

    def look(
        self,
        photo: AnyPhoto | list[AnyPhoto] | tuple[AnyPhoto, ...],
        *,
        stop_at: float | None = None,
    ) -> Result | list[Result]:
        """Look at a photo, or at each of a list of photos, and record what the model did.

        Photos may have any height and width. They are turned upright and reduced as the photos in
        training. The same photo always gives the same result.

        Args:
            photo: a path, a PIL image, an array H x W x 3 or H x W, or a tensor C x H x W with 3 or
                1 channels; arrays and tensors hold uint8, or floats from 0 to 1. A list of them
                gives a list of results; so does a batch (an array or a tensor of 4 dimensions).
            stop_at: stop looking once a class has this probability, 0 to 1. Default: the model
                takes all its glimpses.

        Raises:
            UserError: `stop_at` is out of range, a photo cannot be read, or is no photo.
        """
        check(0 <= (stop_at or 0) <= 1, f"stop_at: {stop_at} is not in 0 to 1")
        if isinstance(photo, np.ndarray | torch.Tensor) and photo.ndim == 4:
            photo = list(photo)
        if not isinstance(photo, list | tuple):
            return self.look([photo], stop_at=stop_at)[0]
        paths = [str(each) if isinstance(each, str | Path) else "" for each in photo]
        records = record_photos(self._loaded, photo)
        return [
            Result.from_record(record, path, stop_at, self._loaded)
            for path, record in zip(paths, records, strict=True)
        ]

    def predict(
        self,
        photos: str | Path | Iterable[str | Path],
        batch_size: int = 32,
        *,
        stop_at: float | None = None,
        stop_by: Literal["belief", "stop"] = "belief",
        coverage: float | None = None,
    ) -> Iterator[Result]:
        """Predict any number of photos, in order.

        Photos are read when they are needed: memory does not grow with their number. A photo that
        cannot be read gives a result with its `error`.

        Args:
            photos: a file, a folder (with its subfolders), a glob (`photos/**/*.jpg`), a CSV with
                a column `path`, or an iterable of these.
            batch_size: photos in a batch; large photos come in smaller batches.
            stop_at: stop looking at a photo once a class has this probability, 0 to 1; this saves
                the time of the other glimpses.
            stop_by: what `stop_at` is compared with: the belief, or the probability that the
                stopping head gives (a model trained with `learned_stop`).
            coverage: the fraction of photos, 0 to 1, that get an answer, if they are like those of
                the validation split; the results of the others, which the model is least sure of,
                are `unknown`. The model must be calibrated (`evaluate(calibrate=True)`).

        Raises:
            UserError: a value is out of range, a folder holds no photos, or there is no such CSV.
        """
        given = [photos] if isinstance(photos, str | Path) else photos
        names = photo_names(str(name) for name in given)
        rows = predict_stream(
            self._loaded,
            names,
            batch_size=batch_size,
            top=len(self.classes),
            stop_at=stop_at,
            stop_by=stop_by,
            coverage=coverage,
        )
        return (self._result(row) for row in rows)

    def _result(self, row: Row) -> Result:
        of_class = dict(row.top)  # empty where the photo could not be read
        belief = np.array([of_class[name] for name in self.classes if name in of_class], np.float32)
        locations = np.array(row.locations, np.float32).reshape(-1, 2)
        again = partial(self._record_again, row.path, len(locations))
        error = row.error or None
        result = Result(row.path, self.classes, belief, locations, again, error, self._loaded)
        result.unknown = row.unknown
        return result

    def _record_again(self, path: str, glimpses: int) -> PhotoRecord:
        """Look at a predicted photo once more, with as many glimpses as before."""
        (record,) = record_photos(self._loaded, [path])
        return record.until(glimpses)

    def evaluate(
        self,
        dataset: str | Path | None = None,
        split: Literal["test", "valid", "train"] = "test",
        *,
        controls: bool = False,
        **options: Any,
    ) -> Evaluation:
        """Measure the model on a split of a prepared data set.

        Args:
            dataset: folder of a prepared data set with the same classes. Default: that of training.
            split: test, valid or train.
            controls: also measure what the policy must beat: the same model looking at the centre,
                at random locations, or once; and the linear probe of its backbone.
            options: of `stacked_ram.evaluation.evaluate.evaluate`: `explain`, `fixations`,
                `mc_samples`, `crops`, `exit_accuracy`, `exit_glimpses`, `stop_at`, `calibrate`,
                `unknown`, `batch_size`,
                `limit_photos`, `workers`.

        Returns:
            The figures as attributes (`report.accuracy`, 0 to 1), `report.to_pandas()`, and
            `report.save(folder)`.

        Raises:
            UserError: there is no such data set or split, or its classes are not the model's.
        """
        return evaluate(self._loaded, split, dataset=dataset, controls=controls, **options)

    def push_to_hub(
        self,
        repo: str,
        *,
        licence: str | None = None,
        photos: Iterable[AnyPhoto] = (),
        private: bool = False,
        token: str | None = None,
        message: str = "Upload a stacked_ram model",
    ) -> str:
        """Upload the model to the Hugging Face Hub; `ram.load("hf://user/name")` loads it again.

        The repository holds config.json, model.safetensors and README.md: a card with the data,
        the figures of the run's last `test` beside its controls, limits and licence.

        Args:
            repo: user/name; the repository is made if there is none.
            licence: of the weights, as the Hub abbreviates it (`mit`, `cc-by-4.0`).
            photos: photos to show in the card, with what the model did on them; they are published.
            private: make a new repository private.
            token: of the Hub. Default: that of `hf auth login`.
            message: of the commit.

        Returns:
            The repository's address.

        Raises:
            UserError: the name is not valid, or a photo cannot be read.
            RunFailed: the Hub cannot be reached, or refuses.
        """
        import tempfile

        from stacked_ram.evaluation.model_card import model_card, test_figures
        from stacked_ram.runs import hub

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pictures = []
            for number, photo in enumerate(photos):
                pictures.append(f"pictures/{number}.png")
                (folder / "pictures").mkdir(exist_ok=True)
                self.look(photo).save(folder / pictures[-1])
            card = model_card(
                self._loaded,
                test_figures(self._loaded.folder),
                name=repo.rpartition("/")[2],
                load=hub.SCHEME + repo,
                licence=licence,
                pictures=pictures,
            )
            hub.write_model_folder(self._loaded, folder, card)
            return hub.upload(folder, repo, private=private, token=token, message=message)

    def save_backbone(self, path: str | Path) -> Path:
        """Save the trained visual network as a file that timm loads.

        `timm.create_model(model.config.model.backbone, num_classes=0, checkpoint_path=path)` is
        then the same network, without a classifier.

        Args:
            path: a file that ends in .safetensors.

        Raises:
            UserError: the model has no backbone, or the path another ending.
        """
        from safetensors.torch import save

        from stacked_ram.runs.folder import write_atomically

        path = Path(path)
        check(path.suffix == ".safetensors", f"{path}: the name must end in .safetensors")
        if self.net.backbone is None:
            raise UserError(
                f"{self.path}: has no whole timm network (retina {self.config.model.retina}, stack"
                f" {self.config.model.stack}); only retina backbone has one"
            )
        state = self.net.backbone.network.state_dict()
        write_atomically(path, save({name: value.contiguous() for name, value in state.items()}))
        return path

    def __repr__(self) -> str:
        return f"<Model {self.path}: {len(self.classes)} classes, {self.device}>"

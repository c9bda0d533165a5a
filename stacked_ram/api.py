"""The functions of the public API; the command line calls the same ones.

Each function imports what it needs when it is called: listing presets does not wait for torch, nor
preparing photos for the training code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stacked_ram.config.model import PARTS
from stacked_ram.config.presets import list_presets as list_presets
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, replace_fields
from stacked_ram.runs.folder import default_folder
from stacked_ram.runtime.errors import check, nearest

if TYPE_CHECKING:
    from stacked_ram.models.ram import RAM
    from stacked_ram.preparation.summary import PrepareSummary
    from stacked_ram.trained import Model, Run
    from stacked_ram.training.callbacks import Callback
    from stacked_ram.training.estimators import Estimator

PathLike = str | Path


def prepare(
    source: PathLike | None, dest: PathLike, *, progress: bool = True, **options: Any
) -> PrepareSummary:
    """Turn raw photos into a data set that trains without surprises. The source is never changed.

    Every photo is opened and checked, duplicates are kept together, and the photos are divided into
    training, validation and test photos. A call that was stopped continues where it was.

    Args:
        source: a folder with a folder for each class or another known layout, or an archive of it
            (.zip, .tar, .tar.gz). None with `download`.
        dest: the folder to make: a new folder, or that of the same data set.
        progress: show progress bars.
        options: any option of the command line: `valid_ratio=0.2` and `test_ratio=0.2` (0 to 1),
            `short_side=256` (pixels), `download="flowers17"`, `overwrite=True`, and so on;
            `stacked_ram.preparation.options.PrepareOptions` describes them all.

    Returns:
        What the data set holds; printed, the summary of the command line.

    Raises:
        UserError: an option is unknown (the message names the nearest) or out of range, there are
            no photos, or `dest` holds something else.
        RunFailed: the disk is full, or `strict` found a bad photo.
    """
    from stacked_ram.preparation.options import PrepareOptions
    from stacked_ram.preparation.pipeline import prepare as prepare_photos

    known = {field.name for field in dataclasses.fields(PrepareOptions)} - {"source", "dest"}
    for name in options:
        check(name in known, f"prepare: unknown option `{name}`{nearest(name, known)}")
    given = ", ".join([repr(source), repr(dest), *(f"{k}={v!r}" for k, v in options.items())])
    options["source"] = None if source is None else Path(source)
    options["dest"] = Path(dest)
    return prepare_photos(
        PrepareOptions(**options), command=f"ram.prepare({given})", progress=progress
    )


def train(
    config: PathLike | Config,
    dataset: PathLike | None = None,
    out: PathLike | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] | None = None,
    estimator: Estimator | str | None = None,
    **fields: Any,
) -> Run:
    """Train a model, and return the run: its folder, its metrics, and `run.load()`.

    A progress bar and one line for each epoch are printed.

    Args:
        config: name of a preset (`ram.list_presets()`), path of a YAML file, or a `ram.Config`.
        dataset: folder of a prepared data set; default: the config's.
        out: run folder. Default: results/ and the name of the preset or YAML file; with another
            data set than it names, or with a Config, the name of the data set.
        resume: continue the run in `out` from its last checkpoint, where it holds one.
        overwrite: replace the run in `out`.
        callbacks: called during training (`ram.Callback`). Default: curves and pictures for
            TensorBoard, in the run folder.
        estimator: how the policy learns: a name (`ppo`), or a function of your own
            (`ram.Estimator`).
        fields: any field of the config (`epochs=5, learning_rate=1e-3`).

    Raises:
        UserError: an unknown preset or field (the message names the nearest), no data set, or a
            run is in `out` already.
        RunFailed: the loss is not finite, or the disk is full.
    """
    from stacked_ram.trained import Run
    from stacked_ram.training.run import resume_run, train_run

    if callbacks is None:
        from stacked_ram.viz.training_pictures import tracking_callbacks

        callbacks = tracking_callbacks()
    if isinstance(estimator, str):  # the config's field of this name
        fields["estimator"], estimator = estimator, None
    chosen = resolve(config, dataset, **fields)
    source = None if isinstance(config, Config) else config
    folder = default_folder(source, chosen) if out is None else Path(out)
    if resume and (folder / "config.yaml").is_file():
        resume_run(folder, chosen, callbacks=callbacks, estimator=estimator)
    else:
        train_run(chosen, folder, overwrite=overwrite, callbacks=callbacks, estimator=estimator)
    return Run(folder)


def tune(
    config: PathLike | Config,
    search: Sequence[str],
    dataset: PathLike | None = None,
    out: PathLike | None = None,
    *,
    trials: int = 30,
    sampler: Literal["tpe", "gp", "random"] = "tpe",
    prune: bool = True,
    **fields: Any,
) -> Config:
    """Search fields of a configuration by Bayesian optimisation; return it with the best values.

    Each trial trains a model; the best is the one with the best validation metric. The table of
    the trials (trials.csv), plots and best.yaml are in the study's folder. The same call again
    goes on with the study.

    Args:
        config, dataset: as for `train`.
        search: fields and their values: `std=0.05:0.5`, `learning_rate=1e-4:1e-2:log`,
            `core=lstm,gru`.
        out: folder of the study. Default: the run folder that `train` would take, and -study.
        trials: number of trials, those of earlier calls included.
        sampler: tree-structured Parzen estimator, Gaussian process, or chance.
        prune: end trials early that are worse than the median of the others.
        fields: any field of the config, the same in every trial (`epochs=5`).

    Raises:
        UserError: an unknown field, an invalid range, or `out` holds a study of other fields.
        RunFailed: several trials in a row failed, or the disk is full.
    """
    from stacked_ram.training.tune import study_folder, tune_fields

    chosen = resolve(config, dataset, **fields)
    preset = None if isinstance(config, Config) else config
    folder = study_folder(preset, chosen) if out is None else Path(out)
    return tune_fields(chosen, search, folder, trials=trials, sampler=sampler, prune=prune)


def resolve(config: PathLike | Config, dataset: PathLike | None = None, **fields: Any) -> Config:
    """The configuration of a preset, a YAML file or a Config, with some fields changed.

    Raises UserError for an unknown preset or field, and for values that cannot go together.
    """
    chosen = config if isinstance(config, Config) else load_config(config)
    if dataset is not None:
        fields["dataset"] = str(dataset)
    return replace_fields(chosen, fields) if fields else chosen


def load(path: PathLike, device: str = "auto", *, fast: bool = False) -> Model:
    """Load a trained model.

    Args:
        path: a run folder (its best weights are taken) or a `.safetensors` file that a run wrote;
            `hf://user/name` (or `hf://user/name@revision`), a model on the Hugging Face Hub; or
            `demo`, a small model that comes with the package (digits on photographs), unless
            there is a run of that name.
        device: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.
        fast: look 2 to 3 times as fast on a CPU, by OpenVINO (pip install 'stacked-ram[fast]');
            the first photos of a size take some seconds longer. Such a model cannot be trained or
            attributed.

    Raises:
        UserError: there is no such run, model or device, or the file is damaged or no weights file;
            `fast` without openvino, or on a GPU.
    """
    from stacked_ram.runs import hub
    from stacked_ram.runs.checkpoint import load_run
    from stacked_ram.trained import Model

    if isinstance(path, str) and path.startswith(hub.SCHEME):
        path = hub.download(path)
    elif str(path) == "demo" and not Path(path).exists():
        path = Path(__file__).parent / "runs" / "demo"
    return Model(load_run(path, device, fast=fast))


def create_model(
    config: PathLike | Config,
    num_classes: int,
    *,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = True,
    multi_label: bool = False,
    **fields: Any,
) -> RAM:
    """Build an untrained model, a `torch.nn.Module`.

    `net(images_BCHW)` looks at B photos of C channels, uint8 (0 to 255) or floating point (0 to
    1), and returns a `Trace`: `trace.logits_BTN` holds the class scores after each of T steps,
    `trace.locations_BTS2` the locations, (x, y) in [-1, 1].

    Args:
        config: name of a preset, path of a YAML file, or a `ram.Config`.
        num_classes: number of classes (N).
        channels: 3, or 1 for grayscale photos.
        mean, std: of the photos' channels, 0 to 1. Default: 0.5 each, or those of the pretrained
            backbone, where there is one.
        pretrained: False leaves the backbone without the weights that the config names.
        multi_label: whether a photo may have several classes; `net.beliefs(trace.logits_BTN)` then
            gives each a probability of its own.
        fields: any field of the config (`num_glimpses=4`).

    Raises:
        UserError: an unknown preset or field, or a backbone or its weights cannot be had.
    """
    from stacked_ram.models.build import build_model

    return build_model(
        resolve(config, **fields).model,
        num_classes=num_classes,
        channels=channels,
        mean=mean,
        std=std,
        load_weights=pretrained,
        multi_label=multi_label,
    )


def list_models() -> dict[str, tuple[str, ...]]:
    """The built-in parts of a model by the field that names them (`retina`, `core`, ...). Each
    field takes the import path of a part of your own too; `backbone` takes timm's model names."""
    return dict(PARTS)

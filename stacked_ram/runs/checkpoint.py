"""Checkpoints: weights with everything needed to use them, and training states to resume from.

`best.safetensors` and `last.safetensors` hold weights, and in their metadata the configuration,
class names, normalisation, epoch and metrics. `state-*.pt` holds what resuming needs as well; it
is read with `weights_only=True`, so opening a file executes nothing. Every file is written whole
or not at all, with a digest (for a state: in its name) that is checked when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import from_dict, to_dict
from stacked_ram.ops.digest import digest
from stacked_ram.runs.folder import STATES, write_atomically
from stacked_ram.runtime.errors import NotWritten, UserError, brief
from stacked_ram.runtime.program import program
from stacked_ram.runtime.version import __version__

if TYPE_CHECKING:
    from stacked_ram.data.dataset import Dataset

FORMAT = 1
KEPT_STATES = 2


@dataclass
class Metadata:
    """The description of a model that is stored in its weights file."""

    config: Config
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int = 0
    progress: float = 1.0
    """Fraction of the training that was done, 0 to 1 (the policy's std depends on it)."""
    metrics: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    """What the class scores are divided by (evaluation/calibration.py)."""
    confidences: tuple[float, ...] = ()
    """Quantiles of the confidence on the validation split, from 0 to 1 in equal steps; none before
    calibration."""
    multi_label: bool = False
    """Whether a photo may have several classes, or none."""
    thresholds: tuple[float, ...] = ()
    """With several labels: the probability from which on a photo is said to have each class; none:
    0.5 for all."""


@dataclass
class LoadedRun:
    """A trained model, ready to use."""

    model: Any
    metadata: Metadata
    path: Path
    """The weights file."""
    device: torch.device
    config: Config
    """The metadata's config, with precision and channels_last as used on this device."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.metadata.classes

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent

    def check_fits(self, dataset: Dataset) -> None:
        """Raise UserError if a data set's classes, labels or channels differ from the run's."""
        several = self.metadata.multi_label
        if dataset.multi_label != several:
            has, was = ("one class", "several") if several else ("several", "one class")
            raise UserError(
                f"{dataset.folder}: its photos have {has} each, and {self.folder} was trained on"
                f" photos with {was}"
            )
        if dataset.classes != self.classes:
            raise UserError(
                f"{dataset.folder}: its {len(dataset.classes)} classes are not the"
                f" {len(self.classes)} that {self.folder} was trained on"
            )
        channels = self.metadata.channels
        if dataset.channels != channels:
            raise UserError(
                f"{dataset.folder}: its photos have {dataset.channels} channel(s), not the"
                f" {channels} that {self.folder} was trained on; give one with as many"
            )


def save_weights(path: Path, weights: dict[str, Tensor], metadata: Metadata) -> None:
    """Write weights with their metadata. Raises NotWritten if the file cannot be written."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in without_aliases(weights).items()
    }
    about = {
        "format": FORMAT,
        "version": __version__,
        "digest": digest(tensors),
        **vars(metadata),
        "config": to_dict(metadata.config),
    }
    about["seal"] = seal(about)
    content = safetensors.torch.save(tensors, {"stacked_ram": json.dumps(about)})
    write_atomically(path, content)


def read_weights(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read weights and their metadata.

    Raises UserError, which names the file, if it is missing or damaged, or was written by another
    program or in another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            notes = (file.metadata() or {}).get("stacked_ram")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from None
    if notes is None:
        raise UserError(f"{path}: weights without our metadata; not written by this program")
    try:
        about = json.loads(notes)
        whole = about.pop("seal", None) in (None, seal(about))  # earlier versions wrote none
        if whole and about["format"] != FORMAT:
            raise UserError(
                f"{path}: format {about['format']} (version {about.get('version')}); this program"
                f" reads format {FORMAT}: use that version, or train again"
            )
        if not whole or digest(tensors) != about["digest"]:
            raise UserError(f"{path}: damaged (its content does not match its digest)")
        return tensors, metadata_of(about, f"{path} (its config)")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged (in its metadata: {brief(error)})") from None


def seal(about: dict[str, Any]) -> str:
    """The digest of a weights file's metadata."""
    kept = {key: value for key, value in about.items() if key != "seal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def metadata_of(about: dict[str, Any], source: str) -> Metadata:
    """The metadata that a weights file holds as JSON. source: the file's name, for errors.

    Raises UserError for a config that is not valid, and ValueError, KeyError or TypeError if other
    values are missing or of a wrong kind.
    """
    config = from_dict(about["config"], source)
    classes, channels = tuple(about["classes"]), about["channels"]
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are not names")
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels")
    mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
    if not len(mean) == len(std) == channels:
        raise ValueError("mean and std do not have a value for each channel")
    return Metadata(
        config=config, classes=classes, channels=channels, mean=mean, std=std,
        epoch=int(about["epoch"]), progress=float(about["progress"]),
        metrics=dict(about["metrics"]), temperature=float(about.get("temperature", 1)),
        confidences=tuple(map(float, about.get("confidences", ()))),
        multi_label=bool(about.get("multi_label", False)),
        thresholds=tuple(map(float, about.get("thresholds", ()))),
    )  # fmt: skip


def without_aliases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor once, under its first name: a shared backbone has several names."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, value in weights.items():
        first.setdefault((value.data_ptr() if value.numel() else id(value), value.shape), name)
    return {name: weights[name] for name in first.values()}


def misfit_without_memory(build: Callable[[], Any], weights: dict[str, Tensor]) -> str:
    """Return what of these weights does not fit the model, or "", without memory for the model: a
    config that was changed may ask for any number of units."""
    try:
        with torch.device("meta"):
            wanted = build().state_dict()
    except (UserError, OSError):
        raise
    except Exception as error:  # some networks compute with values while they are built
        return "" if "meta tensor" in str(error) else brief(error)
    stored = sum(value.numel() for value in weights.values())
    for name, value in wanted.items():
        if name in weights and weights[name].shape != value.shape:
            return f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        if value.numel() > stored:  # not only another name of a tensor
            return f"misses {name}"
    return ""


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> str:
    """Load weights that were saved without aliases; return what does not fit, or ""."""
    wanted = without_aliases(model.state_dict())
    for name in wanted.keys() ^ weights.keys():
        return f"{'misses' if name in wanted else 'has'} {name}"
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        return str(error).splitlines()[-1].strip()
    return ""


def weights_file(run: str | Path) -> Path:
    """Return the weights file of a run's folder (its best weights), or the given file itself."""
    path = Path(run)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{path}: no such run; train it first: {program()} train PRESET --out {path}"
        )
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"{path}: holds no weights (best.safetensors); train it first: {program()} train CONFIG,"
        f" or --resume {path}"
    )


def load_run(
    run: str | Path, device: str | torch.device = "auto", *, fast: bool = False
) -> LoadedRun:
    """Load the best model of a run's folder, or the model of a weights file, in evaluation mode.

    fast: have its networks look as OpenVINO programs (models/programs.py).

    Raises UserError, which names the file, if it does not exist or cannot be used; with `fast` also
    if openvino is not installed or the device is no CPU.
    """
    from stacked_ram.config.resolve import resolve_auto
    from stacked_ram.models.build import build_model
    from stacked_ram.runtime.devices import pick_device

    path = weights_file(run)
    weights, metadata = read_weights(path)
    chosen = pick_device(str(device))

    def build() -> Any:
        return build_model(
            metadata.config.model,
            num_classes=len(metadata.classes),
            channels=metadata.channels,
            mean=metadata.mean,
            std=metadata.std,
            load_weights=False,
            multi_label=metadata.multi_label,
        )

    reason = misfit_without_memory(build, weights)
    if not reason:
        model = build()
        reason = load_weights(model, weights)
    if reason:
        raise UserError(
            f"{path}: its weights do not fit the model that this version builds ({reason})"
        )
    for name, value in weights.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: its weights are not finite ({name}); train again")
    model.anneal(metadata.progress)
    model.temperature = metadata.temperature
    model.thresholds = metadata.thresholds
    config = resolve_auto(metadata.config, chosen, trained=True)
    model = model.to(chosen).eval()
    if fast:
        from stacked_ram.models.programs import use_programs

        use_programs(model, config.training.precision)
        config = replace(config, training=replace(config.training, precision="float32"))
    return LoadedRun(model, metadata, path, chosen, config)


def save_state(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write a training state; keep it and the one before it, and remove the others: earlier ones,
    and damaged ones of a later step. Raises NotWritten (disk full, folder moved away)."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{step:09d}-{checksum(content)}.pt"
    write_atomically(path, content)
    files = state_files(folder)
    if path not in files:  # the folder was moved away meanwhile
        raise NotWritten(f"{path}: is gone after it was written")
    newest = files.index(path)
    for other in files[:newest] + files[newest + KEPT_STATES :]:
        with contextlib.suppress(OSError):
            other.unlink()
    return path


def checksum(content: bytes) -> str:
    """Return the part of a state's file name that depends on its content."""
    return hashlib.sha256(content).hexdigest()[:12]


def state_files(folder: Path) -> list[Path]:
    """Return the training states, newest first, without those that a run removes meanwhile."""
    found = []
    for path in folder.glob(STATES):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.name.split("-")[1], path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found, reverse=True)]


def restore(folder: Path, take: Callable[[dict[str, Any]], None]) -> bool:
    """Give the newest training state that is not damaged to `take`; return False if there is none.

    A state that cannot be read, or that `take` fails on, is reported on stderr, and the one before
    it is tried. Raises UserError if that is so with all, for one of another format, and as `take`.
    """
    files = state_files(folder)
    for path in files:
        try:
            take(read_state(path))
            return True
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except Exception as error:  # of what is wrong with its content, there are many kinds
            reason = f"damaged ({brief(error)})"
        print(f"{path}: {reason}; resuming from the state before it", file=sys.stderr)
    if files:
        raise UserError(
            f"{folder}: every training state is damaged or cannot be read; put one back, or start"
            " again with --overwrite"
        )
    return False


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state. Raises UserError for one of another format, and other errors for one
    that is damaged."""
    content = path.read_bytes()
    if checksum(content) != path.stem.split("-")[-1]:
        raise ValueError("its content does not match its name")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if state["format"] != FORMAT:
        raise UserError(f"{path}: format {state['format']}; this program reads format {FORMAT}")
    return state

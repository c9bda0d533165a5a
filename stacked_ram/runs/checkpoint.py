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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import from_dict, to_dict
from stacked_ram.ops.digest import digest
from stacked_ram.runs.folder import write_atomically
from stacked_ram.runtime.errors import UserError
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
        """Raise UserError if a data set's classes or channels differ from the run's."""
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
    about = json.loads(notes)
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {about.get('format')} (version {about.get('version')}); this program"
            f" reads format {FORMAT}: use that version, or train again"
        )
    if digest(tensors) != about["digest"]:
        raise UserError(f"{path}: damaged (its content does not match its digest)")
    metadata = Metadata(
        config=from_dict(about["config"], f"{path} (its config)"),
        classes=tuple(about["classes"]),
        channels=about["channels"],
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        epoch=about["epoch"],
        progress=about["progress"],
        metrics=about["metrics"],
    )
    return tensors, metadata


def without_aliases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor once, under its first name: a shared backbone has several names."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, value in weights.items():
        first.setdefault((value.data_ptr() if value.numel() else id(value), value.shape), name)
    return {name: weights[name] for name in first.values()}


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


def load_run(run: str | Path, device: str | torch.device = "auto") -> LoadedRun:
    """Load the best model of a run's folder, or the model of a weights file, in evaluation mode.

    Raises UserError, which names the file, if it does not exist or cannot be used.
    """
    from stacked_ram.config.resolve import resolve_auto
    from stacked_ram.models.build import build_model
    from stacked_ram.runtime.devices import pick_device

    path = weights_file(run)
    weights, metadata = read_weights(path)
    chosen = pick_device(str(device))
    model = build_model(
        metadata.config.model,
        num_classes=len(metadata.classes),
        channels=metadata.channels,
        mean=metadata.mean,
        std=metadata.std,
        load_weights=False,
    )
    reason = load_weights(model, weights)
    if reason:
        raise UserError(
            f"{path}: its weights do not fit the model that this version builds ({reason})"
        )
    model.anneal(metadata.progress)
    config = resolve_auto(metadata.config, chosen, trained=True)
    return LoadedRun(model.to(chosen).eval(), metadata, path, chosen, config)


def save_state(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write a training state; remove all but the last two. Raises NotWritten (disk full)."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{step:09d}-{checksum(content)}.pt"
    write_atomically(path, content)
    for old in state_files(folder)[KEPT_STATES:]:
        old.unlink(missing_ok=True)
    return path


def checksum(content: bytes) -> str:
    """Return the part of a state's file name that depends on its content."""
    return hashlib.sha256(content).hexdigest()[:12]


def state_files(folder: Path) -> list[Path]:
    """Return the training states, newest first, without those that a run removes meanwhile."""
    found = []
    for path in folder.glob("state-*.pt"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.name.split("-")[1], path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found, reverse=True)]


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the newest training state that is not damaged; None if there is no state.

    Damaged states are reported on stderr. Raises UserError if all are damaged, or the newest has
    another format.
    """
    files = state_files(folder)
    for path in files:
        content = path.read_bytes()
        if checksum(content) != path.stem.split("-")[-1]:
            print(f"{path}: damaged; resuming from the state before it", file=sys.stderr)
            continue
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise UserError(f"{path}: format {state['format']}; this program reads format {FORMAT}")
        return state
    if files:
        raise UserError(f"{folder}: every training state is damaged; start again with --overwrite")
    return None

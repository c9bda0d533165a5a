"""Checkpoints: weights that carry everything needed to use them, and states to go on from.

`best.safetensors` and `last.safetensors` hold weights, and in their metadata the configuration,
class names, normalisation, epoch and metric. `state-*.pt` holds what training needs besides;
it is read with `weights_only=True`. Nothing is ever unpickled freely. Every file is written
whole or not at all, with a digest (a state's in its name) that reading verifies.
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
class Card:
    """What a file of weights says about itself."""

    config: Config
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int = 0
    progress: float = 1.0
    """How far the training was, 0 to 1 (the policy's std follows it)."""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class LoadedRun:
    """A trained model, ready to use."""

    model: Any
    card: Card
    path: Path
    """The file of weights."""
    device: torch.device
    config: Config
    """The card's, with precision and channels_last as they are used on this device."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent

    def check_fits(self, dataset: Dataset) -> None:
        """Raises UserError where a data set has other classes or channels than the run's."""
        if dataset.classes != self.classes:
            raise UserError(
                f"{dataset.folder}: its {len(dataset.classes)} classes are not the"
                f" {len(self.classes)} that {self.folder} was trained on"
            )
        if dataset.channels != self.card.channels:
            raise UserError(
                f"{dataset.folder}: its photos have {dataset.channels} channel(s), not the"
                f" {self.card.channels} that {self.folder} was trained on; give one with as many"
            )


def save_weights(path: Path, weights: dict[str, Tensor], card: Card) -> None:
    """Write weights and their card. Raises RunFailed when the disk refuses."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in without_aliases(weights).items()
    }
    about = {
        "format": FORMAT,
        "version": __version__,
        "digest": digest(tensors),
        "config": to_dict(card.config),
        "classes": list(card.classes),
        "channels": card.channels,
        "mean": list(card.mean),
        "std": list(card.std),
        "epoch": card.epoch,
        "progress": card.progress,
        "metrics": card.metrics,
    }
    content = safetensors.torch.save(tensors, {"stacked_ram": json.dumps(about)})
    write_atomically(path, content)


def read_weights(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Weights and their card.

    Raises UserError naming the file when it is missing, damaged, of another program or of another
    format.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        with safetensors.safe_open(path, "pt") as file:
            notes = (file.metadata() or {}).get("stacked_ram")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from None
    if notes is None:
        raise UserError(f"{path}: weights without our card; not written by this program")
    about = json.loads(notes)
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {about.get('format')} (version {about.get('version')}); this program"
            f" reads format {FORMAT}: use that version, or train again"
        )
    if digest(tensors) != about["digest"]:
        raise UserError(f"{path}: damaged (its content does not match its digest)")
    card = Card(
        config=from_dict(about["config"], f"{path} (its config)"),
        classes=tuple(about["classes"]),
        channels=about["channels"],
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        epoch=about["epoch"],
        progress=about["progress"],
        metrics=about["metrics"],
    )
    return tensors, card


def without_aliases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under its first name: rooms that share a backbone name it twice."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, value in weights.items():
        first.setdefault((value.data_ptr() if value.numel() else id(value), value.shape), name)
    return {name: weights[name] for name in first.values()}


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> str:
    """Fill a model with weights saved without aliases. Returns what does not fit, or nothing."""
    wanted = without_aliases(model.state_dict())
    for name in wanted.keys() ^ weights.keys():
        return f"{'misses' if name in wanted else 'has'} {name}"
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        return str(error).splitlines()[-1].strip()
    return ""


def weights_file(run: str | Path) -> Path:
    """The file meant by a run's folder (its best weights) or by a file's own name."""
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
    """The best model of a run's folder (or of one file of weights), in evaluation mode.

    Raises UserError naming the file when there is none or it cannot be used.
    """
    from stacked_ram.config.resolve import resolve_auto
    from stacked_ram.models.build import build_model
    from stacked_ram.runtime.devices import pick_device

    path = weights_file(run)
    weights, card = read_weights(path)
    chosen = pick_device(str(device))
    model = build_model(
        card.config.model,
        num_classes=len(card.classes),
        channels=card.channels,
        mean=card.mean,
        std=card.std,
        load_weights=False,
    )
    reason = load_weights(model, weights)
    if reason:
        raise UserError(
            f"{path}: its weights do not fit the model that this version builds ({reason})"
        )
    model.anneal(card.progress)
    config = resolve_auto(card.config, chosen, trained=True)
    return LoadedRun(model.to(chosen).eval(), card, path, chosen, config)


def save_state(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write a training state and drop all but the last two. Raises RunFailed (disk full)."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{step:09d}-{checksum(content)}.pt"
    write_atomically(path, content)
    for old in state_files(folder)[KEPT_STATES:]:
        old.unlink(missing_ok=True)
    return path


def checksum(content: bytes) -> str:
    """Part of a state's name: what is in the file must agree with it."""
    return hashlib.sha256(content).hexdigest()[:12]


def state_files(folder: Path) -> list[Path]:
    """Training states, newest first; one that its run removes meanwhile is left out."""
    found = []
    for path in folder.glob("state-*.pt"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.name.split("-")[1], path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found, reverse=True)]


def read_state(folder: Path) -> dict[str, Any] | None:
    """The newest training state that is whole; None where there is none at all.

    A damaged one is named on stderr and the one before it used. Raises UserError when all are
    damaged, or when the newest is of another format.
    """
    files = state_files(folder)
    for path in files:
        content = path.read_bytes()
        if checksum(content) != path.stem.split("-")[-1]:
            print(f"{path}: damaged; going on from the one before it", file=sys.stderr)
            continue
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise UserError(f"{path}: format {state['format']}; this program reads format {FORMAT}")
        return state
    if files:
        raise UserError(f"{folder}: every training state is damaged; start again with --overwrite")
    return None

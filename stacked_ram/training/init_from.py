"""Start a model from the weights of another run, whose classes may be others."""

from __future__ import annotations

import torch

from stacked_ram.models.ram import RAM
from stacked_ram.runs.checkpoint import read_weights, weights_file, without_aliases
from stacked_ram.runtime.errors import UserError


@torch.no_grad()
def init_from(model: RAM, run: str, classes: tuple[str, ...]) -> str:
    """Take all tensors of a run whose name and shape are the same, and say what was taken.

    The classifier is taken only if the classes are the same, in the same order. Batch-norm
    statistics and the photos' mean and std are taken too, as the weights belong to them.

    Raises UserError if the run has no weights that can be read, or nothing of the retina fits.
    """
    path = weights_file(run)
    given, metadata = read_weights(path)
    own = without_aliases(model.state_dict())
    same_classes = metadata.classes == classes
    taken, new, sees = [], [], False
    for name, tensor in own.items():
        source = given.get(name)
        if source is None:
            new.append(f"{name} (not there)")
        elif source.shape != tensor.shape:
            new.append(f"{name} ({shape(source)} there, {shape(tensor)} here)")
        elif name.startswith("classifier.") and not same_classes:
            new.append(f"{name} (of other classes)")
        else:
            tensor.copy_(source)
            taken.append(tensor)
            visual = name.startswith("backbone.") or ".retina." in name
            sees = sees or (visual and tensor.ndim > 1)
    if not sees:
        raise UserError(
            f"init_from: {path}: no weights of its retina fit this model; is it another?"
        )
    unused = [name for name in given if name not in own]
    parts = [f"took {len(taken)} of {len(own)} tensors ({sum(t.numel() for t in taken):,} values)"]
    if new:
        parts.append(f"new: {some(new)}")
    if unused:
        parts.append(f"not used: {some(unused)}")
    return f"init_from {path}: {'; '.join(parts)}"


def shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "1"


def some(names: list[str], most: int = 6) -> str:
    """Join names; of many, the first."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest

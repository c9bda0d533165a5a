"""A run or a configuration in words: layers, parameters and cost."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, to_dict
from stacked_ram.data.dataset import read_dataset_info
from stacked_ram.data.remote import dataset_folder
from stacked_ram.evaluation.cost import count_parameters, photo_cost, stored_size
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.runs.checkpoint import LoadedRun, load_run

DEPTH = 4  # levels of the tree of layers that are shown
# assumed without the data set
CLASSES, CHANNELS, SIZE = 10, 3, (224, 224)


def describe(path: Path, size: tuple[int, int] | None = None) -> str:
    """Describe a run folder, a weights file, a YAML file or a preset, line by line.

    size: (height, width) of the photo on which GMACs are counted; default: the data set's.
    Raises UserError where there is nothing at the path, or it cannot be read.
    """
    if path.exists() and path.suffix not in (".yaml", ".yml"):
        loaded = load_run(path, "cpu")
        config, model = loaded.config, loaded.model
        metrics = loaded.metadata.metrics
        shown = [f"{name} {metrics[name]:g}" for name in sorted(metrics) if "valid" in name]
        lines = [
            f"{loaded.path}: trained {loaded.metadata.epoch} epochs"
            f" ({loaded.metadata.progress:.0%} of the run)",
            *([f"validation: {', '.join(shown)}"] if shown else []),
            f"classes: {', '.join(loaded.classes)}",
            *thresholds_line(loaded),
        ]
    else:
        config, lines = load_config(path), [f"{path}: a configuration"]
        model = untrained(config, lines)
    size = size or stored_size(config)
    if size is None:
        size = SIZE
        lines.append(f"no data set at {config.data.dataset}: photos assumed to be {size}")
    lines += ["", *layers(model), "", *figures(model, size)]
    for section, fields in to_dict(config).items():
        lines.append(f"{section}: " + ", ".join(f"{name} {fields[name]}" for name in fields))
    return "\n".join(lines)


def thresholds_line(loaded: LoadedRun) -> list[str]:
    """Say from which probability on each class is said, where a photo may have several."""
    if not loaded.metadata.multi_label:
        return []
    thresholds = zip(loaded.classes, loaded.model.thresholds_N.tolist(), strict=True)
    shown = ", ".join(f"{name} {threshold:.2g}" for name, threshold in thresholds)
    return [f"a photo may have several classes (multi-label); thresholds: {shown}"]


def untrained(config: Config, lines: list[str]) -> RAM:
    """Build the model of a configuration; adds a line about anything that had to be assumed."""
    count, channels, several = CLASSES, CHANNELS, False
    mean, std = [0.5] * channels, [0.5] * channels
    folder = dataset_folder(config.data.dataset)
    if (folder / "dataset.yaml").is_file():
        info = read_dataset_info(folder)
        count, channels = len(info["classes"]), info["channels"]
        mean, std = info["mean"], info["std"]
        several = info.get("labels") == "several"
    else:
        lines.append(f"no data set at {folder}: {count} classes and {channels} channels assumed")
    return build_model(
        config.model, num_classes=count, channels=channels, mean=mean, std=std, load_weights=False,
        multi_label=several,
    )  # fmt: skip


def layers(model: nn.Module) -> list[str]:
    """The tree of modules down to DEPTH, with their types and numbers of parameters."""
    lines = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        depth = name.count(".") + 1 if name else 0
        if depth > DEPTH or id(module) in seen:
            continue
        seen.add(id(module))
        count, _ = count_parameters(module)
        label = "  " * depth + (name.rpartition(".")[2] or "model")
        lines.append(f"{label:34} {type(module).__name__:24} {count:>12,}".rstrip())
    return lines


def figures(model: RAM, size: tuple[int, int]) -> list[str]:
    count, trained = count_parameters(model)
    cost = photo_cost(model, *size)
    return [
        f"parameters  {count:,} ({trained:,} trained)",
        f"GMACs       {cost.total:.4f} a photo of {size[0]}x{size[1]}: {cost.before:.4f} before the"
        f" first glimpse, {cost.per_glimpse:.4f} for each of"
        f" {model.num_glimpses} glimpses",
    ]

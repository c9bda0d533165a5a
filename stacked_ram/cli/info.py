"""The info command: layers, parameters and cost of a run or a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from stacked_ram.cli.main import Info
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config, to_dict
from stacked_ram.data.dataset import open_dataset, read_dataset_info
from stacked_ram.evaluation.cost import count_parameters, photo_cost, typical_size
from stacked_ram.models.build import build_model
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import check

DEPTH = 4  # of the tree of layers that is shown
GUESS = {"classes": 10, "channels": 3, "size": (224, 224)}  # where no data set is at hand


def info(options: Info) -> None:
    path = options.what
    check(min(options.size or (1,)) >= 1, f"--size: {options.size} is not above 0")
    if path.exists() and path.suffix not in (".yaml", ".yml"):
        loaded = load_run(path, "cpu")
        config, model = loaded.config, loaded.model
        metrics = loaded.card.metrics
        shown = [f"{name} {metrics[name]:g}" for name in sorted(metrics) if "valid" in name]
        said = [
            f"{loaded.path}: trained {loaded.card.epoch} epochs"
            f" ({loaded.card.progress:.0%} of the run)",
            *([f"validation: {', '.join(shown)}"] if shown else []),
            f"classes: {', '.join(loaded.classes)}",
        ]
    else:
        config, said = load_config(path), [f"{path}: a configuration"]
        model = untrained(config, said)
    size = options.size or stored_size(config)
    if size is None:
        size = GUESS["size"]
        said.append(f"no data set at {config.data.dataset}: its photos taken to have {size}")
    print("\n".join([*said, "", *layers(model), "", *figures(model, size)]))
    fields = to_dict(config)
    print("\n".join(f"{section}: {one_line(fields[section])}" for section in fields))


def untrained(config: Config, said: list[str]) -> Any:
    """A model as the configuration says; what had to be guessed is said."""
    count, channels = GUESS["classes"], GUESS["channels"]
    mean, std = [0.5] * channels, [0.5] * channels
    folder = Path(config.data.dataset)
    if (folder / "dataset.yaml").is_file():
        facts = read_dataset_info(folder)
        count, channels = len(facts["classes"]), facts["channels"]
        mean, std = facts["mean"], facts["std"]
    else:
        said.append(f"no data set at {folder}: taken to have {count} classes, {channels} channels")
    return build_model(
        config.model, num_classes=count, channels=channels, mean=mean, std=std, load_weights=False
    )


def stored_size(config: Config) -> tuple[int, int] | None:
    """(height, width) that the model gets: the configured one, or that of a typical photo; None
    where no data set is at hand."""
    if config.data.photo_size is not None:
        return config.data.photo_size
    folder = Path(config.data.dataset)
    if not (folder / "dataset.yaml").is_file():
        return None
    return typical_size(open_dataset(config.data, "train"), config.data)


def layers(model: nn.Module) -> list[str]:
    """The tree of modules to a few levels, with their kinds and parameters."""
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


def figures(model: Any, size: tuple[int, int]) -> list[str]:
    count, trained = count_parameters(model)
    cost = photo_cost(model, *size)
    steps = model.config.num_glimpses
    return [
        f"parameters  {count:,}, of which trained {trained:,}",
        f"GMACs       {cost.total:.4f} a photo of {size[0]}x{size[1]}: {cost.before:.4f} before the"
        f" first glimpse, {cost.per_glimpse:.4f} for each of {steps} glimpses",
    ]


def one_line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())

"""The model card: data, figures beside the controls, limits and licence, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stacked_ram.evaluation.evaluate import CONTROL_WORDS
from stacked_ram.runs.checkpoint import LoadedRun

OTHER_WORDS = {"box given": ("the same model made to look at the object",)}
TAGS = ["image-classification", "recurrent-attention-model", "stacked_ram"]


def test_figures(folder: Path) -> dict[str, Any] | None:
    """Read what `test` wrote into a run's folder, or None."""
    path = folder / "test.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def model_card(
    loaded: LoadedRun,
    figures: dict[str, Any] | None,
    *,
    name: str,
    load: str,
    licence: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Write the card of a model.

    figures: of its test (`test_figures`); None: not measured, and the card says so. name: its
    title. load: what `ram.load` takes. licence: of the weights, as the Hub abbreviates it (mit).
    pictures: paths beside the card.
    """
    model, data = loaded.config.model, loaded.config.data
    dataset = Path(data.dataset).name
    classes, several = loaded.classes, loaded.metadata.multi_label
    kind = "A multi-label" if several else "An"
    looks = f"{model.num_glimpses} glimpses of {model.num_patches} patches of {model.patch_size}"
    lines = [
        *front_matter(figures, dataset, licence, several),
        f"# {name}",
        "",
        f"{kind} image classifier that looks at a photo as the Recurrent Attention Model does"
        f" ([Mnih et al., 2014](https://arxiv.org/abs/1406.6247)): {looks} pixels, each location"
        f" chosen from what it saw before. Retina `{model.retina}`, core `{model.core}`, attention"
        f" `{model.attention}`, {sum(p.numel() for p in loaded.model.parameters()):,} parameters.",
        "",
        "```python",
        "import stacked_ram as ram",
        "",
        f'model = ram.load("{load}")',
        'result = model.look("photo.jpg")',
        "result.labels, result.belief, result.locations"
        if several
        else "result.label, result.probability, result.locations",
        "```",
        "",
        "## Data",
        "",
        f"Data set `{dataset}`, {len(classes)} classes: {some_names(classes)}."
        + (" A photo may have several of them, or none." if several else ""),
        *(size_line(loaded)),
        "",
        "## Figures",
        "",
        *figure_lines(figures, loaded.config.training.seed),
        "",
        *picture_lines(pictures),
        "## Limits",
        "",
        f"It knows these {len(classes)} classes only, and"
        f" {'says of each whether' if several else 'answers one of them for'} any photo"
        f"{' has it' if several else ''}. It was"
        " trained and measured on photos of one data set: on others its accuracy is unknown."
        f" {calibration(loaded)} Where a control is as good as the model, its"
        " attention is worth nothing there.",
        "",
        "## Licence",
        "",
        f"Weights: {licence}." if licence else "The licence of the weights was not stated.",
        "The code is stacked_ram's, under the MIT licence.",
    ]
    return "\n".join(lines) + "\n"


def calibration(loaded: LoadedRun) -> str:
    """Say what its probabilities mean."""
    if loaded.metadata.confidences:
        return "Its probabilities were calibrated on the validation split of that data set."
    return "Its probabilities were not calibrated."


def front_matter(
    figures: dict[str, Any] | None, dataset: str, licence: str | None, multi_label: bool
) -> list[str]:
    """The YAML that the Hub reads."""
    import yaml

    facts: dict[str, Any] = {
        "library_name": "stacked_ram",
        "pipeline_tag": "image-classification",
        "tags": [*TAGS, *(["multi-label"] if multi_label else [])],
    }
    if licence:
        facts["license"] = licence
    if figures:
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": dataset, "type": dataset, "split": figures["split"]},
            "metrics": [
                {"type": metric_of(figures), "value": round(figures[metric_of(figures)], 4)}
            ],
        }
        facts["model-index"] = [{"name": "stacked_ram", "results": [result]}]
    return ["---", yaml.safe_dump(facts, sort_keys=False).strip(), "---", ""]


def metric_of(figures: dict[str, Any]) -> str:
    """The first figure of a test: accuracy, or mAP with several labels."""
    return "mAP" if "mAP" in figures else "accuracy"


def some_names(classes: Sequence[str], most: int = 20) -> str:
    rest = f" and {len(classes) - most} more" if len(classes) > most else ""
    return ", ".join(classes[:most]) + rest


def size_line(loaded: LoadedRun) -> list[str]:
    data = loaded.config.data
    if data.photo_size is not None:
        return [f"Photos are resized to {data.photo_size[0]}x{data.photo_size[1]} (height, width)."]
    if data.short_side is not None:
        return [f"Photos are reduced to a shorter side of {data.short_side} pixels."]
    return ["Photos are taken at their own size."]


def figure_lines(figures: dict[str, Any] | None, seed: int) -> list[str]:
    """The model beside its controls, as a table, and how that was measured."""
    if figures is None:
        return ["Not measured: `test` was not run before this card was written."]
    low, high = figures["interval_95"]
    metric = metric_of(figures)
    gmacs = figures["gmacs"]["total"]
    rows = [(f"**this model**, {figures['pass']}", figures[metric], f"{gmacs:.4f}")]
    for name, control in figures.get("controls", {}).items():
        words = CONTROL_WORDS.get(name, OTHER_WORDS.get(name, (name,)))[0]
        rows.append((f"control: {words}", control[metric], ""))
    for row in figures.get("linear_probe", {}).get("sizes", []):
        rows.append((f"linear probe at {row['size']}", row[metric], f"{row['gmacs']:.4f}"))
    return [
        f"On the {figures['split']} split, {figures['photos']} photos (95 % confidence interval"
        f" {low:.1%} to {high:.1%}); training seed {seed}, measured {figures['when'][:10]} by"
        f" `{figures['command']}` of stacked_ram {figures['versions']['stacked_ram']} on"
        f" {figures['machine']}:",
        "",
        f"| | {metric} | GMACs a photo |",
        "|---|---:|---:|",
        *(f"| {words} | {accuracy:.1%} | {cost} |" for words, accuracy, cost in rows),
        "",
        "After each glimpse: "
        + ", ".join(f"{value:.1%}" for value in figures[f"{metric}_after"])
        + ".",
        *(["", *(f"- {line}" for line in figures["meaning"])] if figures.get("meaning") else []),
        *([] if "controls" in figures else ["", "The controls were not measured."]),
    ]


def picture_lines(pictures: Sequence[str]) -> list[str]:
    if not pictures:
        return []
    shown = [f"![Where the model looked, and what it believed]({path})" for path in pictures]
    return ["## Where it looks", "", *shown, ""]

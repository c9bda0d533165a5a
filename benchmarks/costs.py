"""What each preset costs: parameters, and GMACs of a photo by torch's counter, in one table.

    python benchmarks/costs.py [--out results/tables/preset_costs.csv]

No weights are loaded and no data set is needed; the photo is as large as the preset says:
photo_size, 4:3 photos of short_side, or the digits' canvas.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas
import repository  # noqa: F401

from stacked_ram.build import build_model
from stacked_ram.config import Config, load_config
from stacked_ram.cost import count_parameters, photo_cost

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES = {
    "stanford_dogs": 120,
    "flowers17": 17,
    "scenes_flowers17": 17,
    "flowers5": 5,
    "bach": 4,
    "needle": 4,
}  # others: 10

SHAPES = {  # of data sets whose photos are kept as they are stored
    "demo": (3, 72, 96),
    "needle": (3, 1536, 2048),
    "scenes_flowers17": (3, 768, 1024),
}


def photo_shape(config: Config) -> tuple[int, int, int]:
    """Channels, height and width of a preset's photos."""
    name = Path(config.data.dataset).name
    if config.data.photo_size is not None:
        return 3, *config.data.photo_size
    if config.data.short_side is not None:
        return 3, config.data.short_side, config.data.short_side * 4 // 3
    if name in SHAPES:
        return SHAPES[name]
    side = int((re.search(r"\d+$", name) or ["28"])[0])
    return 1, side, side


def row(name: str, config: Config) -> dict[str, object]:
    channels, height, width = photo_shape(config)
    model = build_model(
        config.model,
        num_classes=CLASSES.get(Path(config.data.dataset).name, 10),
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        load_weights=False,
    )
    cost = photo_cost(model, height, width)
    parameters, trained = count_parameters(model)
    return {
        "preset": name,
        "photo": f"{height}x{width}",
        "parameters": parameters,
        "trained": trained,
        "glimpses": config.model.num_glimpses,
        "gmacs_before": round(cost.before, 6),
        "gmacs_per_glimpse": round(cost.per_glimpse, 6),
        "gmacs_core_per_glimpse": round(cost.core, 6),
        "gmacs_total": round(cost.total, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    options = parser.parse_args()
    table = pandas.DataFrame(
        [row(path.stem, load_config(path)) for path in sorted(CONFIGS.glob("*.yaml"))]
    )
    print(table.to_string(index=False))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()

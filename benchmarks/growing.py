"""How costs grow with the number of photos: opening a prepared data set, the order of an epoch,
the batches of a pass over it, and the names that `predict` takes from a CSV.

    python benchmarks/growing.py [--quick] [--most 6] [--out growing.csv]

For 10^2 to 10^6 photos, each in a process of its own: processor seconds, and how much more memory
(MB) the process held at most than before. The rows are generated, and there are no photos: none is
opened. `slope`: of log time over log photos, from 10^4 on; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import repository  # noqa: F401
import yaml
from memory import peak

CLASSES = 10
BATCH = 64


def prepared(folder: Path, photos: int) -> None:
    """Write the tables of a prepared data set of that many photos."""
    numbers = np.arange(photos)
    rng = np.random.default_rng(0)
    split = np.where(numbers % 50 == 0, "valid", np.where(numbers % 50 == 1, "test", "train"))
    classes = [f"class_{label}" for label in range(CLASSES)]
    named = [classes[number % CLASSES] for number in numbers.tolist()]
    rows = zip(split.tolist(), named, numbers.tolist(), strict=True)
    table = {
        "path": [f"{part}/{name}/photo_{number:07d}.jpg" for part, name, number in rows],
        "class": named, "split": split,
        "width": rng.integers(300, 600, photos), "height": rng.integers(300, 600, photos),
    }  # fmt: skip
    pandas.DataFrame(table).to_csv(folder / "manifest.csv", index=False)
    info = {
        "format": 1, "kind": "photos", "name": "growing", "classes": classes, "channels": 3,
        "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))


def measured(work: Callable[[], object]) -> tuple[float, float, object]:
    """Processor seconds of some work, the MB that it held at most, and its result."""
    result, begun = [], time.process_time()
    megabytes = peak(lambda: result.append(work()))
    return time.process_time() - begun, megabytes, result[0]


def row(folder: Path, photos: int) -> dict[str, float]:
    from stacked_ram.config.schema import DataConfig
    from stacked_ram.data.batching import drawn, evaluation_batches, training_batches
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.evaluation.predict import photo_names

    prepared(folder, photos)
    config = DataConfig(dataset=str(folder))
    seconds, megabytes, dataset = measured(lambda: open_dataset(config, "train"))
    found = {"photos": photos, "open, s": seconds, "open, MB": megabytes}
    rows = drawn(dataset.labels, 0, 1, False)
    sizes = dataset.sizes[rows.index_B]
    how = {"batch_size": BATCH, "rank": 0, "world": 1}
    found["epoch, s"], found["epoch, MB"], _ = measured(
        lambda: training_batches(drawn(dataset.labels, 0, 1, False), sizes, seed=0, epoch=1, **how)
    )
    found["pass, s"], found["pass, MB"], _ = measured(
        lambda: evaluation_batches(dataset.sizes, **how)
    )
    found["names, s"], found["names, MB"], count = measured(
        lambda: sum(1 for _ in photo_names([str(folder / "manifest.csv")]))
    )
    assert count == photos
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 photos")
    parser.add_argument("--most", type=int, default=6, help="the largest power of 10")
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    parser.add_argument("--photos", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.photos:
            print(json.dumps(row(Path(folder), options.photos)))
            return
        rows = []
        for power in range(2, (3 if options.quick else options.most) + 1):
            command = [sys.executable, __file__, "--photos", str(10**power)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(done.stdout))
    table = pandas.DataFrame(rows)
    print(table.round(4).to_string(index=False))
    large = table[table.photos >= 10**4]
    if len(large) > 1:
        times = [name for name in table if name.endswith(", s")]
        grown = math.log10(large.photos.iloc[-1] / large.photos.iloc[0])
        slopes = {
            name: round(math.log10(large[name].iloc[-1] / large[name].iloc[0]) / grown, 2)
            for name in times
        }
        print("slope:", slopes)
    if options.out is not None:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()

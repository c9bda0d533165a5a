"""How fast batches come, beside torchvision's ImageFolder + DataLoader with the same transform.

    python benchmarks/loader.py --dataset datasets/flowers17      a prepared data set
    python benchmarks/loader.py --quick                           photos made for the purpose
    python benchmarks/loader.py --shards --dataset ...            shards beside the folder alone

Both hand over uint8 batches. `photos/s` is by the clock, with workers, and means nothing on a
machine that has other things to do; `CPU ms/photo` is processor time without workers. The first
epoch decodes (ours starts with an empty cache and fills it), the second reads what is there.
At last, a training step with the loader beside the same step with one batch that stays.

With --shards: an epoch of the folder and one of its shards take turns, both without a cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import repository  # noqa: F401
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from stacked_ram.config.schema import Config, DataConfig, TrainingConfig
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader
from stacked_ram.preparation.pack import write_shards
from stacked_ram.preparation.progress import progress_shown

SHARD_MEGABYTES = 10
TARGETS = {"shards": 0.9, "first": 1.2, "second": 3.0, "step": 1.05}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, help="prepared data set of kind photos")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many is taken")
    parser.add_argument("--quick", action="store_true", help="a few photos, one round")
    parser.add_argument("--shards", action="store_true", help="shards beside the folder alone")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    with tempfile.TemporaryDirectory() as folder:
        dataset = options.dataset or made_photos(
            Path(folder) / "photos", 96 if options.quick else 600
        )
        work = linked(dataset, Path(folder) / "linked")
        print(f"{dataset}, {len(list((work / 'train').glob('*/*')))} photos, to {options.side}"
              f" pixels, batches of {options.batch_size}, {options.workers} workers,"
              f" torch {torch.__version__}\n")  # fmt: skip
        if options.shards:
            beside_shards(work, options)
            return
        print(f"{'case':<12}{'epoch':<8}{'photos/s':>20}{'ratio':>7}{'CPU ms/photo':>16}"
              f"{'ratio':>7}{'target':>8}")  # fmt: skip
        for case in cases(options.side):
            compare(case, work, options)
        step(work, options)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    data: dict[str, object]
    transform: v2.Transform
    collate: Callable | None = None


def cases(side: int) -> list[Case]:
    flip, tensor = v2.RandomHorizontalFlip(), v2.PILToTensor()
    return [
        Case("one size", {"photo_size": (side, side)}, v2.Compose([
            v2.Resize((side, side)), flip, tensor])),
        Case("crops", {"photo_size": (side, side), "crop_area": (0.5, 1.0)}, v2.Compose([
            v2.RandomResizedCrop((side, side), scale=(0.5, 1.0)), flip, tensor])),
        Case("own shapes", {"short_side": side}, v2.Compose([
            v2.Resize(side), flip, tensor]), padded),
    ]  # fmt: skip


def padded(photos: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain way to batch photos of different sizes."""
    height = max(photo.shape[1] for photo, _ in photos)
    width = max(photo.shape[2] for photo, _ in photos)
    pixels = torch.zeros(len(photos), 3, height, width, dtype=torch.uint8)
    for row, (photo, _) in zip(pixels, photos, strict=True):
        row[:, : photo.shape[1], : photo.shape[2]] = photo
    return pixels, torch.tensor([label for _, label in photos])


def compare(case: Case, work: Path, options: argparse.Namespace) -> None:
    """One row for the first epoch and one for the second."""
    found: dict[tuple[str, str], list[float]] = {}

    def note(epoch: str, who: str, value: float) -> None:
        found.setdefault((epoch, who), []).append(value)

    for _ in range(options.rounds):
        for workers, clock in ((options.workers, time.perf_counter), (0, time.process_time)):
            kind = "CPU" if workers == 0 else "clock"
            theirs = DataLoader(
                datasets.ImageFolder(work / "train", case.transform), options.batch_size,
                shuffle=True, num_workers=workers, persistent_workers=workers > 0,
                collate_fn=case.collate,
            )  # fmt: skip
            shutil.rmtree(work / ".cache", ignore_errors=True)
            ours = our_loader(work, options.batch_size, workers, flip=True, **case.data)
            for number, epoch in enumerate(("first", "second")):
                ours.set_epoch(number)
                note(epoch, f"theirs {kind}", seconds_a_photo(theirs, clock))
                note(epoch, f"ours {kind}", seconds_a_photo(ours, clock))
            ours.close()
    for epoch in ("first", "second"):
        best = {who: min(values) for (which, who), values in found.items() if which == epoch}
        rates = f"{1 / best['theirs clock']:,.0f} -> {1 / best['ours clock']:,.0f}"
        costs = f"{1e3 * best['theirs CPU']:.2f} -> {1e3 * best['ours CPU']:.2f}"
        print(f"{case.name:<12}{epoch:<8}{rates:>20}"
              f"{best['theirs clock'] / best['ours clock']:>7.1f}{costs:>16}"
              f"{best['theirs CPU'] / best['ours CPU']:>7.1f}{TARGETS[epoch]:>8}")  # fmt: skip


def beside_shards(work: Path, options: argparse.Namespace) -> None:
    """An epoch of the folder and an epoch of its shards in turns, by the clock with workers and by
    the processor's time without."""
    with progress_shown(False):
        homes = {"folder": work, "shards": write_shards(work, SHARD_MEGABYTES)}
    print(f"{len(list(homes['shards'].glob('train-*.tar')))} shards of {SHARD_MEGABYTES} MB;"
          f" {options.rounds} rounds, the best of each\n")  # fmt: skip
    print(f"{'case':<12}{'folder, photos/s':>18}{'shards':>8}{'ratio':>7}"
          f"{'folder, CPU ms/photo':>23}{'shards':>8}{'ratio':>7}{'target':>8}")  # fmt: skip
    for case in cases(options.side):
        best = {}
        for workers, clock in ((options.workers, time.perf_counter), (0, time.process_time)):
            loaders = {}
            for name, home in homes.items():
                config = Config(
                    data=DataConfig(
                        dataset=str(home), workers=workers, cache="none", flip=True, **case.data
                    ),
                    training=TrainingConfig(batch_size=options.batch_size),
                )
                dataset = open_dataset(config.data, "train", stream=True)
                loaders[name] = make_loader(dataset, config, train=True)
            for epoch in range(options.rounds + 1):  # the first starts the workers
                for name, loader in loaders.items():
                    loader.set_epoch(epoch)
                    seconds = seconds_a_photo(loader, clock)
                    if epoch:
                        best[name, workers] = min(seconds, best.get((name, workers), seconds))
            for loader in loaders.values():
                loader.close()
        with_workers, alone = ({n: best[n, w] for n in homes} for w in (options.workers, 0))
        print(f"{case.name:<12}{1 / with_workers['folder']:>18,.0f}"
              f"{1 / with_workers['shards']:>8,.0f}"
              f"{with_workers['folder'] / with_workers['shards']:>7.2f}"
              f"{1e3 * alone['folder']:>23.2f}{1e3 * alone['shards']:>8.2f}"
              f"{alone['folder'] / alone['shards']:>7.2f}{TARGETS['shards']:>8}")  # fmt: skip


def step(work: Path, options: argparse.Namespace) -> None:
    """Training steps of a small convolutional network with the loader, and with one batch."""
    loader = our_loader(work, options.batch_size, 1, flip=True, photo_size=(options.side,) * 2)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 7, 4, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(128, len(loader.dataset.classes)),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def learn(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels.float() / 255), labels).backward()
        optimizer.step()

    for batch in loader:  # fills the cache, starts the worker
        first = batch
    times = {"loader": [], "resident": []}
    for epoch in range(1, options.rounds + 2):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        for batch in loader:
            learn(batch.pixels_BCHW, batch.labels_B)
        times["loader"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for rows in loader.batches:
            count = len(rows.index_B)
            learn(first.pixels_BCHW[:count], first.labels_B[:count])
        times["resident"].append(time.perf_counter() - start)
    loader.close()
    steps = len(loader)
    with_loader, resident = (min(times[which]) / steps for which in ("loader", "resident"))
    print(f"\nstep with the loader {1e3 * with_loader:.0f} ms, with a resident batch "
          f"{1e3 * resident:.0f} ms: ratio {with_loader / resident:.2f} "
          f"(target at most {TARGETS['step']})")  # fmt: skip


def our_loader(work: Path, batch_size: int, workers: int, **data: object):
    config = Config(
        data=DataConfig(dataset=str(work), workers=workers, cache="disk", **data),
        training=TrainingConfig(batch_size=batch_size),
    )
    return make_loader(open_dataset(config.data, "train"), config, train=True)


def seconds_a_photo(batches: Iterable, clock: Callable[[], float]) -> float:
    start, count = clock(), 0
    for batch in batches:
        count += len(batch if hasattr(batch, "labels_B") else batch[1])
    return (clock() - start) / count


def linked(dataset: Path, folder: Path) -> Path:
    """The data set in a folder of its own, so that its cache is not touched."""
    folder.mkdir()
    for name in ("train", "valid", "test", "manifest.csv", "dataset.yaml"):
        if (dataset / name).exists():
            (folder / name).symlink_to((dataset / name).resolve())
    return folder


def made_photos(folder: Path, count: int) -> Path:
    """A prepared data set of smooth coloured JPEGs about as large as `prepare_data.py` stores."""
    rng = np.random.default_rng(0)
    rows = ["path,class,split,width,height"]
    for number in range(count):
        width, height = ((683, 512), (512, 683), (512, 512), (768, 512))[number % 4]
        small = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        path = f"train/{'ab'[number % 2]}/{number:05}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        small.resize((width, height), Image.Resampling.BICUBIC).save(folder / path, quality=92)
        rows.append(f"{path},{'ab'[number % 2]},train,{width},{height}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    facts = {"format": 1, "kind": "photos", "classes": ["a", "b"], "mean": [0.5] * 3,
             "std": [0.25] * 3, "channels": 3}  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(facts))
    return folder


if __name__ == "__main__":
    main()

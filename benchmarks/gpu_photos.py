"""Training on photos and looking at them as users do, on a GPU, in one run of under 8 minutes.

    python benchmarks/gpu_photos.py [--out gpu_photos.json]      on a CUDA GPU
    python benchmarks/gpu_photos.py --device cpu --quick         the same code, a touch of it

Photos are made here: JPEGs as large as the preset's, a few of them under many names. Each part runs
in a process of its own, correctness first.

    check     the presets' answers on the device against float32 on the CPU; photos of several
              sizes in a batch; JPEGs that the card decodes (nvJPEG) against those of the CPU
    decode    photos/s of the training loader alone, and of nvJPEG
    scenes, flowers
              scenes_flowers17_closer and flowers17_lite0, batch 256, bf16, photos/s:
                step      the training step alone, on a batch that lies on the device
                trainer   whole epochs as `main.py train` runs them (goal: 0.9 of `step`)
                timm      timm's loader, model and optimiser: the same backbone and photos,
                          fine-tuned at the size of equal GMACs (rollouts counted; goal: 0.9 of it)
    predict   `main.py predict` over 10,000 names, with all glimpses and with early exit
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import torch
import yaml
from costs import CONFIGS, photo_shape
from gpu_check import bounded
from gpu_engine import train
from gpu_parts import Row, clocked, run_all, settled
from looking import write_photos

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import load_config
from stacked_ram.evaluation.cost import photo_cost
from stacked_ram.evaluation.predict import padded, predict_stream
from stacked_ram.images.decoding import read_photo
from stacked_ram.models.build import build_model
from stacked_ram.runs.checkpoint import LoadedRun, Metadata
from stacked_ram.runtime.devices import autocast, pick_device

PRESETS = {"scenes": "scenes_flowers17_closer", "flowers": "flowers17_lite0"}
CLASSES = tuple(map(str, range(17)))
MEAN, STD = (0.5,) * 3, (0.25,) * 3
SCALE: dict[str, Any] = {"channels": 3, "mean": MEAN, "std": STD}
SHARE = 0.9  # of the step's and of timm's rate: the goals
TOLERANCE = 2e-2  # of probabilities: TF32 and other kernels


class Amount:
    """How much is done: all of it, or a touch of everything."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.distinct, self.photos = (4, 8) if quick else (64, 2048)
        self.batch, self.steps = (4, 1) if quick else (256, 12)
        self.names = 8 if quick else 10_000
        self.backbone = "test_efficientnet" if quick else "tf_efficientnet_lite0"


def asked(part: str, folder: Path, options: argparse.Namespace) -> Config:
    """The preset's recipe on made photos, at the batch of a large card."""
    amount = Amount(options.quick)
    config = load_config(CONFIGS / f"{PRESETS[part]}.yaml")
    return replace(
        config,
        data=replace(
            config.data, dataset=str(folder), workers=0 if options.quick else options.workers,
            cache="none",
        ),
        model=replace(config.model, backbone=amount.backbone, weights="none",
                      freeze_backbone=False),
        training=replace(
            config.training, batch_size=amount.batch, device=options.device, precision="bf16",
            pictures_every=0,
        ),
    )  # fmt: skip


def made(folder: Path, part: str, options: argparse.Namespace) -> Path:
    """A prepared data set of made JPEGs, a few pictures under many names."""
    amount = Amount(options.quick)
    shape = photo_shape(load_config(CONFIGS / f"{PRESETS[part]}.yaml"))
    if options.quick:
        shape = (3, shape[1] // 4, shape[2] // 4)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    given = write_photos(pictures, shape, amount.distinct)
    rows = []
    for number in range(amount.photos):
        label = CLASSES[number % len(CLASSES)]
        name = f"train/{label}/{number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given[number % len(given)], folder / name)
        rows.append((name, label, "train", shape[2], shape[1]))
    names = ("path", "class", "split", "width", "height")
    for split in ("valid", "test"):
        (folder / split / CLASSES[0]).mkdir(parents=True)
        shutil.copyfile(given[0], folder / split / CLASSES[0] / "0.jpg")
        rows.append((f"{split}/{CLASSES[0]}/0.jpg", CLASSES[0], split, shape[2], shape[1]))
    pandas.DataFrame(rows, columns=names).to_csv(folder / "manifest.csv", index=False)
    classes = sorted({row[1] for row in rows})
    info = {"format": 1, "kind": "photos", "name": part, "classes": classes, "channels": 3}
    info |= {"mean": list(MEAN), "std": list(STD)}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder


def built(config: Config) -> Any:
    torch.manual_seed(0)
    return build_model(config.model, num_classes=len(CLASSES), load_weights=False, **SCALE).eval()


def check(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as home:
        for name in PRESETS:
            folder = made(Path(home) / name, name, options)
            config = asked(name, folder, options)
            photos = [read_photo(path) for path in sorted(folder.glob("pictures/*.jpg"))[:4]]
            photos[1] = photos[1][:, :-37, :-5]  # several sizes in a batch
            pixels, sizes = padded(photos)
            with torch.no_grad():
                model = built(config)
                wanted = model(model.photos(pixels, sizes)).logits_BTN.softmax(2)
                model.to(device)
                found = model(model.photos(pixels.to(device), sizes.to(device))).logits_BTN
            apart = (found.softmax(2).cpu() - wanted).abs().max().item()
            yield bounded(f"{PRESETS[name]}, probabilities", apart, TOLERANCE)
        paths = sorted(folder.glob("pictures/*.jpg"))
        if device.type == "cuda":
            decoded = on_the_card(paths, device)
            apart = max(
                (one.cpu().float() - torch.from_numpy(read_photo(path)).float()).abs().mean().item()
                for one, path in zip(decoded, paths, strict=True)
            )
            yield bounded("nvJPEG, grey levels from the CPU's", apart, 2.0)


def on_the_card(paths: list[Path], device: torch.device) -> list[torch.Tensor]:
    from torchvision.io import decode_jpeg

    data = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]
    return decode_jpeg(data, device=device)


def decode(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    from stacked_ram.runs.folder import RunFolder
    from stacked_ram.training.trainer import Trainer

    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as home:
        folder = made(Path(home) / "scenes", "scenes", options)
        trainer = Trainer(asked("scenes", folder, options), RunFolder(Path(home) / "run"))
        trainer.loader.set_epoch(1)
        seconds = clocked(lambda: [None for _ in trainer.loader])
        yield {"what": "loader alone", "photos/s": trainer.photos_per_epoch / seconds,
               "workers": trainer.config.data.workers}  # fmt: skip
        if device.type == "cuda":
            paths = sorted(folder.glob("train/*/*.jpg"))[: 8 * 64]
            on_the_card(paths[:64], device)
            seconds = clocked(
                lambda: [on_the_card(paths[i : i + 64], device) for i in range(0, len(paths), 64)]
            )
            yield {"what": "nvJPEG", "photos/s": len(paths) / seconds}


def training(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    from stacked_ram.runs.folder import RunFolder
    from stacked_ram.training.trainer import Trainer

    amount, device = Amount(options.quick), torch.device(options.device)
    with tempfile.TemporaryDirectory() as home:
        folder = made(Path(home) / part, part, options)
        config = asked(part, folder, options)
        trainer = Trainer(config, RunFolder(Path(home) / "run"))
        trainer.loader.set_epoch(1)
        batch = next(iter(trainer.loader))
        for _ in range(2):
            trainer.train_step(batch)
        seconds = clocked(lambda: [trainer.train_step(batch) for _ in range(amount.steps)])
        step = amount.steps * amount.batch / seconds
        yield {"what": "step", "photos/s": step}
        epochs = 0
        settled(device)
        begun = time.perf_counter()
        while epochs == 0 or (time.perf_counter() - begun < 40 and not options.quick):
            train(trainer)
            epochs += 1
        settled(device)
        rate = epochs * trainer.photos_per_epoch / (time.perf_counter() - begun)
        yield {"what": "trainer", "photos/s": rate, "of step": rate / step, "goal": SHARE}
        cost = photo_cost(built(config), *photo_shape(config)[1:])
        glimpses = config.training.rollouts * config.model.num_glimpses
        gmacs = cost.before + glimpses * cost.per_glimpse
        size, found = timm_rate(folder, gmacs, options)
        yield {"what": f"timm at {size}x{size}", "photos/s": found, "GMACs of ours": gmacs,
               "ours to it": rate / found, "goal": SHARE}  # fmt: skip


def timm_rate(folder: Path, gmacs: float, options: argparse.Namespace) -> tuple[int, float]:
    """The size at which timm's network takes these GMACs, and photos/s of fine-tuning it."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from torch.utils.flop_counter import FlopCounterMode

    amount, device = Amount(options.quick), torch.device(options.device)
    network = timm.create_model(amount.backbone, num_classes=len(CLASSES))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 224, 224))
    at_224 = counter.get_total_flops() / 2e9
    size = max(32, round(224 * (gmacs / at_224) ** 0.5 / 16) * 16)
    size = 64 if options.quick else size
    network.train().to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-4)
    cuda = device.type == "cuda"
    loader = create_loader(
        create_dataset("", root=str(folder / "train")), input_size=(3, size, size),
        batch_size=amount.batch, is_training=True, use_prefetcher=cuda, device=device,
        num_workers=0 if options.quick else options.workers, persistent_workers=False,
    )  # fmt: skip
    photos, begun = 0, 0.0
    epochs = range(1 if options.quick else 8)
    for turn, (pixels, labels) in enumerate(itertools.chain(*(loader for _ in epochs))):
        if turn == 1 or options.quick:  # the first warms up
            settled(device)
            photos, begun = 0, time.perf_counter()
        pixels = pixels.to(device, memory_format=torch.channels_last)
        with autocast(device, "bf16"):
            loss = torch.nn.functional.cross_entropy(network(pixels), labels.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        photos += len(labels)
        if time.perf_counter() - begun > 40 and turn > 1:
            break
    settled(device)
    return size, photos / (time.perf_counter() - begun)


def looking(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    amount = Amount(options.quick)
    with tempfile.TemporaryDirectory() as home:
        folder = made(Path(home) / "scenes", "scenes", options)
        config = asked("scenes", folder, options)
        device = pick_device(options.device)
        loaded = LoadedRun(
            built(config).to(device), Metadata(config, CLASSES, **SCALE), folder, device, config
        )
        given = sorted(map(str, folder.glob("train/*/*.jpg")))
        names = list(itertools.islice(itertools.cycle(given), amount.names))
        for what, stop_at in (("all glimpses", None), ("stopping at 0.07", 0.07)):
            list(predict_stream(loaded, names[:64], batch_size=64))  # warms up
            seconds = clocked(
                lambda at=stop_at: [
                    None for _ in predict_stream(loaded, names, batch_size=64, stop_at=at)
                ]
            )
            yield {"what": what, "photos/s": len(names) / seconds}


PARTS = {  # and the most seconds that each may take
    "check": (check, 60),
    "scenes": (training, 140),
    "flowers": (training, 130),
    "predict": (looking, 90),
    "decode": (decode, 60),
}


def main() -> None:
    run_all(__file__, __doc__, PARTS)


if __name__ == "__main__":
    main()

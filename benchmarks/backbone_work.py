"""What is gained where backbone work is not repeated, on the CPU.

    python benchmarks/backbone_work.py [--quick] [--threads 1] [--backbone resnet50]

Training steps of soft attention with one glimpse of two 96-pixel patches, random weights:

    plain     the backbone runs on the context, then on each patch, and every time the file is
              opened again, cropped and resized; as in ours, the core gets what was attended in the
              context too, so that the loss trains all three passes
    ours      photos decoded once; both patches through the backbone in one batch
    frozen    the backbone is not trained: `plain` looks and learns nothing by it; ours still sends
              the classification's gradient through it to the location
    kept      what a frozen backbone finds in the context comes from the cache (kept_glances)

and, below, the features of several glimpses whose places are known beforehand: one batch a glimpse
beside one batch for all. With one thread the time is that of the processor.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import repository  # noqa: F401
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from turns import medians

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.models.build import build_model
from stacked_ram.ops.depthwise import use_fast_depthwise
from stacked_ram.training import estimators

SIDE, PATCHES, CLASSES, FEATURES = 96, 2, 17, 512
TARGET = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one step of each, a tiny backbone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.batch_size, options.rounds = "test_efficientnet", 2, 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = made_photos(Path(folder), options.batch_size)
        labels = torch.randint(0, CLASSES, (len(files),))
        pixels = torch.stack([torch.from_numpy(np.array(Image.open(one))) for one in files])
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
        works = {"plain": plain_step(options.backbone, files, labels)}
        for precision in ("float32", "bf16"):
            for last in (False, True):
                name = f"ours, {precision}{', channels last' if last else ''}"
                works[name] = our_step(options.backbone, pixels, labels, precision == "bf16", last)
        works["plain, frozen"] = plain_step(options.backbone, files, labels, frozen=True)
        for precision in ("float32", "bf16"):
            for kept in (False, True):
                name = f"ours, frozen, {precision}{', kept' if kept else ''}"
                works[name] = our_step(
                    options.backbone, pixels, labels, precision == "bf16", True, True, kept
                )
        print(f"soft attention, {options.backbone}, {SIDE}-pixel patches, k = {PATCHES}, 1 glimpse,"
              f" batch {len(files)}, {options.threads} thread(s)")  # fmt: skip
        seconds = medians(works, options.rounds, options.threads)
        print(f"{'':<28}{'photos/s':>9}{'to plain':>10}{'to plain, frozen':>18}   target {TARGET}")
        for name, value in seconds.items():
            ratios = seconds["plain"] / value, seconds["plain, frozen"] / value
            print(f"{name:<28}{len(files) / value:9.2f}{ratios[0]:10.2f}{ratios[1]:18.2f}")
    steps = 2 if options.quick else 6
    seconds = medians(known_places(options.backbone, steps), options.rounds, options.threads)
    one, many = seconds["one batch for all"], seconds["a batch a glimpse"]
    print(f"\n{steps} glimpses at known places, forward and backward: a batch a glimpse"
          f" {many:.3f} s, one batch for all {one:.3f} s, ratio {many / one:.2f}")  # fmt: skip


def made_photos(folder: Path, count: int) -> list[Path]:
    """Smooth colour photos of 500 x 375 with a little noise, as JPEG."""
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        photo = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        photo = np.clip(photo + rng.integers(-12, 13, photo.shape), 0, 255).astype(np.uint8)
        files.append(folder / f"{number}.jpg")
        Image.fromarray(photo).save(files[-1], quality=90)
    return files


class Plain(nn.Module):
    """Soft attention written down straight away: photo files in, class scores out."""

    def __init__(self, name: str):
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=0)
        width = self.backbone.num_features
        self.score = nn.Conv2d(width, 1, 1)
        self.feature = nn.Linear((PATCHES + 1) * width, FEATURES)
        self.core = nn.LSTMCell(FEATURES, FEATURES)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, files: list[Path]) -> Tensor:
        contexts = torch.stack([opened(one) for one in files])
        regions = nn.functional.adaptive_avg_pool2d(self.backbone.forward_features(contexts), 2)
        weights = self.score(regions).flatten(1).softmax(1)
        x = (weights * weights.new_tensor([-0.5, 0.5, -0.5, 0.5])).sum(1)
        y = (weights * weights.new_tensor([-0.5, -0.5, 0.5, 0.5])).sum(1)
        places = torch.stack([x, y], 1).tolist()
        seen = [(weights.unsqueeze(1) * regions.flatten(2)).sum(2)]
        for k in range(PATCHES):
            patches = [
                opened(one, place, SIDE * 2**k) for one, place in zip(files, places, strict=True)
            ]
            seen.append(self.backbone(torch.stack(patches)))
        out, _ = self.core(self.feature(torch.cat(seen, 1)).relu())
        return self.classifier(out)


def opened(file: Path, place: list[float] | None = None, width: int = 0) -> Tensor:
    """The whole photo, or the square around a place, at SIDE x SIDE."""
    with Image.open(file) as photo:
        photo = photo.convert("RGB")
        if place is not None:
            x, y = ((p + 1) / 2 * side for p, side in zip(place, photo.size, strict=True))
            box = (x - width / 2, y - width / 2, x + width / 2, y + width / 2)
            photo = photo.crop(tuple(round(one) for one in box))
        pixels = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def plain_step(
    backbone: str, files: list[Path], labels: Tensor, frozen: bool = False
) -> Callable[[], None]:
    model = Plain(backbone)
    if frozen:
        model.backbone.requires_grad_(False).eval()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(files), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(
    backbone: str,
    pixels: Tensor,
    labels: Tensor,
    bf16: bool,
    channels_last: bool,
    frozen: bool = False,
    kept: bool = False,
) -> Callable[[], None]:
    config = ModelConfig(
        retina="backbone", backbone=backbone, patch_size=SIDE, num_patches=PATCHES,
        num_glimpses=1, attention="soft", glance=(SIDE, SIDE), regions=(2, 2),
        feature_size=FEATURES, core_size=FEATURES, where_size=32, freeze_backbone=frozen,
    )  # fmt: skip
    model = built(config)
    if bf16:
        use_fast_depthwise(model)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    settings = TrainingConfig()
    glance = None
    if kept:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            glance = model.glance.find(model.photos(pixels))

    def step() -> None:
        photos = model.photos(pixels)
        photos.glance = glance
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = next(estimators.losses(model, photos, labels, settings)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def built(config: ModelConfig):
    return build_model(config, num_classes=CLASSES, channels=3, mean=[0.4] * 3, std=[0.25] * 3)


def known_places(backbone: str, steps: int) -> dict[str, Callable[[], None]]:
    config = ModelConfig(retina="backbone", backbone=backbone, patch_size=SIDE, num_patches=PATCHES)
    retina = built(config).levels[0].retina
    photos = 4
    pixels = torch.randint(0, 256, (photos, 3, 224, 224), dtype=torch.uint8)
    locations = torch.rand(photos, steps, 2) * 2 - 1

    def step(parts: list[Tensor]) -> None:
        from stacked_ram.ops.patches import Photos

        view = retina.view(Photos(pixels))
        sum(retina(view, one)[0].square().sum() for one in parts).backward()

    return {
        "a batch a glimpse": lambda: step(list(locations.unbind(1))),
        "one batch for all": lambda: step([locations.flatten(0, 1)]),
    }


if __name__ == "__main__":
    main()

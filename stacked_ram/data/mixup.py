"""MixUp and CutMix of whole batches, on the device (torchvision.transforms.v2)."""

from __future__ import annotations

import dataclasses

import torch

from stacked_ram.data.batch import Batch
from stacked_ram.data.rng import derive_seed


class MixUpCutMix:
    """Blend each photo with the photo before it in the batch, and their labels as targets_BN.

    mixup, cutmix: alphas, 0 is off; with both, each batch gets either of them, equally often.
    Sources: Zhang et al. 2018 (MixUp), Yun et al. 2019 (CutMix).
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int):
        from torchvision.transforms import v2

        self.ways = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        if cutmix:
            self.ways.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __call__(self, batch: Batch, *seeds: int) -> Batch:
        """Return the blended batch; its random numbers depend only on the seeds."""
        assert isinstance(batch.pixels_BCHW, torch.Tensor)  # the config requires photos of one size
        seed = derive_seed(*seeds, 3)
        # v2 draws a few numbers from torch's own CPU generator, which is restored afterwards
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            way = self.ways[seed % len(self.ways)]
            pixels_BCHW, targets_BN = way(batch.pixels_BCHW.float(), batch.labels_B)
        return dataclasses.replace(
            batch,
            pixels_BCHW=pixels_BCHW.round().to(torch.uint8),
            boxes_B4=torch.full_like(batch.boxes_B4, torch.nan),  # two objects, no box
            targets_BN=targets_BN,
        )

"""Pretraining of the visual network: the class from every combination of resolutions.

Soft attention's glimpses are taken at high, medium or low resolution (start_size 1, 2, 4), one or
several at once. So that its visual network knows them all, it first learns to tell the class from
each of the seven combinations of a high, a medium and a low resolution patch around one random
place. No attention takes part.

    R photos   K = 3 resolutions   U = 7 combinations   D features
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.losses import Losses, class_loss

RESOLUTIONS = 3  # high, medium, low: each half of the one before


def combination_losses(
    model: RAM,
    photos: PhotoBatch,
    targets: Tensor,
    config: TrainingConfig,
    class_weights_N: Tensor | None = None,
) -> Iterator[Losses]:
    """The mean classification loss over all combinations of resolutions. targets: of the photos."""
    logits_RUN = combination_logits(model, photos)
    loss = class_loss(
        logits_RUN.flatten(0, 1),
        targets.repeat_interleave(logits_RUN.shape[1], 0),
        config,
        class_weights_N,
        model.multi_label,
    )
    yield Losses(loss, {"pretraining": loss.detach()}, logits_RUN[:, -1].detach())


def combinations(like: Tensor) -> Tensor:
    """The weights that average each non-empty combination of the resolutions, U x K."""
    # the binary digits of 1 to 7, made on the device: a copy from the host would wait for it
    numbers_U = torch.arange(1, 2**RESOLUTIONS, device=like.device)
    digits_K = torch.arange(RESOLUTIONS - 1, -1, -1, device=like.device)
    chosen_UK = ((numbers_U.unsqueeze(1) >> digits_K) & 1).to(like.dtype)
    return chosen_UK / chosen_UK.sum(1, keepdim=True)


def combination_logits(model: RAM, photos: PhotoBatch) -> Tensor:
    """Class scores from each combination, R x U x N; the last one is of all three.

    The features of a combination's patches are averaged, and read as the glance's are: by its
    projection, one step of the core and the classifier, which all combinations share.
    """
    glance, backbone, config = model.glance, model.backbone, model.config
    retina = model.levels[0].retina
    if glance is None or backbone is None or config is None or not isinstance(retina, PatchRetina):
        raise UserError("pretrain_epochs: needs a preset's model with a backbone and a glance")
    wide = dataclasses.replace(
        retina.geometry,
        num_patches=RESOLUTIONS,
        glimpse_scale=2.0,
        patch_width=config.patch_width,
    )
    rows = photos.batch_size
    locations_R2 = torch.rand(rows, 2, device=photos.device, generator=model.generator) * 2 - 1
    patches_RKCPP = photos.patches(locations_R2, wide)
    features_RKD = backbone(patches_RKCPP.flatten(0, 1)).unflatten(0, (rows, RESOLUTIONS))
    mixed_RUD = combinations(features_RKD) @ features_RKD
    vector = glance.project(mixed_RUD.flatten(0, 1)).relu()
    core = model.levels[0].core
    out, _ = core(vector, core.start(len(vector), model.classifier.weight))
    return model.classifier(model.dropout(out)).float().unflatten(0, (rows, -1))

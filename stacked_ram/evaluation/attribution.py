"""Attributions by Captum (`pip install -r requirements-explain.txt`).

- `glimpse_evidence`: integrated gradients (Sundararajan et al., 2017) over the pixels of the
  patches of one photo's glimpses: which of what it read spoke for a class.
- `PlainBackbone.heat`: Grad-CAM (Selvaraju et al., 2017) of the plain backbone with a linear probe,
  on whole photos, without attention.

B photos   R rows   T steps   K patches   N classes   D features
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config.schema import Config
from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.left_out import LeftOut
from stacked_ram.data.loader import opened_loader
from stacked_ram.evaluation.linear_probe import fit_probe
from stacked_ram.evaluation.what_if import take
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.ops.photo_batch import PhotoBatch
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runtime.errors import UserError

INSTALL = "Captum is not installed: pip install -r requirements-explain.txt"
POINTS = 32  # of the integral, between grey patches and those that were read
SHORT_SIDE = 224  # of photos that the plain backbone gets


def has_captum() -> bool:
    return importlib.util.find_spec("captum") is not None


def glimpse_evidence(
    model: RAM, photos: PhotoBatch, label: int, num_glimpses: int | None = None
) -> list[np.ndarray]:
    """How much each patch pixel of one photo's glimpses spoke for a class: a T x K x P x P array
    for each surface that is read, level by level; channels are added up.

    In nats: positive pixels raised the log belief in the class at the end. All values together are
    the log belief less that of a model whose every patch is empty (its value outside the photo),
    on the same path. Raises UserError without Captum, and for a retina of another kind.
    """
    if not has_captum():
        raise UserError(INSTALL)
    from captum.attr import IntegratedGradients

    retinas = [level.retina for level in model.levels]
    read: list[list[list[Tensor]]] = []  # step, level, surface
    with torch.no_grad():
        for state in model.steps(photos, sample=False, num_glimpses=num_glimpses):
            if state.step == 0:
                start = state
            else:
                read.append([[each.float() for each in surfaces] for surfaces in state.patches])
    path_1TS2 = torch.stack([torch.stack(levels, 1) for levels in state.earlier], 1)
    patches = [
        torch.stack([step[level][surface] for step in read], 1)  # 1 x T x K x C x P x P
        for level in range(len(retinas))
        for surface in range(len(read[0][level]))
    ]

    def log_belief(*patches_RTKCPP: Tensor) -> Tensor:
        rows, steps = patches_RTKCPP[0].shape[:2]
        given = list(patches_RTKCPP)
        features = []
        for level, retina in enumerate(retinas):
            assert isinstance(retina, PatchRetina)
            surfaces = [given.pop(0).flatten(0, 1) for _ in retina.whats]
            where_R2 = path_1TS2[:, :, level].expand(rows, -1, -1).flatten(0, 1)
            features.append(retina.feature(surfaces, where_R2).unflatten(0, (rows, steps)))
        end = take(model, start.repeat(rows), path_1TS2.expand(rows, -1, -1, -1), features)
        return model.scores(end.outputs[-1]).log_softmax(1)[:, label]

    if not all(isinstance(retina, PatchRetina) for retina in retinas):
        raise UserError("evidence: this model's retina has no patches to attribute to")
    with torch.enable_grad():
        found = IntegratedGradients(log_belief).attribute(
            tuple(patches), n_steps=POINTS, internal_batch_size=8
        )
    return [each[0].sum(2).detach().cpu().numpy() for each in found]


class PlainBackbone:
    """The backbone without attention, on whole photos, and a linear probe on its pooled features,
    trained on the training split. Photos are reduced to SHORT_SIDE; none of them is cut off."""

    def __init__(self, loaded: LoadedRun, config: Config) -> None:
        """config: whose data set's training split is used."""
        model = loaded.model
        own = config.model.weights == "none"
        self.backbone = (
            model.backbone if own else Backbone(config.model.backbone, config.model.weights)
        )
        self.backbone = self.backbone.to(loaded.device).eval()
        self.mean, self.std = (value[:, None, None] for value in (model.mean, model.std))
        training = open_dataset(config.data, "train")
        features: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        with opened_loader(training, config, loaded.device) as loader:
            from tqdm import tqdm

            batches = tqdm(loader, desc="plain backbone", disable=None, leave=False)
            for batch, pooled_BD in LeftOut(training).each(batches, self.pooled):
                features.append(pooled_BD)
                labels.append(batch.labels_B.cpu().numpy())
        probe = fit_probe(np.concatenate(features), np.concatenate(labels))
        scaler, linear = probe[0], probe[1]
        weight_ND = linear.coef_ / scaler.scale_
        bias_N = linear.intercept_ - weight_ND @ scaler.mean_
        if len(weight_ND) == 1:  # of two classes scikit-learn gives the score of the second
            weight_ND, bias_N = np.concatenate([-weight_ND, weight_ND]), np.array([-1, 1]) * bias_N
        head = nn.Linear(weight_ND.shape[1], len(weight_ND)).to(loaded.device)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight_ND))
            head.bias.copy_(torch.from_numpy(bias_N))
        self.row_of = {int(label): row for row, label in enumerate(linear.classes_)}
        self.network = MapAndHead(self.backbone, head).to(loaded.device).eval()

    @torch.no_grad()
    def pooled(self, batch: Batch) -> np.ndarray:
        photos = [self.backbone(photo)[0] for photo in self.reduced(batch)]
        return torch.stack(photos).float().cpu().numpy()

    def reduced(self, batch: Batch) -> Sequence[Tensor]:
        """Each photo, normalised, its shorter side SHORT_SIDE: 1 x C x H x W."""
        found = []
        assert isinstance(batch.pixels_BCHW, Tensor)
        for pixels_CHW, (height, width) in zip(
            batch.pixels_BCHW, batch.sizes_B2.tolist(), strict=True
        ):
            scale = SHORT_SIDE / min(height, width)
            size = [max(SHORT_SIDE, round(side * scale)) for side in (height, width)]
            photo = pixels_CHW[None, :, :height, :width].float() / 255
            resized = functional.interpolate(photo, size=size, mode="bilinear", antialias=True)
            found.append((resized - self.mean) / self.std)
        return found

    def heat(self, batch: Batch, asked_B: Tensor) -> list[Tensor]:
        """Grad-CAM of the last feature map for each photo's class, rows x columns each; zeros for a
        class that has no training photo."""
        from captum.attr import LayerGradCam

        grad_cam = LayerGradCam(self.network, self.network.last)
        found = []
        with torch.enable_grad():
            for photo_1CHW, label in zip(self.reduced(batch), asked_B.tolist(), strict=True):
                row = self.row_of.get(label)
                asked: Any = {"target": row or 0, "relu_attributions": True}
                heat = grad_cam.attribute(photo_1CHW.requires_grad_(), **asked)[0, 0].detach()
                found.append(heat if row is not None else heat * 0)
        return found


class MapAndHead(nn.Module):
    """A backbone with a linear head, whose last feature map is the output of `last`."""

    def __init__(self, backbone: Backbone, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.last, self.head = backbone, nn.Identity(), head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        images_BCHW = images_BCHW.expand(-1, 3, -1, -1)
        maps = self.last(self.backbone.network.forward_features(images_BCHW))
        return self.head(self.backbone.network.forward_head(maps, pre_logits=True))

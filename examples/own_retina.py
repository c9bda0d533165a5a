"""A retina of your own: python examples/own_retina.py

It reads the two patches of a glimpse as brightness and as edges, each through one small network
whose weights both patches share. In a configuration the same class is named by its import path, if
its folder is on PYTHONPATH:  retina: own_retina:EdgeRetina,  retina_options: {width: 32}
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.attention.hard import GaussianPolicy
from stacked_ram.models.build import build_model
from stacked_ram.models.core import LSTMCore
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.retina import View
from stacked_ram.ops.geometry import GlimpseGeometry, glimpse_boxes
from stacked_ram.ops.photo_batch import PhotoBatch


class EdgeRetina(nn.Module):
    """What it must do is written in stacked_ram/models/protocols.py."""

    def __init__(self, *, channels: int, geometry: GlimpseGeometry, feature_size: int, width=64):
        super().__init__()
        self.geometry, self.out_features = geometry, feature_size
        self.patch = nn.Sequential(nn.Linear(2 * geometry.patch_size**2, width), nn.ReLU())
        self.join = nn.Linear(geometry.num_patches * width + 2, feature_size)

    def view(self, photos: PhotoBatch) -> View:
        return View([photos], photos.sizes_B2)

    def boxes(self, view: View, locations_R2: Tensor, smooth: bool = False) -> Tensor:
        rollouts = locations_R2.shape[0] // view.sizes_B2.shape[0]
        sizes_R2 = view.sizes_B2.repeat_interleave(rollouts, 0)
        return glimpse_boxes(locations_R2, sizes_R2, self.geometry)

    def forward(self, view: View, locations_R2: Tensor, smooth: bool = False):
        patches_RKCPP = view.surfaces[0].patches(locations_R2, self.geometry)
        bright_RKPP = patches_RKCPP.mean(2)
        edges_RKPP = functional.pad(bright_RKPP.diff(dim=3), (0, 1)).abs()
        both = torch.stack([bright_RKPP, edges_RKPP], 2).flatten(2)
        feature = self.join(torch.cat([self.patch(both).flatten(1), locations_R2], 1)).relu()
        return feature, [patches_RKCPP]


def drawn(count: int) -> tuple[Tensor, Tensor]:
    """Photos with a lying (0) or a standing (1) bar near the middle, and their classes."""
    images = torch.randint(0, 80, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 2, (count,))
    for image, label, (y, x) in zip(images, labels, torch.randint(8, 15, (count, 2)), strict=True):
        height, width = (3, 10) if label == 0 else (10, 3)
        image[:, y : y + height, x : x + width] = 230
    return images, labels


def main() -> None:
    torch.manual_seed(0)
    geometry = GlimpseGeometry(patch_size=8, num_patches=2)
    model = RAM(
        retina=EdgeRetina(channels=3, geometry=geometry, feature_size=64),
        core=LSTMCore(64, 64),
        attention=GaussianPolicy(64, std=0.2),
        num_classes=2,
        num_glimpses=3,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        images, labels = drawn(32)
        loss = functional.cross_entropy(model(images).logits_BTN[:, -1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = drawn(200)
    with torch.no_grad():
        answers = model.eval()(images).logits_BTN[:, -1].argmax(1)
    print(f"accuracy {(answers == labels).float().mean():.2f}")
    config = ModelConfig(retina=f"{__name__}:EdgeRetina", retina_options={"width": 32})
    print(
        "from a configuration:", type(build_model(config, num_classes=2).levels[0].retina).__name__
    )


if __name__ == "__main__":
    main()

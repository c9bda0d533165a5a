"""The retina: a photo and a location -> a glimpse feature ("what" and "where").

B photos   R rows (photos times rollouts)   K patches   C channels   P patch size
D width of the glimpse feature
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stacked_ram.models.retina.what import ConvWhat
from stacked_ram.ops.geometry import GlimpseGeometry, glimpse_boxes
from stacked_ram.ops.patches import Photos


@dataclass
class View:
    """What is computed once a photo, however often it is looked at: the photo, feature maps."""

    surfaces: list[Photos]
    """What patches are cut from: the photo alone, or the photo and the maps made from it."""
    sizes_B2: Tensor
    """(height, width) of the photos themselves."""

    def select(self, index_b: Tensor) -> View:
        return View([one.select(index_b) for one in self.surfaces], self.sizes_B2[index_b])


class Retina(nn.Module):
    """Co-centred patches of each surface through a "what" network, joined with the location.

    feature = ReLU(W_what what(patches) + W_where ReLU(W_location location))
    (Mnih et al., 2014, section 4, the glimpse network); both products are one.

    Args:
        geometry: which boxes a glimpse reads.
        whats: one "what" network for each surface that is looked at.
        maps: makes the further surfaces from the photo (stack conv, backbone); None: the photo
            is the only surface.
    """

    def __init__(
        self,
        geometry: GlimpseGeometry,
        whats: list[nn.Module],
        *,
        maps: nn.Module | None = None,
        where_size: int,
        feature_size: int,
    ):
        super().__init__()
        self.geometry = geometry
        self.smooth_geometry = dataclasses.replace(geometry, snap=False)
        self.whats = nn.ModuleList(whats)
        self.maps = maps
        self.where = nn.Linear(2, where_size)
        what_size = sum(what.out_features for what in whats)
        self.combine = nn.Linear(what_size + where_size, feature_size)

    def settle(self, settled: bool) -> None:
        """Normalise in training as in evaluation, where a "what" network has batch norm of its own
        (ConvWhat.settled)."""
        for what in self.whats:
            if isinstance(what, ConvWhat) and what.settled != settled:
                what.settled = settled
                what.train(what.training)

    def view(self, photos: Photos) -> View:
        """The per-photo work, done once."""
        surfaces = [photos] if self.maps is None else self.maps(photos)
        return View(surfaces, photos.sizes_B2)

    def boxes(self, view: View, locations_R2: Tensor, smooth: bool = False) -> Tensor:
        """The boxes that a glimpse reads on the first surface, in pixels of the photo: R x K x 4.

        Where the first surface is a feature map, its boxes are enlarged by as much as the photo
        is larger.
        """
        rows = len(locations_R2) // len(view.sizes_B2)
        surface_R2 = view.surfaces[0].sizes_B2.repeat_interleave(rows, 0)
        photo_R2 = view.sizes_B2.repeat_interleave(rows, 0)
        geometry = self.smooth_geometry if smooth else self.geometry
        boxes_RK4 = glimpse_boxes(locations_R2, surface_R2, geometry)
        return boxes_RK4 * (photo_R2 / surface_R2).flip(1).repeat(1, 2).unsqueeze(1)

    def forward(
        self, view: View, locations_R2: Tensor, smooth: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Look: the glimpse feature (R x D) and each surface's patches (R x K x C x P x P).

        `smooth` reads boxes at any place, not whole pixels, so that gradients reach the location.
        """
        geometry = self.smooth_geometry if smooth else self.geometry
        patches = [surface.patches(locations_R2, geometry) for surface in view.surfaces]
        what = [net(one) for net, one in zip(self.whats, patches, strict=True)]
        where = self.where(locations_R2).relu()
        return self.combine(torch.cat([*what, where.to(what[0].dtype)], 1)).relu(), patches

"""The retina: a photo and a location -> a glimpse feature ("what" and "where").

B photos   R rows (photos times rollouts)   K patches   C channels   P patch size   Z widths
D width of the glimpse feature
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stacked_ram.models.retina.maps import BackboneMaps, ConvMaps
from stacked_ram.models.retina.what import ConvWhat, What
from stacked_ram.ops.geometry import GlimpseGeometry, glimpse_boxes
from stacked_ram.ops.photo_batch import PhotoBatch


@dataclass
class View:
    """The work that is done once per photo, before the first glimpse."""

    surfaces: list[PhotoBatch]
    """Where patches are cut: the photo alone, or the photo and feature maps made from it."""
    sizes_B2: Tensor
    """(height, width) of the photos themselves."""

    def select(self, index_b: Tensor) -> View:
        """Return the photos at these places of the batch."""
        surfaces = [surface.select(index_b) for surface in self.surfaces]
        return View(surfaces, self.sizes_B2[index_b])


class PatchRetina(nn.Module):
    """Co-centred patches of each surface through a "what" network, joined with the location.

    feature = ReLU(W_what what(patches) + W_where ReLU(W_location location))
    (Mnih et al., 2014, section 4, the glimpse network), both products in one layer.

    Args:
        geometry: the sizes of a glimpse's patches.
        whats: a "what" network for each surface: a module that takes patches (R x K x C x P x P)
            and returns R x `out_features`.
        maps: makes the other surfaces from the photo (stack conv, backbone); None: the photo is the
            only surface.
        where_size: width of the location's layer. feature_size: D, of the glimpse feature.
        num_zooms: widths of a glimpse (Z). If more than 1, locations are (x, y, zoom), and a
            glimpse takes K of K + Z - 1 patches, each glimpse_scale times wider than the one
            before: from that of its zoom on, 0 to Z - 1.
    """

    def __init__(
        self,
        geometry: GlimpseGeometry,
        whats: list[What],
        *,
        maps: ConvMaps | BackboneMaps | None = None,
        where_size: int,
        feature_size: int,
        num_zooms: int = 1,
    ):
        super().__init__()
        self.geometry = dataclasses.replace(
            geometry, num_patches=geometry.num_patches + num_zooms - 1
        )
        self.smooth_geometry = dataclasses.replace(self.geometry, snap=False)
        self.num_patches, self.num_zooms = geometry.num_patches, num_zooms
        self.whats = nn.ModuleList(whats)
        self.maps = maps
        self.out_features = feature_size
        self.where = nn.Linear(2 if num_zooms == 1 else 3, where_size)
        what_size = sum(what.out_features for what in whats)
        self.combine = nn.Linear(what_size + where_size, feature_size)

    def anneal(self, progress: float) -> None:
        """Tell the convolutional "what" networks which fraction of the training is done."""
        for what in self.whats:
            if isinstance(what, ConvWhat):
                what.anneal(progress)

    def view(self, photos: PhotoBatch) -> View:
        """Compute the feature maps, if the retina has any."""
        surfaces = [photos] if self.maps is None else self.maps(photos)
        return View(surfaces, photos.sizes_B2)

    def boxes(self, view: View, locations_R2: Tensor, smooth: bool = False) -> Tensor:
        """Return the boxes that a glimpse reads on the first surface, R x K x 4.

        They are in pixels of the photo, also if the first surface is a feature map.
        """
        rows = locations_R2.shape[0] // view.sizes_B2.shape[0]
        surface_R2 = view.surfaces[0].sizes_B2.repeat_interleave(rows, 0)
        photo_R2 = view.sizes_B2.repeat_interleave(rows, 0)
        geometry = self.smooth_geometry if smooth else self.geometry
        boxes_RK4 = glimpse_boxes(locations_R2[:, :2], surface_R2, geometry)
        boxes_RK4 = self.zoomed(boxes_RK4, locations_R2)
        return boxes_RK4 * (photo_R2 / surface_R2).flip(1).repeat(1, 2).unsqueeze(1)

    def forward(
        self, view: View, locations_R2: Tensor, smooth: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the glimpse feature (R x D) and each surface's patches (R x K x C x P x P).

        smooth: read boxes at any position, not only at whole pixels, so that gradients reach the
        location.
        """
        geometry = self.smooth_geometry if smooth else self.geometry
        patches = [
            self.zoomed(surface.patches(locations_R2[:, :2], geometry), locations_R2)
            for surface in view.surfaces
        ]
        return self.feature(patches, locations_R2), patches

    def zoomed(self, values: Tensor, locations_R2: Tensor) -> Tensor:
        """Take those of a glimpse's own patches, R x K x ..., from those of all widths."""
        if self.num_zooms == 1:
            return values
        own_K = torch.arange(self.num_patches, device=values.device)
        own_RK = locations_R2[:, 2:].long() + own_K
        return values[torch.arange(len(values), device=values.device).unsqueeze(1), own_RK]

    def feature(self, patches: list[Tensor], locations_R2: Tensor) -> Tensor:
        """Return the glimpse feature, R x D, of the patches that were read at these locations."""
        what = [net(read) for net, read in zip(self.whats, patches, strict=True)]
        where = self.where(locations_R2).relu()
        return self.combine(torch.cat([*what, where.to(what[0].dtype)], 1)).relu()

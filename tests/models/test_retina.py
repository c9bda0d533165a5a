"""The retina: what and where combined as in the paper."""

from __future__ import annotations

import torch

from stacked_ram.models.retina.maps import ConvMaps
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.models.retina.what import DenseWhat
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.ops.patches import Photos

SIZES = torch.tensor([[24, 30], [18, 21]])


def retina(levels=None) -> PatchRetina:
    torch.manual_seed(0)
    maps = None
    if levels is not None:
        maps = ConvMaps(channels=3, num_levels=3, map_channels=4, kernel_size=3, levels=levels)
    widths = [3] if maps is None else maps.channels
    whats = [DenseWhat(channels=c, num_patches=2, patch_size=4, out_features=8) for c in widths]
    geometry = GlimpseGeometry(patch_size=4, num_patches=2)
    return PatchRetina(geometry, whats, maps=maps, where_size=5, feature_size=6).eval()


def photos() -> Photos:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 24, 30), dtype=torch.uint8)
    images[1, :, 18:] = 0
    images[1, :, :, 21:] = 0
    return Photos(images, SIZES)


def test_the_glimpse_network_of_the_paper():
    """ReLU(W_what what + W_where ReLU(W_l l)), Mnih et al. (2014), section 4."""
    module, locations = retina(), torch.rand(4, 2) * 2 - 1
    feature, patches = module(module.view(photos()), locations)
    weights = {key: value.double() for key, value in module.state_dict().items()}
    for row in range(4):
        what = weights["whats.0.layer.weight"] @ patches[0][row].double().flatten()
        what = (what + weights["whats.0.layer.bias"]).clamp(min=0)
        where = weights["where.weight"] @ locations[row].double() + weights["where.bias"]
        of_what, of_where = weights["combine.weight"].split([8, 5], 1)
        wanted = of_what @ what + of_where @ where.clamp(min=0) + weights["combine.bias"]
        torch.testing.assert_close(feature[row].double(), wanted.clamp(min=0), atol=1e-5,
                                   rtol=1e-4)  # fmt: skip


def test_every_surface_is_read_at_the_same_location():
    module, locations = retina(levels=(0, 1, 2)), torch.rand(2, 2) - 0.5
    view = module.view(photos())
    feature, patches = module(view, locations)
    assert [tuple(each.shape) for each in patches] == [
        (2, 2, 3, 4, 4), (2, 2, 4, 4, 4), (2, 2, 4, 4, 4)
    ]  # fmt: skip
    for surface, each in zip(view.surfaces, patches, strict=True):
        assert torch.equal(each, surface.patches(locations, module.geometry))
    assert feature.shape == (2, 6)


def test_boxes_are_in_pixels_of_the_photo_for_every_level():
    locations = torch.zeros(2, 2)
    direct = retina()
    boxes = direct.boxes(direct.view(photos()), locations)
    assert boxes[0, 0].tolist() == [13, 10, 17, 14]
    for levels, widening in (((0, 1), 1), ((1,), 2), ((2,), 4)):
        module = retina(levels=levels)
        boxes = module.boxes(module.view(photos()), locations)
        sides = boxes[0, :, 2:] - boxes[0, :, :2]
        wanted = torch.tensor([[4.0, 4.0], [8.0, 8.0]]) * widening
        assert ((sides / wanted - 1).abs() < 0.1).all()
        middle = (boxes[0, 0, :2] + boxes[0, 0, 2:]) / 2
        assert (middle - torch.tensor([15.0, 12.0])).abs().max() <= widening


def test_smooth_reading_lets_gradients_reach_the_location():
    module = retina(levels=(0, 1))
    locations = torch.rand(2, 2).requires_grad_()
    feature, _ = module(module.view(photos()), locations, smooth=True)
    feature.sum().backward()
    assert (locations.grad != 0).all()


def test_rows_of_a_view_can_be_selected():
    module = retina(levels=(0, 2))
    view = module.view(photos())
    part = view.select(torch.tensor([1]))
    locations = torch.rand(2, 2) - 0.5
    whole, _ = module(view, locations)
    alone, _ = module(part, locations[1:])
    torch.testing.assert_close(alone, whole[1:], atol=1e-5, rtol=1e-4)
    assert part.sizes_B2.tolist() == [[18, 21]]

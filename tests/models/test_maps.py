"""Feature maps of whole photos: padding affects neither the maps nor the statistics."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional

from stacked_ram.models.retina.maps import BackboneMaps, ConvMaps, MaskedBatchNorm2d, inside_mask
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.distributed import leave_world
from stacked_ram.runtime.errors import UserError

SIZES = torch.tensor([[20, 28], [13, 17], [28, 15]])


def padded() -> torch.Tensor:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    return images * inside_mask(SIZES, images.shape[2:]).to(torch.uint8)


def conv_maps(kernel_size=3, levels=(0, 1, 2)) -> ConvMaps:
    torch.manual_seed(0)
    return ConvMaps(
        channels=3, num_levels=3, map_channels=4, kernel_size=kernel_size, levels=levels
    )


def test_masked_batch_norm_is_batch_norm_on_unpadded_photos():
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm2d(4), torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        theirs.weight.copy_(ours.weight)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        maps = (torch.randn(5, 4, 6, 7) * 3 + 1).requires_grad_()
        found, wanted = ours(maps, torch.ones(5, 1, 6, 7)), theirs(maps)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        target = torch.randn_like(found)
        gradients = [
            torch.autograd.grad((output * target).sum(), maps)[0] for output in (found, wanted)
        ]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_masked_batch_norm_ignores_padding():
    norm, inside = MaskedBatchNorm2d(2), inside_mask(SIZES, (28, 28))
    maps = torch.randn(3, 2, 28, 28)
    spoilt = torch.where(inside.bool(), maps, torch.full_like(maps, 1e4))
    first = norm(maps * inside, inside) * inside
    statistics = norm.running_mean.clone(), norm.running_var.clone()
    other = MaskedBatchNorm2d(2)
    torch.testing.assert_close(other(spoilt, inside) * inside, first)
    torch.testing.assert_close((other.running_mean, other.running_var), statistics)
    pixels = torch.cat([maps[b, :, :h, :w].flatten(1) for b, (h, w) in enumerate(SIZES)], 1)
    torch.testing.assert_close(statistics[0], 0.1 * pixels.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(statistics[1], 0.9 + 0.1 * pixels.var(1), atol=1e-5, rtol=1e-4)


def test_conv_maps_are_convolution_norm_relu_and_pooling():
    maps = conv_maps().eval()
    images = padded()[:1, :, :20, :28]
    surfaces = maps(Photos(images))
    wanted = images.float() / 255
    for level in (1, 2):
        norm = maps.norms[level - 1]
        wanted = functional.conv2d(wanted, maps.convolutions[level - 1].weight, padding=1)
        wanted = functional.batch_norm(
            wanted, norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
        wanted = functional.max_pool2d(wanted.relu(), 2)
        torch.testing.assert_close(surfaces[level].pixels_BCHW, wanted, atol=1e-5, rtol=1e-4)
        assert surfaces[level].sizes_B2.tolist() == [[20 >> level, 28 >> level]]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_conv_maps_of_a_photo_do_not_depend_on_its_batch(kernel_size):
    maps = conv_maps(kernel_size).eval()
    images = padded()
    together = maps(Photos(images, SIZES))
    for index, (height, width) in enumerate(SIZES.tolist()):
        alone = maps(Photos(images[index : index + 1, :, :height, :width]))
        for surface, own in zip(together, alone, strict=True):
            h, w = own.pixels_BCHW.shape[2:]
            assert surface.sizes_B2[index].tolist() == [h, w]
            if surface.pixels_BCHW.is_floating_point():
                found = surface.pixels_BCHW[index, :, :h, :w]
                torch.testing.assert_close(found, own.pixels_BCHW[0], atol=1e-5, rtol=1e-4)
                rest = surface.pixels_BCHW[index].sum() - found.sum()
                assert rest.abs() < 1e-3, "zero outside the photo"


def test_only_chosen_levels_are_surfaces():
    assert conv_maps(levels=(0, 2)).channels == [3, 4]
    assert len(conv_maps(levels=(2,))(Photos(padded()))) == 1


def test_conv_maps_of_the_normalised_photo():
    images, mean, std = padded(), (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    maps = conv_maps().eval()
    raw = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    by_hand = maps(Photos(raw * inside_mask(SIZES, raw.shape[2:]), SIZES))
    found = maps(Photos(images, SIZES, mean, std))
    torch.testing.assert_close(found[2].pixels_BCHW, by_hand[2].pixels_BCHW, atol=1e-5, rtol=1e-4)


def backbone_maps(**how) -> BackboneMaps:
    torch.manual_seed(0)
    fields = dict(frozen=False, num_levels=3, levels=(0, 1, 2), channels=3)
    return BackboneMaps("test_efficientnet", "none", **{**fields, **how})


def test_backbone_maps_equal_timms():
    maps = backbone_maps().eval()
    images = torch.randn(2, 3, 64, 96)
    network = timm.create_model("test_efficientnet", features_only=True).eval()
    network.load_state_dict(maps.network.model.state_dict(), strict=False)
    surfaces = maps(Photos(images))
    for level, wanted in enumerate(network(images)[:2], 1):
        assert torch.equal(surfaces[level].pixels_BCHW, wanted)
    assert maps.channels == [3, 16, 24]


def test_backbone_maps_of_a_photo_do_not_depend_on_its_batch():
    maps = backbone_maps().eval()
    images = padded()
    together = maps(Photos(images, SIZES))
    for index, (height, width) in enumerate(SIZES.tolist()):
        alone = maps(Photos(images[index : index + 1, :, :height, :width]))
        for surface, own in zip(together[1:], alone[1:], strict=True):
            h, w = own.pixels_BCHW.shape[2:]
            assert surface.sizes_B2[index].tolist() == [h, w]
            found = surface.pixels_BCHW[index, :, :h, :w]
            torch.testing.assert_close(found, own.pixels_BCHW[0], atol=1e-5, rtol=1e-4)


def test_frozen_backbone_maps_do_not_change():
    maps = backbone_maps(frozen=True).train()
    before = {key: value.clone() for key, value in maps.state_dict().items()}
    maps(Photos(padded(), SIZES))
    assert all(torch.equal(before[key], value) for key, value in maps.state_dict().items())


def test_invalid_maps_are_refused():
    with pytest.raises(UserError, match="num_levels"):
        backbone_maps(num_levels=9)
    with pytest.raises(UserError, match="test_efficientnet"):
        BackboneMaps("test_eficientnet", "none", frozen=False, num_levels=2, levels=(0,),
                     channels=3)  # fmt: skip


def norm_of_a_part(rank: int, folder: str) -> None:
    """Run in each of two processes: a part of the batch through the norm, forward and backward."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    try:
        maps, inside, target = torch.load(f"{folder}/batch.pt")
        rows = slice(0, 1) if rank == 0 else slice(1, 4)
        own = maps[rows].requires_grad_()
        norm = MaskedBatchNorm2d(2)
        found = norm(own, inside[rows])
        (found * target[rows]).sum().backward()
        torch.save((found.detach(), own.grad, norm.running_var), f"{folder}/{rank}.pt")
    finally:
        leave_world()


def test_statistics_are_over_all_processes(tmp_path):
    """Two processes with 1 and 3 photos give the same as a single process with all 4."""
    sizes = torch.tensor([[6, 5], [3, 4], [6, 2], [5, 5]])
    inside, maps = inside_mask(sizes, (6, 5)), torch.randn(4, 2, 6, 5) + 2
    target = torch.randn(4, 2, 6, 5) * inside
    torch.save((maps, inside, target), tmp_path / "batch.pt")
    torch.multiprocessing.spawn(norm_of_a_part, (str(tmp_path),), nprocs=2)
    whole = maps.clone().requires_grad_()
    norm = MaskedBatchNorm2d(2)
    wanted = norm(whole, inside)
    (wanted * target).sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    same = dict(atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), wanted.detach(), **same)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole.grad, **same)
    for part in parts:
        torch.testing.assert_close(part[2], norm.running_var, **same)

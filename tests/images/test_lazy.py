"""Photos that are read by region give the same as in memory."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from pyramids import claim_size, lose_tiles, smooth_pixels, vips, write_pyramid

from stacked_ram.images import pyramid
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.errors import UserError

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
GREY = 1 / 255  # one grey value, in the 0..1 units of a pixel


@pytest.fixture(scope="module", autouse=True)
def needs_pyvips():
    vips()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Random pixels of an odd size, in a file with pages and in a file with sub-images."""
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (301, 517, 3)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("noise")
    write_pyramid(folder / "pages.tif", pixels_HWC, compression="deflate")
    write_pyramid(folder / "subifds.tif", pixels_HWC, subifd=True)
    write_pyramid(folder / "flat.tif", pixels_HWC, pyramid=False)
    return folder, pixels_HWC


def in_memory(*arrays: np.ndarray) -> Photos:
    height, width = (max(array.shape[axis] for array in arrays) for axis in (0, 1))
    pixels_BCHW = torch.zeros(len(arrays), arrays[0].shape[2], height, width, dtype=torch.uint8)
    for pixels_CHW, array in zip(pixels_BCHW, arrays, strict=True):
        pixels_CHW[:, : array.shape[0], : array.shape[1]] = torch.from_numpy(array).permute(2, 0, 1)
    sizes = torch.tensor([array.shape[:2] for array in arrays])
    return Photos(pixels_BCHW, sizes, MEAN, STD)


def difference(first: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, in grey values."""
    return float(((first - other) * torch.tensor(STD).view(-1, 1, 1)).abs().max() / GREY)


def places(rows: int = 16) -> torch.Tensor:
    """Return locations inside the photo and beyond its edges."""
    return torch.rand(rows, 2, generator=torch.Generator().manual_seed(0)) * 2.6 - 1.3


@pytest.mark.parametrize("name", ["pages", "subifds", "flat"])
@pytest.mark.parametrize(
    "geometry",
    [
        GlimpseGeometry(8),
        GlimpseGeometry(9, patch_width=1.6),
        GlimpseGeometry(5, patch_width=0.3),
        GlimpseGeometry(16, 2, 1.5, snap=False),
        GlimpseGeometry(200, patch_unit="fraction", patch_width=0.9),
    ],
)
def test_patches_of_the_photo_itself_are_exact(noise, name, geometry):
    folder, pixels_HWC = noise
    lazy = LazyPhotos([LazyPhoto(folder / f"{name}.tif")], MEAN, STD)
    patches = lazy.patches(places(), geometry)
    assert difference(patches, in_memory(pixels_HWC).patches(places(), geometry)) < 0.01
    assert patches.abs().max() > 1


def test_without_a_pyramid_wide_patches_are_exact_too(noise):
    folder, pixels_HWC = noise
    lazy = LazyPhotos([LazyPhoto(folder / "flat.tif")], MEAN, STD)
    geometry = GlimpseGeometry(7, 4, 2.5)
    whole = in_memory(pixels_HWC)
    assert difference(lazy.patches(places(), geometry), whole.patches(places(), geometry)) < 0.01


@pytest.mark.parametrize("name", ["pages", "subifds"])
def test_cells_of_whole_level_pixels_differ_only_by_rounding(noise, name):
    """Cells of 4 x 4 pixels at multiples of 4: two reductions, each off by half a grey value."""
    folder, pixels_HWC = noise
    lazy, whole = LazyPhotos([LazyPhoto(folder / f"{name}.tif")], MEAN, STD), in_memory(pixels_HWC)
    geometry = GlimpseGeometry(16, patch_width=4)
    corners = torch.tensor([[0, 0], [64, 32], [400, 200], [448, 260], [-16, -32], [0, 236]])
    centres = (corners + 32) / torch.tensor([517, 301]) * 2 - 1
    inside = lazy.photos[0].pyramid.levels[2].size
    assert inside == (
        129,
        75,
    )  # the level's size is rounded down, so the last pixel of the photo is missing in it
    for centre, corner in zip(centres, corners, strict=True):
        patches, true = (each.patches(centre[None], geometry) for each in (lazy, whole))
        ends = max(corner[0] + 64 - 516, corner[1] + 64 - 300) // 4 + 1
        kept = slice(None, -int(ends)) if ends > 0 else slice(None)
        assert difference(patches[..., kept, kept], true[..., kept, kept]) <= 1.01


def test_wide_patches_and_the_glance_of_a_smooth_photo_are_close(tmp_path):
    pixels_HWC = smooth_pixels(700, 900)
    path = write_pyramid(tmp_path / "smooth.tif", pixels_HWC)
    lazy, whole = LazyPhotos([LazyPhoto(path)], MEAN, STD), in_memory(pixels_HWC)
    for geometry in (
        GlimpseGeometry(12, 4, 2.0),
        GlimpseGeometry(16, 2, 2.3, patch_unit="fraction", patch_width=0.35),
        GlimpseGeometry(10, 3, 3.0, snap=False),
    ):
        patches, true = (each.patches(places(24), geometry) for each in (lazy, whole))
        assert (
            difference(patches, true) < 20
        )  # the last columns of a level whose size was rounded down
        assert ((patches - true) * torch.tensor(STD).view(-1, 1, 1)).abs().mean() < GREY
        patches, true = (each.patches(places(24) * 0.08, geometry) for each in (lazy, whole))
        assert difference(patches, true) < 8  # pixels of a level differ by up to 50 here
    for size in ((64, 64), (50, 130), (7, 5), (1, 1)):
        assert difference(lazy.resized(size), whole.resized(size)) < 8


def test_the_edges_of_a_level_whose_size_was_rounded_down_are_not_dark(tmp_path):
    """A white photo is white to its last cell in every level, and zero beyond."""
    path = write_pyramid(tmp_path / "white.tif", np.full((301, 517, 3), 255, np.uint8))
    lazy = LazyPhotos([LazyPhoto(path)])
    whole = Photos(torch.full((1, 3, 301, 517), 255, dtype=torch.uint8))
    geometry = GlimpseGeometry(6, 6, 2.3, patch_width=1.2)
    torch.testing.assert_close(
        lazy.patches(places(24), geometry), whole.patches(places(24), geometry), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(lazy.resized((9, 14)), torch.ones(1, 3, 9, 14), atol=1e-5, rtol=0)


def test_a_photo_gives_the_same_alone_and_in_any_batch(noise, tmp_path):
    folder, _ = noise
    paths = [folder / "pages.tif", tmp_path / "b.tif", tmp_path / "c.tif"]
    write_pyramid(paths[1], smooth_pixels(130, 90))
    write_pyramid(paths[2], smooth_pixels(400, 1000))
    photos = [LazyPhoto(path) for path in paths]
    batch = LazyPhotos(photos, MEAN, STD)
    assert batch.sizes_B2.tolist() == [[301, 517], [130, 90], [400, 1000]]
    geometry = GlimpseGeometry(11, 3, 2.2, patch_unit="fraction", patch_width=0.2)
    together = batch.patches(places(6), geometry)  # two rollouts a photo
    for place, photo in enumerate(photos):
        alone = LazyPhotos([photo], MEAN, STD)
        rows = slice(2 * place, 2 * place + 2)
        torch.testing.assert_close(alone.patches(places(6)[rows], geometry), together[rows])
        torch.testing.assert_close(alone.resized((9, 8))[0], batch.resized((9, 8))[place])
    chosen = batch.select(torch.tensor([2, 0]))
    torch.testing.assert_close(
        chosen.patches(places(6)[[4, 5, 0, 1]], geometry), together[[4, 5, 0, 1]]
    )


def test_gradients_reach_the_locations(tmp_path):
    path = write_pyramid(tmp_path / "smooth.tif", smooth_pixels(300, 400))
    geometry = GlimpseGeometry(8, 2, 3.0, snap=False)
    gradients = []
    whole = in_memory(smooth_pixels(300, 400))
    for photos in (LazyPhotos([LazyPhoto(path)], MEAN, STD), whole):
        location = torch.tensor([[0.1234, -0.3123]], requires_grad=True)
        photos.patches(location, geometry)[:, 0].square().sum().backward()
        gradients.append(location.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-2)


def test_grayscale_16_bits_transparency_and_rotation_are_as_in_memory(tmp_path):
    grey_HW1 = smooth_pixels(100, 150, channels=1)
    write_pyramid(tmp_path / "grey.tif", grey_HW1)
    write_pyramid(tmp_path / "deep.tif", grey_HW1.astype(np.uint16) * 257)
    geometry = GlimpseGeometry(8)
    found = [
        LazyPhotos([LazyPhoto(tmp_path / f"{name}.tif")], MEAN, STD).patches(places(), geometry)
        for name in ("grey", "deep")
    ]
    true = in_memory(grey_HW1.repeat(3, 2)).patches(places(), geometry)
    for patches in found:
        assert difference(patches, true) < 0.01
    photo = LazyPhotos([LazyPhoto(tmp_path / "grey.tif", channels=1)])
    assert photo.patches(places(), geometry).shape[2] == 1
    colour_HWC = smooth_pixels(100, 150)
    image = vips().Image.new_from_array(colour_HWC)
    turned = image.copy()
    turned.set_type(vips().GValue.gint_type, "orientation", 6)
    turned.tiffsave(str(tmp_path / "turned.tif"), tile=True, pyramid=True)
    photo = LazyPhoto(tmp_path / "turned.tif")
    assert photo.size == (150, 100)
    upright = np.ascontiguousarray(np.rot90(colour_HWC, -1))
    patches = LazyPhotos([photo], MEAN, STD).patches(places(), geometry)
    assert difference(patches, in_memory(upright).patches(places(), geometry)) < 0.01
    alpha = np.full((100, 150, 1), 255, np.uint8)
    alpha[:50] = 0
    write_pyramid(tmp_path / "alpha.tif", np.concatenate([colour_HWC, alpha], 2))
    white = np.where(alpha == 0, 255, colour_HWC).astype(np.uint8)
    patches = LazyPhotos([LazyPhoto(tmp_path / "alpha.tif")], MEAN, STD).patches(places(), geometry)
    assert difference(patches, in_memory(white).patches(places(), geometry)) < 0.01


def test_jpeg_is_read_at_the_scales_of_its_decoder(tmp_path):
    from stacked_ram.images.decoding import read_photo

    path = tmp_path / "photo.jpg"
    vips().Image.new_from_array(smooth_pixels(600, 801)).jpegsave(str(path), Q=95)
    pixels_HWC = np.ascontiguousarray(np.moveaxis(read_photo(path), 0, 2))
    lazy, whole = LazyPhotos([LazyPhoto(path)], MEAN, STD), in_memory(pixels_HWC)
    assert [level.factors[0] for level in lazy.photos[0].pyramid.levels] == [1, 2, 4, 8]
    assert difference(*(each.patches(places(), GlimpseGeometry(8)) for each in (lazy, whole))) < 3
    assert difference(lazy.resized((48, 64)), whole.resized((48, 64))) < 6


def test_a_photo_is_pickled_as_its_path(noise):
    folder, _ = noise
    photo = LazyPhoto(folder / "pages.tif")
    LazyPhotos([photo]).resized((8, 8))
    again = pickle.loads(pickle.dumps(photo))
    torch.testing.assert_close(
        LazyPhotos([again]).resized((8, 8)), LazyPhotos([photo]).resized((8, 8))
    )


# ------------------------------------------------------------------ damaged files


def test_a_missing_tile_is_reported_with_the_file(tmp_path):
    path = write_pyramid(tmp_path / "cut.tif", smooth_pixels(200, 300))
    lose_tiles(path)
    photos = LazyPhotos([LazyPhoto(path)])
    assert photos.resized((20, 30)).shape == (1, 3, 20, 30)  # from an undamaged level
    with pytest.raises(UserError, match=r"cut\.tif: cannot read this photo"):
        photos.patches(torch.zeros(1, 2), GlimpseGeometry(16))


def test_a_damaged_level_is_reported_with_the_file(tmp_path):
    path = write_pyramid(tmp_path / "level.tif", smooth_pixels(200, 300))
    lose_tiles(path, level=1)
    photos = LazyPhotos([LazyPhoto(path)])
    assert photos.patches(torch.zeros(1, 2), GlimpseGeometry(16)).shape[-1] == 16
    with pytest.raises(UserError, match=r"level\.tif: cannot read this photo"):
        photos.patches(torch.zeros(1, 2), GlimpseGeometry(16, patch_width=2))


def test_a_missing_pyramid_is_refused_when_it_would_cost_too_much(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "flat.tif", smooth_pixels(200, 300), pyramid=False)
    monkeypatch.setattr(pyramid, "MAX_READ", 10_000)
    photos = LazyPhotos([LazyPhoto(path)])
    assert photos.patches(torch.zeros(1, 2), GlimpseGeometry(64)).shape[-1] == 64
    with pytest.raises(UserError, match=r"flat\.tif: .* no smaller level .* tiffsave"):
        photos.resized((20, 30))


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write_pyramid(tmp_path / "photo.tif", smooth_pixels(200, 300))
    photos = LazyPhotos([LazyPhoto(path)])
    photos.patches(torch.zeros(1, 2), GlimpseGeometry(16))
    write_pyramid(tmp_path / "other.tif", smooth_pixels(220, 310, seed=1))
    os.replace(tmp_path / "other.tif", path)
    with pytest.raises(UserError, match=r"photo\.tif: changed while it was being read"):
        photos.patches(torch.zeros(1, 2), GlimpseGeometry(16))
    path.unlink()
    with pytest.raises(UserError, match=r"photo\.tif: no such photo"):
        photos.patches(torch.zeros(1, 2), GlimpseGeometry(16))


def test_a_header_of_200000_by_200000_costs_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    path = write_pyramid(tmp_path / "vast.tif", smooth_pixels(200, 300), pyramid=False)
    claim_size(path, 200_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"vast\.tif: "):
        LazyPhotos([LazyPhoto(path)]).resized((64, 64))
    with pytest.raises(UserError, match=r"vast\.tif: "):
        LazyPhotos([LazyPhoto(path)]).patches(torch.full((1, 2), 0.9), GlimpseGeometry(64))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200_000  # kilobytes


def test_a_huge_photo_without_tiles_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    vips().Image.new_from_array(smooth_pixels(200, 300)).jpegsave(str(path))
    monkeypatch.setattr(pyramid, "MAX_DECODED", 1000)
    with pytest.raises(UserError, match=r"photo\.jpg: 300 x 200 pixels without tiles"):
        LazyPhoto(path)
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.tif: cannot read"):
        LazyPhoto(tmp_path / "text.tif")
    with pytest.raises(UserError, match=r"gone\.tif: no such photo"):
        LazyPhoto(tmp_path / "gone.tif")


def test_rows_so_long_that_libvips_would_hold_gigabytes_are_refused(tmp_path):
    vips().Image.black(600_000, 2).pngsave(str(tmp_path / "row.png"))
    with pytest.raises(UserError, match=r"row\.png: 600,000 x 2 pixels without tiles"):
        LazyPhoto(tmp_path / "row.png")


def test_without_pyvips_the_error_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(UserError, match=r"pip install 'pyvips\[binary\]'"):
        LazyPhoto(tmp_path / "slide.svs")

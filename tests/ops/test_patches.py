"""Patches against a slow, simple float64 reference, for every kind of photo and geometry."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from stacked_ram.ops import compiled, patches, windows
from stacked_ram.ops.compiled import can_read
from stacked_ram.ops.geometry import GlimpseGeometry, glimpse_boxes
from stacked_ram.ops.patches import Photos
from stacked_ram.runtime.errors import UserError


def overlap(start: float, end: float, pixel: int) -> float:
    return max(0.0, min(end, pixel + 1) - max(start, pixel))


def reference_patch(photo_CHW, box, shape, mean=None, std=None):
    """One patch, cell by cell and pixel by pixel, in float64; photo_CHW is only the photo."""
    photo_CHW = photo_CHW.double() / (255 if photo_CHW.dtype == torch.uint8 else 1)
    channels, height, width = photo_CHW.shape
    left, top, right, bottom = (float(v) for v in box)
    rows, columns = shape
    mean, std = mean or [0.0] * channels, std or [1.0] * channels
    patch = torch.zeros(channels, rows, columns, dtype=torch.float64)
    for i in range(rows):
        y0, y1 = top + (bottom - top) * i / rows, top + (bottom - top) * (i + 1) / rows
        for j in range(columns):
            x0, x1 = left + (right - left) * j / columns, left + (right - left) * (j + 1) / columns
            for y in range(max(0, math.floor(y0)), min(height, math.ceil(y1))):
                for x in range(max(0, math.floor(x0)), min(width, math.ceil(x1))):
                    weight = overlap(y0, y1, y) * overlap(x0, x1, x) / ((y1 - y0) * (x1 - x0))
                    for c in range(channels):
                        value = (float(photo_CHW[c, y, x]) - mean[c]) / std[c]
                        patch[c, i, j] += weight * value
    return patch


def expected_box(location, size, geometry, k):
    height, width = size
    first = geometry.patch_width * (
        geometry.patch_size if geometry.patch_unit == "pixels" else min(height, width)
    )
    side = first * geometry.glimpse_scale**k
    left = (location[0] + 1) / 2 * width - side / 2
    top = (location[1] + 1) / 2 * height - side / 2
    if geometry.whole_cells:
        left, top = math.floor(left + 0.5), math.floor(top + 0.5)
    return left, top, left + side, top + side


def photos_of(sizes, channels, dtype, generator):
    photos = []
    for height, width in sizes:
        shape = (channels, height, width)
        if dtype == torch.uint8:
            photos.append(torch.randint(0, 256, shape, generator=generator, dtype=dtype))
        else:
            photos.append(torch.randn(shape, generator=generator, dtype=dtype))
    return photos


def padded(photos):
    height, width = (max(p.shape[d] for p in photos) for d in (1, 2))
    pixels = photos[0].new_zeros(len(photos), photos[0].shape[0], height, width)
    for row, photo in zip(pixels, photos, strict=True):
        row[:, : photo.shape[1], : photo.shape[2]] = photo
    return pixels, torch.tensor([p.shape[1:] for p in photos])


GEOMETRIES = {
    "whole": GlimpseGeometry(4, 3),
    "whole, odd": GlimpseGeometry(5, 3),
    "whole, by 3": GlimpseGeometry(3, 3, 3.0),
    "whole, from wide to narrow": GlimpseGeometry(3, 3, 0.5, patch_width=4.0),
    "whole, not multiples": GlimpseGeometry(3, 2, 1.5, patch_width=2.0),
    "wider than 16-bit sums": GlimpseGeometry(2, 2, 12.0),
    "one pixel": GlimpseGeometry(1, 2),
    "not snapped": GlimpseGeometry(4, 3, snap=False),
    "fractional scale": GlimpseGeometry(5, 3, 1.7),
    "cells below a pixel": GlimpseGeometry(6, 2, 1.5, patch_width=0.3),
    "fraction": GlimpseGeometry(4, 3, 1.5, patch_unit="fraction", patch_width=0.4),
    "fraction, wider than the photo": GlimpseGeometry(3, 2, patch_unit="fraction", patch_width=1.2),
}
LOCATIONS = [(0.0, 0.0), (0.31, -0.77), (-1.0, 1.0), (1.0, 1.0), (-0.4, 1.3), (-9.0, 40.0)]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
def test_patches_are_the_exact_area_averages(geometry, channels, dtype):
    generator = torch.Generator().manual_seed(1)
    photos = photos_of([(13, 17), (9, 6), (11, 11)], channels, dtype, generator)
    pixels, sizes = padded(photos)
    mean, std = (None, None)
    if dtype == torch.uint8:
        mean, std = [0.4, 0.5, 0.1][:channels], [0.2, 0.25, 0.3][:channels]
    locations = torch.tensor(LOCATIONS)  # two rollouts a photo

    patches_RKCPP = Photos(pixels, sizes, mean, std).patches(locations, geometry)
    sizes_R2 = sizes.repeat_interleave(2, 0)
    boxes = glimpse_boxes(locations, sizes_R2, geometry)

    size = geometry.patch_size
    assert patches_RKCPP.shape == (6, geometry.num_patches, channels, size, size)
    assert boxes.shape == (6, geometry.num_patches, 4) and boxes.dtype == torch.float32
    for r, location in enumerate(LOCATIONS):
        for k in range(geometry.num_patches):
            box = expected_box(locations[r].tolist(), sizes_R2[r].tolist(), geometry, k)
            assert boxes[r, k].tolist() == pytest.approx(box, rel=1e-5, abs=1e-5), location
            expected = reference_patch(photos[r // 2], boxes[r, k], (size, size), mean, std)
            assert (patches_RKCPP[r, k].double() - expected).abs().max() < 2e-5


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
def test_a_photo_alone_and_in_any_batch_gives_the_same_patches(geometry, dtype):
    generator = torch.Generator().manual_seed(2)
    photos = photos_of([(13, 17), (9, 6), (30, 8)], 3, dtype, generator)
    locations = torch.tensor(LOCATIONS)[:3]
    together = Photos(*padded(photos), mean=[0.4, 0.4, 0.4]).patches(locations, geometry)
    for b, photo in enumerate(photos):
        alone = Photos(photo[None], mean=[0.4, 0.4, 0.4]).patches(locations[b : b + 1], geometry)
        assert torch.allclose(alone[0], together[b], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (20, 20)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64], ids=["uint8", "float64"])
def test_resized_is_the_whole_photo_by_area(size, dtype):
    generator = torch.Generator().manual_seed(3)
    photos = photos_of([(13, 17), (9, 6)], 3, dtype, generator)
    mean, std = [0.4, 0.5, 0.1], [0.2, 0.25, 0.3]
    resized = Photos(*padded(photos), mean, std).resized(size)
    assert resized.shape == (2, 3, *size)
    for b, photo in enumerate(photos):
        box = (0, 0, photo.shape[2], photo.shape[1])
        expected = reference_patch(photo, box, size, mean, std)
        assert (resized[b].double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_gradients_reach_float_pixels(geometry):
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randn(2, 16, 5, 6, generator=generator, dtype=torch.float64)
    pixels[0, :, 3:] = 0
    pixels.requires_grad_()
    sizes = torch.tensor([[3, 6], [5, 6]])
    locations = torch.tensor([(0.3, -0.2), (0.0, 0.6), (-0.8, 0.1), (0.9, 0.9)])
    weights = torch.randn(16, generator=generator, dtype=torch.float64)

    def read(pixels):
        patches_RKCPP = Photos(pixels, sizes).patches(locations, geometry, torch.float64)
        return (patches_RKCPP * weights[:, None, None]).sum(2), Photos(pixels, sizes).resized(
            (2, 3)
        )

    assert gradcheck(read, (pixels,), fast_mode=True)


@pytest.mark.parametrize("unit, width", [("pixels", 1.3), ("fraction", 0.45)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64], ids=["uint8", "float64"])
def test_gradients_reach_locations_when_boxes_are_not_snapped(unit, width, dtype):
    generator = torch.Generator().manual_seed(5)
    pixels, sizes = padded(photos_of([(13, 17), (9, 6)], 3, dtype, generator))
    geometry = GlimpseGeometry(3, 2, 1.7, unit, width, snap=False)
    locations = torch.tensor([(0.313, -0.21), (0.0771, 0.623)], dtype=torch.float64)
    photos = Photos(pixels, sizes, [0.4, 0.5, 0.1])

    def read(locations):
        return photos.patches(locations, geometry, dtype=torch.float64)

    assert gradcheck(read, (locations.requires_grad_(),))


def test_prepared_photos_give_the_same_again_and_for_a_selection():
    generator = torch.Generator().manual_seed(6)
    pixels, sizes = padded(photos_of([(13, 17), (9, 6), (11, 11)], 3, torch.uint8, generator))
    photos = Photos(pixels, sizes, [0.4, 0.5, 0.1])
    locations = torch.tensor(LOCATIONS[:3])
    for geometry in (GEOMETRIES["whole"], GEOMETRIES["fractional scale"]):
        first = photos.patches(locations, geometry)
        assert torch.equal(first, photos.patches(locations, geometry))
        index = torch.tensor([2, 0])
        again = photos.select(index).patches(locations[index], geometry)
        assert torch.allclose(again, first[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", [name for name in GEOMETRIES if name.startswith(("wh", "wi", "on"))]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mean", [None, [0.4, 0.5, 0.1]], ids=["raw", "normalised"])
def test_the_compiled_loop_and_the_sliding_sums_agree_to_the_last_bit(
    name, channels, mean, monkeypatch
):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(11)
    pixels, sizes = padded(
        photos_of([(13, 17), (9, 6), (11, 11)], channels, torch.uint8, generator)
    )
    locations, geometry = torch.tensor(LOCATIONS), GEOMETRIES[name]
    mean = mean and mean[:channels]

    def read(pixels_BCHW):
        return Photos(pixels_BCHW, sizes, mean).patches(locations, geometry)

    cells = geometry.whole_cells
    assert can_read(pixels, cells)
    by_the_loop = read(pixels)
    lying_otherwise = read(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.equal(by_the_loop, lying_otherwise)
    monkeypatch.setattr(compiled, "load_cell_loop", lambda: (None, 0))  # as without numba
    assert not can_read(pixels, cells)
    assert torch.equal(by_the_loop, read(pixels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_loop_reads_the_boxes_that_are_drawn(dtype, monkeypatch):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(12)
    pixels = torch.randint(0, 256, (3, 1, 61, 83), dtype=torch.uint8, generator=generator)
    locations = 2.4 * torch.rand(3 * 500, 2, dtype=dtype, generator=generator) - 1.2
    # half of them on the border between two pixels, or within a rounding error of it
    halves = (locations * torch.tensor([41.5, 30.5])).round() / torch.tensor([41.5, 30.5])
    locations = torch.where(torch.arange(1500)[:, None] % 2 == 0, locations, halves.to(dtype))
    geometry = GlimpseGeometry(3, 2)
    by_the_loop = Photos(pixels).patches(locations, geometry)
    monkeypatch.setattr(compiled, "load_cell_loop", lambda: (None, 0))
    assert torch.equal(by_the_loop, Photos(pixels).patches(locations, geometry))
    boxes = glimpse_boxes(locations, torch.tensor([[61, 83]]).expand(1500, 2), geometry)
    for row in range(0, 1500, 7):
        left, top, right, bottom = (round(edge) for edge in boxes[row, 0].tolist())
        wide = torch.nn.functional.pad(pixels[row // 500, 0], (40, 40, 40, 40))
        wanted = wide[top + 40 : bottom + 40, left + 40 : right + 40].float() / 255
        assert torch.allclose(by_the_loop[row, 0, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_loop_and_the_windows_agree_on_any_boxes(threads, monkeypatch):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(13)
    pixels, sizes = padded(photos_of([(13, 317), (300, 6), (61, 83)], 3, torch.uint8, generator))
    starts = torch.rand(6, 2, 2, generator=generator) * 200 - 70  # two rollouts; some outside
    sides = torch.rand(6, 2, 2, generator=generator) ** 2 * 290 + 0.01
    starts[3, 0, 0] = float("nan")  # of a model that diverged: no crash

    def read():
        photos = Photos(pixels, sizes, [0.4, 0.5, 0.1], [0.2, 0.3, 0.25])
        return photos.averages(starts, sides, [(291.0, 291.0)] * 2, (5, 4))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    by_the_loop = read()
    torch.set_num_threads(before)
    monkeypatch.setattr(compiled, "load_cell_loop", lambda: (None, 0))
    assert by_the_loop[3, 0].isnan().all()
    starts = starts.nan_to_num()
    by_windows = read()
    by_windows[3, 0] = float("nan")
    torch.testing.assert_close(by_the_loop, by_windows, atol=2e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("cell", [3, 4, 6, 16, 60, 64, 68, 255, 256, 257, 258])
def test_sums_of_wide_cells_do_not_overflow(cell):
    pytest.importorskip("numba")
    pixels = torch.full((1, 1, 2 * cell + 2, 2 * cell + 2), 255, dtype=torch.uint8)
    pixels[0, 0, 1, 1] = 0  # the first pixel read
    assert can_read(pixels, (cell,)) == (cell <= 257)
    geometry = GlimpseGeometry(2, patch_width=float(cell))
    first, *others = Photos(pixels).patches(torch.zeros(1, 2), geometry).flatten().tolist()
    assert others == pytest.approx([1, 1, 1], abs=1e-6)
    assert first == pytest.approx(1 - 1 / cell**2, abs=1e-6)


def test_patches_of_large_photos_do_not_process_the_whole_photo(monkeypatch):
    generator = torch.Generator().manual_seed(8)
    pixels, sizes = padded(photos_of([(130, 170), (90, 60)], 3, torch.uint8, generator))
    geometry, locations = GlimpseGeometry(20, 3), torch.tensor(LOCATIONS[:4])
    by_sums = Photos(pixels, sizes, [0.4, 0.5, 0.1]).patches(locations, geometry)
    monkeypatch.setattr(patches, "SLIDING_PIXELS", 0)
    monkeypatch.setattr(patches, "can_read", lambda pixels_BCHW, cells: False)
    monkeypatch.setattr(patches, "SlidingMaps", None)
    monkeypatch.setitem(windows.CHUNK, "cpu", 1)
    by_windows = Photos(pixels, sizes, [0.4, 0.5, 0.1]).patches(locations, geometry)
    assert torch.allclose(by_sums, by_windows, atol=1e-6, rtol=0)


def test_reduced_precision_elsewhere_does_not_reach_the_averages():
    generator = torch.Generator().manual_seed(9)
    photos = Photos(torch.rand(1, 3, 200, 300, generator=generator))
    geometry = GlimpseGeometry(32, 2, 1.7)
    exact = photos.patches(torch.zeros(1, 2), geometry)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(photos.patches(torch.zeros(1, 2), geometry), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bfloat16_is_the_exact_average_rounded_once():
    generator = torch.Generator().manual_seed(7)
    photos = Photos(torch.randint(0, 256, (2, 1, 60, 60), generator=generator, dtype=torch.uint8))
    geometry, locations = GlimpseGeometry(12, 3), torch.tensor(LOCATIONS[:2])
    exact = photos.patches(locations, geometry)
    assert torch.equal(photos.patches(locations, geometry, torch.bfloat16), exact.bfloat16())


@pytest.mark.parametrize(
    "pixels, word",
    [
        (torch.zeros(3, 8, 8), "B, C, H, W"),
        (torch.zeros(1, 1, 3, 8, 8), "B, C, H, W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8 or floating point"),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels, word):
    with pytest.raises(ValueError, match=word):
        Photos(pixels)


def test_what_is_not_one_for_each_channel_or_photo_is_refused():
    pixels = torch.zeros(2, 3, 8, 8)
    for values in ([0.5], torch.full((4,), 0.5)):
        with pytest.raises(ValueError, match="mean or std for 3 channels"):
            Photos(pixels, mean=values)
        with pytest.raises(ValueError, match="mean or std for 3 channels"):
            Photos(pixels, std=values)
    with pytest.raises(ValueError, match="3 locations are no multiple of 2 photos"):
        Photos(pixels).patches(torch.zeros(3, 2), GlimpseGeometry(4))


@pytest.mark.parametrize("geometry", [GlimpseGeometry(4, 2), GlimpseGeometry(4, 2, snap=False)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize(
    "mean, std", [(None, [0.2, 0.5]), ([0.4, 0.1], None), ([0.4, 0.1], [2, 4])]
)
def test_mean_and_std_each_alone_and_replaced(geometry, dtype, mean, std):
    """For every reader: zero outside the photo after them, the type of float pixels kept."""
    generator = torch.Generator().manual_seed(14)
    (photo,) = photos_of([(13, 17)], 2, dtype, generator)
    locations = torch.tensor([(0.9, -0.4), (-1.0, 1.0)])
    plain = Photos(photo[None])
    photos = Photos(photo[None], mean=mean, std=std)
    means, stds = (None if v is None else torch.tensor(v).float() for v in (mean, std))
    boxes = glimpse_boxes(locations, torch.tensor([[13, 17]] * 2), geometry)
    first = photos.select(torch.tensor([0]))
    for same in (photos, plain.normalised(means, stds), photos.to("cpu"), first):
        found = same.patches(locations, geometry)
        assert found.dtype == torch.float32
        for row, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
            expected = reference_patch(photo, boxes[row, k], (4, 4), mean, std)
            assert (found[row, k].double() - expected).abs().max() < 2e-5


def test_locations_that_are_not_numbers_do_not_read_out_of_bounds():
    photos = Photos(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    for value in (float("nan"), float("inf"), -1e30):
        photos.patches(torch.tensor([[value, 0.0]]), GlimpseGeometry(4, 2))
        photos.patches(torch.tensor([[value, 0.0]]), GlimpseGeometry(4, 2, snap=False))


def test_the_widths_of_a_glimpse():
    assert GlimpseGeometry(8).widths == (8.0,)
    assert GlimpseGeometry(8, 3).widths == (8.0, 16.0, 32.0)
    assert GlimpseGeometry(8, 2, 3.0, patch_width=0.5).widths == (4.0, 12.0)
    half = GlimpseGeometry(8, 2, 1.5, patch_unit="fraction", patch_width=0.5)
    assert half.widths == (0.5, 0.75)
    boxes = glimpse_boxes(torch.zeros(1, 2), torch.tensor([[40, 60]]), half)
    assert boxes[0].tolist() == [[20.0, 10.0, 40.0, 30.0], [15.0, 5.0, 45.0, 35.0]]
    assert GlimpseGeometry(8, 3).whole_cells == (1, 2, 4)
    for other in (half, GlimpseGeometry(8, snap=False), GlimpseGeometry(8, 2, 1.5)):
        assert other.whole_cells is None


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 4, "num_patches": 0}, "num_patches"),
        ({"patch_size": 4, "glimpse_scale": 0.0}, "glimpse_scale"),
        ({"patch_size": 4, "glimpse_scale": -2.0}, "glimpse_scale"),
        ({"patch_size": 4, "patch_width": float("nan")}, "patch_width"),
        ({"patch_size": 4, "patch_width": float("inf")}, "patch_width"),
        ({"patch_size": 4, "patch_unit": "metres"}, "patch_unit"),
    ],
)
def test_an_invalid_geometry_names_the_value(arguments, word):
    with pytest.raises(UserError, match=word):
        GlimpseGeometry(**arguments)


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("whole", torch.uint8),
        ("whole", torch.float32),
        ("fractional scale", torch.float32),
    ],
)
def test_a_compiled_step_is_one_graph_and_gives_the_same(name, dtype):
    generator = torch.Generator().manual_seed(10)
    pixels, sizes = padded(photos_of([(13, 17), (9, 6)], 3, dtype, generator))
    locations = torch.tensor(LOCATIONS[:4])
    pixels.requires_grad_(dtype == torch.float32)

    def two_steps(pixels, sizes, locations):
        photos = Photos(pixels, sizes)
        first = photos.patches(locations, GEOMETRIES[name])
        return first, photos.patches(-locations, GEOMETRIES[name])

    expected = two_steps(pixels, sizes, locations)
    compiled = torch.compile(two_steps, backend="aot_eager", fullgraph=True)
    results = compiled(pixels, sizes, locations)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.allclose(result, wanted, atol=1e-6, rtol=0)
    if dtype == torch.float32:
        weights = [torch.randn(result.shape, generator=generator) for result in expected]
        gradients = [
            torch.autograd.grad(
                sum((result * w).sum() for result, w in zip(outputs, weights, strict=True)), pixels
            )[0]
            for outputs in (results, expected)
        ]
        assert torch.allclose(*gradients, atol=1e-5)


def test_gradients_of_a_part_of_the_patches():
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randn(2, 2, 9, 9, generator=generator, dtype=torch.float64)
    geometry, locations = GEOMETRIES["whole"], torch.tensor(LOCATIONS[:2])

    def gradient(used: list[int]) -> torch.Tensor:
        leaf = pixels.clone().requires_grad_()
        photos = Photos(leaf)
        read = [photos.patches(locations * (0.5 + step), geometry) for step in range(3)]
        sum(read[step].square().sum() for step in used).backward()
        return leaf.grad

    assert torch.allclose(gradient([0, 2]), gradient([0]) + gradient([2]))
    assert torch.allclose(gradient([0, 1, 2]), gradient([1]) + gradient([2]) + gradient([0]))

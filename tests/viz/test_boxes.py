"""Boxes are drawn exactly at the pixels that the retina read."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_runs import noise_photo, recorded, tiny_model

from stacked_ram.images.decoding import ORIENTATION
from stacked_ram.viz.boxes import (
    draw_boxes,
    draw_surface,
    fit,
    split_at_edges,
    view_of,
    view_shape,
)
from stacked_ram.viz.photos import Photo, true_size
from stacked_ram.viz.style import Sheet, figure_bytes, step_colours

MARK = np.array([255, 0, 255])


def drawn(record, step: int, boxes: bool) -> np.ndarray:
    """Draw the boxes of a step at 40 pixels for each pixel of the photo: H x W x 3."""
    surface = record.surfaces[0]
    view = view_of(surface.size, surface.boxes_TK4)
    wide, tall = fit(view_shape(record, surface, view), 1e9, 40 * (view[3] - view[1]) / 100)
    sheet = Sheet(wide, tall)
    axes = sheet.axes(0, 0, wide, tall)
    draw_surface(axes, surface, view, record.colours, last=0)
    if boxes:
        draw_boxes(axes, surface.boxes_TK4[step, :1], surface.size, "#00ff00", weight=0.5)
    content = figure_bytes(sheet.figure, "png", 100)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def extent(mask_HW: np.ndarray) -> np.ndarray:
    """Return left, top, right, bottom of the true pixels."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("squeezed", [1.0, 1.7])
def test_drawn_box_surrounds_the_marker_that_the_retina_read(squeezed):
    """A marker is painted where the patch of step 2 is read. Then the patch shows only the marker,
    and the drawn box is exactly around it."""
    model = tiny_model(patch_size=6, num_patches=1)
    blank = noise_photo()
    blank.pixels_CHW[:] = 40
    unmarked = recorded(model, blank)
    for step in range(unmarked.steps):
        left, top, right, bottom = unmarked.surfaces[0].boxes_TK4[step, 0].astype(int)
        assert left >= 0 and top >= 0 and right <= 32 and bottom <= 24, "choose another seed"
        pixels = blank.pixels_CHW.copy()
        pixels[:, top:bottom, left:right] = MARK[:, None, None]
        locations = torch.tensor(unmarked.locations_TS2)[None]
        # the same locations on the marked photo: what the retina reads there is the marker
        ready = model.photos(torch.from_numpy(pixels[None]))
        with torch.inference_mode():
            trace = model(ready, locations_BTS2=locations, keep_patches=True)
        patch = trace.patches_BTSKCPP[0, step, 0, 0] * 0.25 + 0.2
        assert torch.allclose(patch, torch.tensor(MARK / 255).float()[:, None, None], atol=1e-5)

        marked = Photo("marked", pixels, (24, round(32 * squeezed)), 1)
        record = recorded(model, marked)
        record.surfaces[0].boxes_TK4 = trace.boxes_BTSK4[0, :, 0].numpy()
        marker = extent(np.abs(drawn(record, step, boxes=False) - MARK).sum(2) < 60)
        box = extent(np.abs(drawn(record, step, boxes=True) - [0, 255, 0]).sum(2) < 60)
        # the line's middle is on the marker's edge, with half its width (0.85 pt) on each side
        assert np.abs(box - marker).max() <= 3, (box, marker)


def test_the_record_of_a_resized_photo_has_its_true_size():
    photo = noise_photo(20, 20)
    photo.true_size = (100, 200)
    record = recorded(tiny_model(patch_size=2), photo)
    surface = record.surfaces[0]
    assert view_shape(record, surface, (0, 0, 20, 20)) == pytest.approx(0.5)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_the_true_size_is_upright(tmp_path, ending):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / f"photo.{ending}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert true_size(path) == (40, 20)


@given(
    box=st.tuples(*[st.floats(-30, 60)] * 2, *[st.floats(0.5, 40)] * 2),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_sides_of_a_box_are_solid_inside_the_photo_and_dashed_outside(box, size):
    left, top, width, height = box
    inside, outside = split_at_edges((left, top, left + width, top + height), size)
    length = sum(np.abs(np.diff(line, axis=0)).sum() for line in [*inside, *outside])
    assert length == pytest.approx(2 * (width + height), rel=1e-6)
    for line in inside:
        assert (line >= -1e-9).all() and (line <= np.array(size[::-1]) + 1e-9).all()
    for line in outside:
        middle = line.mean(0)
        assert not ((middle > 0) & (middle < size[::-1])).all()


def test_view_shows_boxes_outside_the_photo_within_bounds():
    boxes = np.array([[[-2.0, -1, 6, 7]], [[5.0, 5, 400, 400]]])
    left, top, right, bottom = view_of((24, 32), boxes)
    assert left < -2 and top < -1
    assert right == pytest.approx(1.3 * 32) and bottom == pytest.approx(1.3 * 24)


# simulated colour vision (Machado et al., 2009, severity 1), on linear RGB
VISION = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("kind", [*VISION, "grey"])
def test_steps_are_distinguishable_with_colour_blindness_and_in_grey(kind):
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(colour) for colour in step_colours(6)])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    if kind != "grey":
        linear = (linear @ np.array(VISION[kind]).T).clip(0, 1)
    light = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(light) > 6).all(), light  # lightness L*; a difference of 2 is just record

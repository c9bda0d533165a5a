"""The box of an object frames the object's pixels after any crop, flip, reduction and padding."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_config

from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import make_loader

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Black photos of many sizes, each with a white rectangle that is its box."""
    folder = tmp_path_factory.mktemp("boxed")
    rng, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        height, width = rng.integers(60, 200, 2).tolist()
        (top, bottom), (left, right) = (
            sorted(rng.choice(np.arange(0, side, 8), 2, replace=False)) for side in (height, width)
        )
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[top:bottom, left:right] = 255
        path = f"train/{'ab'[number % 2]}/{number}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
        rows.append(
            f"{path},{'ab'[number % 2]},train,{width},{height},{left},{top},{right},{bottom}"
        )
    head = "path,class,split,width,height,box_left,box_top,box_right,box_bottom"
    (folder / "manifest.csv").write_text("\n".join([head, *rows]) + "\n")
    info = {"format": 1, "kind": "photos", "name": "boxed", "classes": ["a", "b"], "channels": 3,
            "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    (folder / "dataset.yaml").write_text(yaml.safe_dump(info))
    return folder


sides = st.integers(20, 160)


@settings(max_examples=40, deadline=None)
@given(
    flip=st.booleans(),
    crop_area=st.sampled_from([(1.0, 1.0), (0.2, 1.0), (0.05, 0.3)]),
    short_side=st.one_of(st.none(), sides),
    photo_size=st.one_of(st.none(), st.tuples(sides, sides)),
    seed=st.integers(0, 1000),
    train=st.booleans(),
)  # fmt: skip
def test_a_box_frames_its_object(folder, flip, crop_area, short_side, photo_size, seed, train):
    if photo_size is not None:
        short_side = None
    config = tiny_config(
        folder, flip=flip, crop_area=crop_area, short_side=short_side, photo_size=photo_size,
        seed=seed, batch_size=5,
    )  # fmt: skip
    seen = 0
    for batch in make_loader(open_dataset(config.data, "train"), config, train=train):
        for photo, size, box in zip(batch.pixels_BCHW, batch.sizes_B2, batch.boxes_B4, strict=True):
            height, width = size.tolist()
            white = photo[0, :height, :width].numpy().astype(float) / 255
            if box.isnan().any():
                assert white.mean() < 0.01  # the crop has none of the object
                continue
            left, top, right, bottom = box.tolist()
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            area = (right - left) * (bottom - top)
            edge = 1.5 * ((right - left) + (bottom - top)) + 3  # grey pixels of the interpolation
            assert abs(white.sum() - area) <= edge
            for marginal, low, high in (
                (white.max(0), left, right), (white.max(1), top, bottom),
            ):  # fmt: skip
                lit = np.flatnonzero(marginal > 0.5)
                if len(lit):
                    assert lit[0] >= low - 1.5 and lit[-1] + 1 <= high + 1.5
            seen += 1
    assert seen

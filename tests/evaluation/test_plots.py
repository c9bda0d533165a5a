from __future__ import annotations

import io

import matplotlib
import numpy as np
import pandas
import pytest
from PIL import Image

from stacked_ram.evaluation.plots import confusion_png, reliability_png


def picture_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_reliability_diagram_shows_accuracy_and_photos_by_confidence():
    confidence = np.array([0.3] * 4 + [0.9, 1.0])
    picture = picture_of(reliability_png(confidence, np.array([1, 0, 0, 0, 1, 1]), bins=2))
    height, width, _ = picture.shape
    blue = (abs(picture - (0, 0x72, 0xB2)) < 9).all(2)
    grey = (abs(picture - 153) < 9).all(2)
    for bars in (blue, grey):
        bars[: height // 6, : width // 2] = False  # the legend
    rows, columns = grey[height // 12 : 3 * height // 4, width // 7 :].nonzero()  # no text
    assert np.corrcoef(rows, columns)[0, 1] < -0.7 and np.ptp(columns) > 0.7 * width, "diagonal"
    grey[: 3 * height // 4] = False

    def left_and_right(bars: np.ndarray) -> tuple[int, int, int]:
        """Heights of the two bars, and from the outer edge of the left one to the other's."""
        tall = np.flatnonzero(bars.sum(0) > 20)
        return bars[:, tall[0] + 20].sum(), bars[:, tall[-1] - 20].sum(), np.ptp(tall)

    quarter, whole, across = left_and_right(blue)
    assert quarter / whole == pytest.approx(0.25, abs=0.02)
    four, two, as_wide = left_and_right(grey)
    assert two / four == pytest.approx(0.5, abs=0.02)
    assert across == pytest.approx(as_wide, abs=2) and across > 0.7 * width
    picture_of(reliability_png(confidence, np.ones(6), bins=15))  # most bins are empty


def test_the_shades_of_a_confusion_matrix_are_fractions_and_its_numbers_photos():
    def drawn(*rows: list[int]) -> bytes:
        return confusion_png(pandas.DataFrame(rows, index=list("abc"), columns=list("abc")))

    picture = drawn([30, 10, 0], [0, 4, 4], [0, 0, 0])
    found = picture_of(picture)
    for fraction, cells in [(0.75, 1), (0.25, 1), (0.5, 2)]:
        shade = (255 * np.array(matplotlib.colormaps["Blues"](fraction)[:3])).round()
        area = (abs(found - shade) <= 1).all(2).sum()
        whole = (abs(found - (247, 251, 255)) <= 1).all(2).sum() / 5  # five cells of nothing
        assert area / whole == pytest.approx(cells, abs=0.3), fraction
    assert picture != drawn([3, 1, 0], [0, 4, 4], [0, 0, 0]), "the same fractions"

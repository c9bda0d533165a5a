"""Exactly the near pairs are found, by their hashes and by their tiny copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import picture
from PIL import Image, ImageEnhance

from stacked_ram.preparation.near_pairs import near_pairs
from stacked_ram.preparation.perceptual import fingerprint, same_picture


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 120),
    copies=st.integers(0, 120),
    distance=st.integers(0, 16),
)
def test_all_pairs_within_the_distance(seed: int, count: int, copies: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    flipped = hashes[rng.integers(0, count, copies)]
    for place in range(copies):
        for bit in rng.choice(64, rng.integers(0, 2 * distance + 2), replace=False):
            flipped[place] ^= np.uint64(1) << np.uint64(bit)
    hashes = np.concatenate([hashes, flipped])
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    first, second = np.nonzero(np.triu(bits <= distance, k=1))
    expected = {(int(i), int(j), int(bits[i, j])) for i, j in zip(first, second, strict=True)}
    found = list(near_pairs(hashes, distance))
    assert set(found) == expected
    assert len(found) == len(expected), "a pair came twice"


def test_large_buckets_of_equal_hashes() -> None:
    hashes = np.repeat(np.array([5, 2**63 + 5], dtype=np.uint64), 300)
    found = list(near_pairs(hashes, 2))
    assert len(found) == 600 * 599 // 2


def test_work_grows_almost_linearly() -> None:
    """Comparing all pairs would take 5e9 comparisons and not end in time."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(0b10101)
    assert (0, 99_999, 3) in list(near_pairs(hashes, 8))


def altered() -> dict[str, Image.Image]:
    photo = picture(1, (300, 200))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=25)
    return {
        "encoded again": Image.open(buffer).convert("RGB"),
        "smaller": photo.resize((111, 74)),
        "larger": photo.resize((500, 333)),
        "brighter": ImageEnhance.Brightness(photo).enhance(1.12),
        "darker": ImageEnhance.Brightness(photo).enhance(0.85),
        "slightly cropped": photo.crop((3, 2, 298, 199)),
    }


@pytest.mark.parametrize("change", altered())
def test_altered_copies_are_near(change: str) -> None:
    first, second = fingerprint(picture(1, (300, 200))), fingerprint(altered()[change])
    assert (first.phash ^ second.phash).bit_count() <= 8
    assert same_picture(first.tiny, second.tiny)


def test_different_photos_are_not_the_same() -> None:
    fingerprints = [fingerprint(picture(seed, (90, 60))) for seed in range(60)]
    for i, first in enumerate(fingerprints):
        for second in fingerprints[:i]:
            near = (first.phash ^ second.phash).bit_count() <= 8
            assert not (near and same_picture(first.tiny, second.tiny))


def test_flat_pictures_never_count_as_the_same() -> None:
    black, white = (
        fingerprint(Image.new("RGB", (40, 40), colour)) for colour in ("black", "white")
    )
    assert not same_picture(black.tiny, white.tiny)
    assert not same_picture(black.tiny, black.tiny)


def test_sums_of_channels_are_exact() -> None:
    image = picture(2, (31, 17))
    values = np.asarray(image, dtype=np.int64)
    found = fingerprint(image)
    assert found.channel_sums == tuple(values.sum(axis=(0, 1)))
    assert found.channel_squares == tuple((values**2).sum(axis=(0, 1)))


def test_sums_of_large_photos_are_approximate() -> None:
    image = picture(3, (900, 700))
    values = np.asarray(image, dtype=np.float64)
    sums, squares = fingerprint(image).channel_sums, fingerprint(image).channel_squares
    assert np.allclose(np.array(sums) / (900 * 700), values.mean(axis=(0, 1)), atol=0.5)
    assert np.allclose(np.array(squares) / (900 * 700), (values**2).mean(axis=(0, 1)), rtol=0.01)

from __future__ import annotations

import numpy as np
import pytest

from stacked_ram.config.schema import DataConfig
from stacked_ram.data.augment import Augment

PHOTO = np.random.default_rng(0).integers(0, 255, (3, 40, 60), dtype=np.uint8)
OPTIONS = [
    {"rotate": 30.0}, {"colour_jitter": 0.5}, {"rand_augment": 20}, {"random_erasing": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda option: next(iter(option)))
@pytest.mark.parametrize("channels", [3, 1])
def test_the_result_depends_only_on_the_seed(options, channels):
    photo = PHOTO[:channels]
    first, other = (Augment(DataConfig(**options), channels) for _ in range(2))
    results = [first(photo, seed) for seed in range(12)]
    assert all(r.shape == photo.shape and r.dtype == np.uint8 for r in results)
    for seed in reversed(range(12)):  # in another order, with another copy
        assert (other(photo, seed) == results[seed]).all()
    assert len({r.tobytes() for r in results}) > 6
    assert (photo == PHOTO[:channels]).all()  # the cached photo is unchanged


@pytest.mark.parametrize("channels", [3, 1])
def test_every_operation_of_rand_augment_works_at_every_magnitude(channels):
    from stacked_ram.data.augment import rand_augment

    for magnitude in (1, 15, 30):
        for operation in rand_augment(magnitude, channels):
            photo_HWC = np.ascontiguousarray(PHOTO[:channels].transpose(1, 2, 0))
            changed = operation(image=photo_HWC)["image"]
            assert changed.reshape(photo_HWC.shape).dtype == np.uint8


def test_draws_of_different_transforms_are_independent():
    """If every transform used the same seed, angle and brightness would be correlated."""
    augment = Augment(DataConfig(rotate=45.0, colour_jitter=1.0), 3)
    grey = np.full((3, 41, 41), 100, np.uint8)
    grey[:, :, :20] = 20  # its edge shows the angle, its level the brightness
    angles, levels = [], []
    for seed in range(120):
        changed = augment(grey, seed)[0].astype(float)
        levels.append(changed.mean())
        angles.append(changed[:20].mean() - changed[21:].mean())
    assert abs(np.corrcoef(angles, levels)[0, 1]) < 0.3


def test_erasing_has_the_requested_probability():
    augment = Augment(DataConfig(random_erasing=0.3), 3)
    changed = [(augment(PHOTO, seed) != PHOTO).any() for seed in range(200)]
    assert 0.2 < np.mean(changed) < 0.4


def test_only_geometric_transforms_drop_boxes():
    assert Augment(DataConfig(rotate=5.0), 3).moves
    assert Augment(DataConfig(rand_augment=5), 3).moves
    assert not Augment(DataConfig(colour_jitter=0.5, random_erasing=0.5), 3).moves

"""Every variant learns a problem in which it must look at the right place; the control that looks
at the centre does not.

cue: a dark photo of 48 x 48 pixels has two small squares, left and right, each bright or dim. The
colour of a third square in the middle says which of the two is the class. Always looking left gives
75 %.
marker: a quadrant has a square with stripes of 1 pixel, horizontal (class 0) or vertical (class 1).
A glance at half the resolution shows its place but not its class.
width: a single glimpse at the middle of the photo, narrow or wide. Fine stripes of 4 pixels in all
are even grey to the wide glimpse; the narrow one sees only the dark middle of wider stripes.
A glance shows which of the two a photo has, but not their class.
three: the colour of the middle says whether its brightness is the class, or that of a square at the
left, or whether nothing is.
"""

from __future__ import annotations

import pytest
import torch
from variants import BACKBONE

from stacked_ram.config.schema import Config, ModelConfig, TrainingConfig
from stacked_ram.evaluation.early_exit import look_until
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.training import estimators

OBJECT = 8
WIDTH = dict(
    patch_size=4, glimpse_scale=6.0, num_glimpses=1, glance=(6, 6), regions=(1, 1),
    first_location="learned", policy="categorical",
)  # fmt: skip
SMALL = dict(
    patch_size=8, what_size=32, where_size=16, feature_size=32, core_size=32, map_channels=8,
    num_glimpses=2, first_location="centre", std=0.3, std_end=0.15,
)  # fmt: skip
CUE = dict()
WIDE = dict(num_patches=2, glimpse_scale=6.0, num_glimpses=3)
MARKER = dict(retina="conv", glance=(24, 24), first_location="learned")
CELLS = dict(MARKER, policy="categorical")
LEARNING = dict(estimator="leave_one_out", rollouts=4, reward="drop", learning_rate=3e-3)

PROBLEMS = {
    "dense": (CUE, {}),
    "rnn_core": (dict(core="rnn"), {}),
    "gru_core": (dict(core="gru"), {}),
    "sum_core": (dict(core="sum"), {}),
    "transformer_core": (dict(core="transformer"), dict(learning_rate=1e-3)),
    "reinforce": (CUE, dict(estimator="reinforce")),
    "self_critical": (CUE, dict(estimator="self_critical")),
    "ppo": (CUE, dict(estimator="ppo", ppo_epochs=2)),
    "pathwise": (dict(WIDE, snap=False), dict(estimator="pathwise", rollouts=1)),
    "correct_reward": (CUE, dict(reward="correct")),
    "stack_rnn_own": (dict(stack="rnn", num_levels=2), {}),
    "stack_rnn_shared": (dict(stack="rnn", num_levels=2, stack_location="shared"), {}),
    "categorical": (dict(CELLS, retina="dense"), {}),
    "cells_of_the_state": (dict(policy="categorical", regions=(3, 2)), {}),
    "conv": (CELLS, {}),
    "gaussian_map": (dict(MARKER, policy_reads="map"), {}),
    "glance_core": (dict(MARKER, **WIDE) | dict(num_glimpses=4), {}),
    "glance_location": (dict(MARKER, glance_starts="location"), {}),
    "zoom": (dict(WIDTH, num_zooms=2), {}),
    "soft": (dict(MARKER, **WIDE, attention="soft"), dict(estimator="reinforce", rollouts=1)),
    "stack_conv": (dict(CELLS, stack="conv", num_levels=2, patch_size=4), {}),
    "backbone": (
        dict(retina="backbone", backbone="test_resnet", patch_size=16, patch_width=0.5)
        | dict(freeze_backbone=True),
        dict(learning_rate=1e-2),
    ),
    "stack_backbone": (
        dict(CELLS, stack="backbone", backbone=BACKBONE, num_levels=2, patch_size=4),
        {},
    ),
}


def photos(
    kind: str, count: int, generator: torch.Generator, side: int = 48
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return photos (uint8) and their labels."""

    def coin(*shape):
        return torch.randint(0, 2, shape, generator=generator)

    noise = (count, 3, side, side)
    images = torch.randint(0, 40, noise, generator=generator, dtype=torch.uint8)
    labels = coin(count)
    if kind == "cue":
        counts, bright = coin(count), coin(count, 2)
        labels = bright.gather(1, counts.unsqueeze(1)).squeeze(1)
        middle = slice(20, 28)
        for side, left in enumerate((8, 32)):
            values = (90 + 165 * bright[:, side]).to(torch.uint8).view(-1, 1, 1, 1)
            images[:, :, middle, left : left + OBJECT] = values
        for value in (0, 1):
            rows = (counts == value).nonzero().squeeze(1)
            images[rows, 2 * value, middle, middle] = 255
        return images, labels
    if kind == "three":
        which, bright = torch.randint(0, 3, (count,), generator=generator), coin(count, 2)
        labels = torch.where(
            which == 2, labels, bright.gather(1, which.clamp(max=1)[:, None])[:, 0]
        )
        middle = slice(20, 28)
        for side, left in enumerate((20, 4)):
            values = (90 + 165 * bright[:, side]).to(torch.uint8).view(-1, 1, 1, 1)
            images[:, :, middle, left : left + OBJECT] = values
        for value in range(3):
            images[which == value, value, middle, middle] //= 4
        return images, labels
    if kind == "width":
        ways = torch.arange(side).expand(side, side)
        fine, wide = ways % 2 * 255, ((ways - 18) % 8 < 4) * 255
        middle, inner = slice(side // 2 - 8, side // 2 + 8), slice(side // 2 - 2, side // 2 + 2)
        for image, label, narrow in zip(images, labels, coin(count), strict=True):
            stripes = (fine if narrow else wide).mT if label else (fine if narrow else wide)
            place = inner if narrow else middle
            image[:, place, place] = stripes[place, place].to(torch.uint8)
        return images, labels
    size = side // 6
    across = (torch.arange(size) % 2 * 255).to(torch.uint8).view(-1, 1).expand(size, size)
    stripes = torch.stack([across, across.T])
    corners = coin(count, 2) * (side // 2) + side // 6
    for image, label, (top, left) in zip(images, labels, corners.tolist(), strict=True):
        image[:, top : top + size, left : left + size] = stripes[label]
    return images, labels


def config_of(name: str) -> Config:
    model_fields, training_fields = PROBLEMS[name]
    return Config(
        model=ModelConfig(**{**SMALL, **model_fields}),
        training=TrainingConfig(**{**LEARNING, **training_fields}),
    )


def train(
    name: str, location_source: str, steps: int = 300, enough: float = 0.95, seed: int = 0
) -> float:
    """Train; return the accuracy on new photos."""
    config = config_of(name)
    if config.model.glance == WIDTH["glance"]:
        kind = "width"
    else:
        kind = "marker" if config.model.glance or config.model.num_patches > 1 else "cue"
    return fit(config, kind, location_source, steps, enough, seed)[1]


def fit(
    config: Config, kind: str, location_source: str, steps: int, enough: float, seed: int
) -> tuple[RAM, float]:
    """Train; return the model, and its accuracy on new photos."""
    settings = config.training
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build_model(config.model, num_classes=2, channels=3, mean=(0.1,) * 3, std=(0.2,) * 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    held_out, answers = photos(kind, 200, torch.Generator().manual_seed(1))
    accuracy = 0.0
    for step in range(1, steps + 1):
        images, labels = photos(kind, 32, generator)
        model.train()
        model.anneal(step / steps)
        random = location_source == "policy" and step <= 40 and model.config.attention == "hard"
        how = "random" if random else location_source
        for learned in estimators.losses(
            model, model.photos(images), labels, settings, location_source=how
        ):
            optimizer.zero_grad()
            learned.total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        if step % 25 == 0:
            model.eval()
            with torch.no_grad():
                trace = model(model.photos(held_out), location_source=location_source)
            accuracy = (trace.logits_BTN[:, -1].argmax(1) == answers).float().mean().item()
            if accuracy >= enough:
                break
    return model, accuracy


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use a single thread, so that sums do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_learns_to_look(name):
    # a policy may converge to a wrong place (always left), but not for all of five seeds
    assert any(train(name, "policy", seed=seed) >= 0.9 for seed in range(5))


@pytest.mark.parametrize("width", [1.0, 6.0])
def test_one_width_is_not_enough(width, monkeypatch):
    monkeypatch.setitem(PROBLEMS, "one", (dict(WIDTH, patch_width=width), {}))
    assert train("one", "policy", steps=150, enough=2.0) <= 0.85  # 0.75 is to be had


@pytest.mark.parametrize(("cost", "wanted"), [(0.1, [1, 2, 1]), (2.0, [1, 1, 1])])
def test_it_stops_where_going_on_wins_nothing(cost, wanted):
    config = Config(
        model=ModelConfig(**SMALL, learned_stop=True),
        training=TrainingConfig(**LEARNING, glimpse_cost=cost),
    )
    images, labels = photos("three", 300, torch.Generator().manual_seed(1))
    which = images[:, :, 24, 24].argmin(1)
    for seed in range(1, 6):
        model, _ = fit(config, "three", "policy", 300, 2.0, seed)
        found = look_until(model.eval(), model.photos(images), 0.5, "stop")
        glimpses = [found.glimpses_B[which == kind].float().mean().item() for kind in range(3)]
        right = (found.beliefs_BN.argmax(1) == labels)[which < max(wanted)]
        if glimpses == pytest.approx(wanted, abs=0.1) and right.float().mean() > 0.9:
            return
    raise AssertionError(f"glimpses of the three kinds of photos, for the last seed: {glimpses}")


@pytest.mark.parametrize("name", sorted(PROBLEMS.keys() - {"zoom"}))
def test_it_cannot_learn_when_it_looks_at_the_wrong_place(name):
    assert train(name, "centre", steps=60, enough=2.0) <= 0.65

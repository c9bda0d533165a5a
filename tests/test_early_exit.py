"""Looking no longer than needed: the same answers as a full pass cut short, and thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from variants import VARIANTS, batch_of, look, make, photos_of, pixels, spread_the_policy

from stacked_ram.cost import Cost
from stacked_ram.early_exit import choose_threshold, exit_curve, exit_table, look_until
from stacked_ram.errors import UserError


@pytest.mark.parametrize("name", VARIANTS)
def test_a_photo_keeps_the_belief_of_the_glimpse_it_stopped_at(name):
    model = make(name).eval()
    spread_the_policy(model)
    with torch.no_grad():
        model.classifier.weight.mul_(5)
    images, sizes = batch_of([(40, 52), (33, 41), (52, 38), (40, 52), (36, 60)])
    full = look(model, images, sizes)
    beliefs_BTN = full.logits_BTN.softmax(2)
    sure_BT = beliefs_BTN.amax(2)
    threshold = sure_BT[:, 0].median().item()
    steps = sure_BT.shape[1]
    answers = look_until(model, photos_of(model, images, sizes), threshold)
    for row in range(5):
        stops = [t for t in range(steps - 1) if sure_BT[row, t] >= threshold] + [steps - 1]
        used = stops[0] + 1
        assert answers.glimpses_B[row] == used
        torch.testing.assert_close(
            answers.beliefs_BN[row], beliefs_BTN[row, used - 1], atol=1e-3, rtol=1e-3
        )
        places = answers.locations_BT2[row]
        torch.testing.assert_close(
            places[:used], full.locations_BTS2[row, :used, -1], atol=1e-4, rtol=1e-4
        )
        assert places[used:].isnan().all()
    assert 1 in answers.glimpses_B, "some stopped early"
    everything = look_until(model, photos_of(model, images, sizes))
    assert (everything.glimpses_B == steps).all()


def test_photos_that_left_cost_nothing_more():
    model = make("dense", num_glimpses=6, first_location="learned").eval()

    def flops(threshold):
        with FlopCounterMode(display=False) as counter:
            look_until(model, photos_of(model, pixels(8)), threshold)
        return counter.get_total_flops()

    assert flops(0.0) * 6 == flops(2.0) == flops(None)


def test_the_learned_stop_decides_where_it_is_asked():
    model = make("learned_stop").eval()
    with torch.no_grad():
        model.stop.bias.fill_(9.0)
    photos = photos_of(model, pixels())
    assert (look_until(model, photos, 0.5, "stop").glimpses_B == 1).all()
    with torch.no_grad():
        model.stop.bias.fill_(-9.0)
    assert (look_until(model, photos, 0.5, "stop").glimpses_B == 3).all()
    with pytest.raises(UserError, match="learned_stop"):
        look_until(make("dense").eval(), photos, 0.5, "stop")


def problem(photos=300, steps=4, classes=3, seed=0):
    """Beliefs that grow sharper and truer from glimpse to glimpse."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, photos)
    scores = rng.normal(size=(photos, steps, classes))
    scores[np.arange(photos), :, labels] += np.linspace(0.3, 3, steps)
    beliefs = np.exp(scores * np.linspace(0.5, 2, steps)[:, None])
    return beliefs / beliefs.sum(2, keepdims=True), labels


def by_loop(beliefs, labels, threshold):
    right = used = 0
    for photo, label in zip(beliefs, labels, strict=True):
        step = 0
        while step < len(photo) - 1 and photo[step].max() < threshold:
            step += 1
        right += photo[step].argmax() == label
        used += step + 1
    return right / len(labels), used / len(labels)


def test_the_table_equals_a_loop_over_photos():
    beliefs, labels = problem(60)
    table = exit_table(beliefs, labels)
    for place in range(0, len(table["threshold"]), 11):
        wanted = by_loop(beliefs, labels, table["threshold"][place])
        assert (table["accuracy"][place], table["mean_glimpses"][place]) == pytest.approx(wanted)
    assert table["mean_glimpses"][0] == 1 and table["mean_glimpses"][-1] == 4
    assert (np.diff(table["mean_glimpses"]) >= 0).all()


def test_the_threshold_is_the_cheapest_or_the_best():
    beliefs, labels = problem()
    table = exit_table(beliefs, labels)
    wanted = 0.9 * table["accuracy"][-1]
    found = by_loop(beliefs, labels, choose_threshold(beliefs, labels, accuracy=wanted))
    assert found[0] >= wanted
    assert found[1] == pytest.approx(table["mean_glimpses"][table["accuracy"] >= wanted].min())

    found = by_loop(beliefs, labels, choose_threshold(beliefs, labels, mean_glimpses=2.5))
    assert found[1] <= 2.5
    assert found[0] == pytest.approx(table["accuracy"][table["mean_glimpses"] <= 2.5].max())

    with pytest.raises(UserError, match="accuracy"):
        choose_threshold(beliefs, labels, accuracy=1.01)
    with pytest.raises(UserError, match="mean_glimpses"):
        choose_threshold(beliefs, labels, mean_glimpses=0.5)
    with pytest.raises(ValueError):
        choose_threshold(beliefs, labels)


def test_the_learned_stops_can_choose_too():
    beliefs, labels = problem()
    right = beliefs.argmax(2) == labels[:, None]
    stops = np.where(right, 0.9, 0.1)  # a stopping head that knows
    threshold = choose_threshold(beliefs, labels, mean_glimpses=4, stops_BT=stops)
    assert exit_table(beliefs, labels, stops)["accuracy"].max() == right.any(1).mean()
    assert 0.1 < threshold <= 0.9


def test_the_curve_goes_from_one_glimpse_to_all():
    beliefs, labels = problem()
    curve = exit_curve(beliefs, labels, Cost(total=1.3, per_glimpse=0.3, before=0.1))
    assert list(curve.columns) == ["threshold", "accuracy", "mean_glimpses", "mean_gmacs"]
    assert curve["mean_gmacs"].iloc[0] == pytest.approx(0.4)
    assert curve["mean_gmacs"].iloc[-1] == pytest.approx(1.3)
    assert curve["mean_glimpses"].is_monotonic_increasing
    assert 50 < len(curve) <= 101

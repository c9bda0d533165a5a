"""Early exit: the same beliefs as a full pass that is cut short, and the choice of a threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from variants import VARIANTS, batch_of, forward, make, photos_of, pixels, spread_the_policy

from stacked_ram.evaluation.cost import Cost
from stacked_ram.evaluation.early_exit import (
    Stop,
    choose_threshold,
    exit_at,
    exit_curve,
    exit_table,
    look_until,
)
from stacked_ram.runtime.errors import UserError


@pytest.mark.parametrize("name", VARIANTS)
def test_a_photo_keeps_the_belief_of_the_glimpse_it_stopped_at(name):
    model = make(name).eval()
    spread_the_policy(model)
    with torch.no_grad():
        model.classifier.weight.mul_(5)
    images, sizes = batch_of([(40, 52), (33, 41), (52, 38), (40, 52), (36, 60)])
    full = forward(model, images, sizes)
    steps = full.logits_BTN.shape[1]
    beliefs = {used: full.logits_BTN[:, used - 1].softmax(1) for used in range(1, steps + 1)}
    if full.glance_logits_BN is not None:
        beliefs[0] = full.glance_logits_BN.softmax(1)
    fewest = min(beliefs)
    # between the beliefs of two photos, because two passes may differ in the last bits
    threshold = beliefs[fewest].amax(1).sort().values[1:3].mean().item()
    answers = look_until(model, photos_of(model, images, sizes), threshold)
    for row in range(5):
        sure = [used for used in range(fewest, steps) if beliefs[used][row].max() >= threshold]
        used = min(sure, default=steps)
        assert answers.glimpses_B[row] == used
        torch.testing.assert_close(
            answers.beliefs_BN[row], beliefs[used][row], atol=1e-3, rtol=1e-3
        )
        places = answers.locations_BT2[row]
        torch.testing.assert_close(
            places[:used], full.locations_BTS2[row, :used, -1], atol=1e-4, rtol=1e-4
        )
        assert places[used:].isnan().all()
        boxes = answers.boxes_BTK4[row]
        torch.testing.assert_close(
            boxes[:used], full.boxes_BTSK4[row, :used, -1], atol=1e-3, rtol=1e-3
        )
        assert boxes[used:].isnan().all()
    assert fewest in answers.glimpses_B, "some stopped early"
    everything = look_until(model, photos_of(model, images, sizes))
    assert (everything.glimpses_B == steps).all()


def test_photos_that_stopped_cost_nothing_more():
    model = make("dense", num_glimpses=6, first_location="learned").eval()

    def flops(threshold):
        with FlopCounterMode(display=False) as counter:
            look_until(model, photos_of(model, pixels(8)), threshold)
        return counter.get_total_flops()

    assert flops(0.0) * 6 == flops(2.0) == flops(None)


def test_a_photo_recognised_at_the_glance_costs_the_glance_alone():
    model = make("glance_core").eval()

    def flops(work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    photos = photos_of(model, pixels(3))
    answers = look_until(model, photos, 0.0)
    assert answers.glimpses_B.tolist() == [0, 0, 0] and answers.locations_BT2.isnan().all()
    spent = flops(lambda: look_until(model, photos, 0.0))
    assert spent == flops(lambda: model.start(photos))


def test_the_learned_stop_decides_when_requested():
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


def test_the_stopping_head_is_not_asked_after_the_glance():
    model = make("glance_core", learned_stop=True).eval()
    with torch.no_grad():
        model.stop.bias.fill_(9.0)
    photos = photos_of(model, pixels())
    assert look_until(model, photos, 0.5, "stop").glimpses_B.tolist() == [1, 1, 1]
    assert look_until(model, photos, 0.0).glimpses_B.tolist() == [0, 0, 0]


def test_a_threshold_is_a_probability():
    assert Stop(0.0).at == 0 and Stop(1.0, "stop").at == 1
    for wrong in (-0.01, 1.01, float("nan")):
        with pytest.raises(UserError, match="not in 0 to 1"):
            Stop(wrong)


def problem(photos=300, steps=4, classes=3, seed=0):
    """Return beliefs that grow sharper and more accurate from glimpse to glimpse."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, photos)
    scores = rng.normal(size=(photos, steps, classes))
    scores[np.arange(photos), :, labels] += np.linspace(0.3, 3, steps)
    beliefs = np.exp(scores * np.linspace(0.5, 2, steps)[:, None])
    return beliefs / beliefs.sum(2, keepdims=True), labels


def by_loop(beliefs, labels, threshold, fewest=1):
    right = used = 0
    for photo, label in zip(beliefs, labels, strict=True):
        step = 0
        while step < len(photo) - 1 and photo[step].max() < threshold:
            step += 1
        right += photo[step].argmax() == label
        used += step + fewest
    return right / len(labels), used / len(labels)


def test_the_table_equals_a_loop_over_photos():
    beliefs, labels = problem(60)
    table = exit_table(beliefs, labels)
    for place in range(0, len(table["threshold"]), 11):
        wanted = by_loop(beliefs, labels, table["threshold"][place])
        assert (table["accuracy"][place], table["mean_glimpses"][place]) == pytest.approx(wanted)
    assert table["mean_glimpses"][0] == 1 and table["mean_glimpses"][-1] == 4
    assert (np.diff(table["mean_glimpses"]) >= 0).all()


def test_the_table_does_not_count_the_glance_as_a_glimpse():
    beliefs, labels = problem(60)
    table = exit_table(beliefs, labels, fewest=0)
    assert table["mean_glimpses"][0] == 0 and table["mean_glimpses"][-1] == 3
    middle = len(table["threshold"]) // 2
    wanted = by_loop(beliefs, labels, table["threshold"][middle], fewest=0)
    assert (table["accuracy"][middle], table["mean_glimpses"][middle]) == pytest.approx(wanted)
    threshold = choose_threshold(table, mean_glimpses=0.5)
    assert by_loop(beliefs, labels, threshold, fewest=0)[1] <= 0.5
    with pytest.raises(UserError, match="below 0"):
        choose_threshold(table, mean_glimpses=-1)
    curve = exit_curve(table, Cost(total=1.0, per_glimpse=0.3, before=0.1))
    assert curve["mean_gmacs"].iloc[[0, -1]].tolist() == pytest.approx([0.1, 1.0])


def test_a_threshold_between_those_of_the_table_is_evaluated_too():
    beliefs, labels = problem(60)
    table = exit_table(beliefs, labels)
    for threshold in (0.0, 0.4, 0.777, 0.95, 2.0, np.inf):
        wanted = by_loop(beliefs, labels, threshold)
        assert exit_at(table, threshold) == pytest.approx(wanted)


def test_the_threshold_is_the_cheapest_or_the_best():
    beliefs, labels = problem()
    table = exit_table(beliefs, labels)
    wanted = 0.9 * table["accuracy"][-1]
    found = by_loop(beliefs, labels, choose_threshold(table, accuracy=wanted))
    assert found[0] >= wanted
    assert found[1] == pytest.approx(table["mean_glimpses"][table["accuracy"] >= wanted].min())

    found = by_loop(beliefs, labels, choose_threshold(table, mean_glimpses=2.5))
    assert found[1] <= 2.5
    assert found[0] == pytest.approx(table["accuracy"][table["mean_glimpses"] <= 2.5].max())

    with pytest.raises(UserError, match="accuracy"):
        choose_threshold(table, accuracy=1.01)
    with pytest.raises(UserError, match="--exit-glimpses"):
        choose_threshold(table, mean_glimpses=0.5)
    with pytest.raises(ValueError):
        choose_threshold(table)


def test_a_threshold_of_the_learned_stop_can_be_chosen_too():
    beliefs, labels = problem()
    right = beliefs.argmax(2) == labels[:, None]
    stops = np.where(right, 0.9, 0.1)  # a perfect stopping head
    table = exit_table(beliefs, labels, stops)
    threshold = choose_threshold(table, mean_glimpses=4)
    assert table["accuracy"].max() == right.any(1).mean()
    assert 0.1 < threshold <= 0.9


def test_the_curve_goes_from_a_single_glimpse_to_all():
    beliefs, labels = problem()
    curve = exit_curve(exit_table(beliefs, labels), Cost(total=1.3, per_glimpse=0.3, before=0.1))
    assert list(curve.columns) == ["threshold", "accuracy", "mean_glimpses", "mean_gmacs"]
    assert curve["mean_gmacs"].iloc[0] == pytest.approx(0.4)
    assert curve["mean_gmacs"].iloc[-1] == pytest.approx(1.3)
    assert curve["mean_glimpses"].is_monotonic_increasing
    assert 50 < len(curve) <= 101

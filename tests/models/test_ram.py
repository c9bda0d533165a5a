"""The model: its computations and its trace, for every variant."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from variants import HARD, VARIANTS, batch_of, forward, make, photos_of, pixels, spread_the_policy

from stacked_ram.runtime.errors import UserError

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_hard_variant = pytest.mark.parametrize("name", sorted(HARD))
SIZES = [(40, 52), (33, 41), (52, 38)]


def same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# ------------------------------------------------------------------ the forward pass


def sigmoid(x):
    return 1 / (1 + (-x).exp())


@pytest.mark.parametrize("core", ["rnn", "lstm"])
def test_dense_model_equals_the_papers_equations(core):
    """Written out photo by photo in float64 from Mnih et al. (2014), section 4."""
    model = make("dense", core=core).eval()
    images = pixels(2)
    generator = torch.Generator().manual_seed(3)
    locations = torch.rand(2, 3, 1, 2, generator=generator) * 1.6 - 0.8
    trace = forward(model, images, locations_BTS2=locations, keep_patches=True)

    weights = {key: value.double() for key, value in model.state_dict().items()}

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    for photo in range(2):
        h = torch.zeros(16, dtype=torch.float64)
        memory = torch.zeros(16, dtype=torch.float64)
        for step in range(3):
            location = locations[photo, step, 0].double()
            patches = (
                photos_of(model, images)
                .patches(locations[:, step, 0], model.levels[0].retina.geometry)[photo]
                .double()
            )
            same(trace.patches_BTSKCPP[photo, step, 0].double(), patches, 1e-6)
            what = linear("levels.0.retina.whats.0.layer", patches.flatten()).clamp(min=0)
            where = linear("levels.0.retina.where", location).clamp(min=0)
            glimpse = linear("levels.0.retina.combine", torch.cat([what, where])).clamp(min=0)
            if core == "rnn":
                h = linear("levels.0.core.layer", torch.cat([glimpse, h])).clamp(min=0)
            else:
                gates = (
                    weights["levels.0.core.cell.weight_ih"] @ glimpse
                    + weights["levels.0.core.cell.bias_ih"]
                    + weights["levels.0.core.cell.weight_hh"] @ h
                    + weights["levels.0.core.cell.bias_hh"]
                )
                enter, forget, new, leave = gates.view(4, 16)
                memory = sigmoid(forget) * memory + sigmoid(enter) * new.tanh()
                h = sigmoid(leave) * memory.tanh()
            same(trace.logits_BTN[photo, step].double(), linear("classifier", h), 1e-5)


def test_levels_of_an_rnn_stack_feed_upward():
    """Each level's recurrent layer takes its glimpse feature, the new state of the level below and
    its own last state; the top state classifies."""
    model = make("stack_rnn_own", core="rnn").eval()
    locations = torch.rand(3, 3, 3, 2, generator=torch.Generator().manual_seed(3)) - 0.5
    trace = forward(model, pixels(), locations_BTS2=locations)
    views = [level.retina.view(photos_of(model, pixels())) for level in model.levels]
    states = [torch.zeros(3, 16) for _ in model.levels]
    for step in range(3):
        below = None
        for index, level in enumerate(model.levels):
            feature, _ = level.retina(views[index], locations[:, step, index])
            parts = [feature, *([] if below is None else [below]), states[index]]
            below = states[index] = level.core.layer(torch.cat(parts, 1)).relu()
        same(trace.logits_BTN[:, step], model.classifier(below), 1e-5)


@every_variant
def test_a_photo_alone_and_in_a_batch_gives_the_same_logits(name):
    model = make(name).eval()
    spread_the_policy(model)
    images, sizes = batch_of(SIZES)
    together = forward(model, images, sizes)
    for index, (height, width) in enumerate(SIZES):
        alone = forward(model, images[index : index + 1, :, :height, :width])
        same(together.locations_BTS2[index], alone.locations_BTS2[0])
        same(together.logits_BTN[index], alone.logits_BTN[0], 1e-3)
        same(together.boxes_BTSK4[index], alone.boxes_BTSK4[0], 1e-3)
        same(together.read_B[index], alone.read_B[0])


@every_variant
def test_evaluation_is_one_deterministic_pass(name):
    model = make(name).eval()
    torch.manual_seed(1)
    first = forward(model, pixels())
    torch.manual_seed(2)
    other = forward(model, pixels())
    assert torch.equal(first.logits_BTN, other.logits_BTN)
    assert torch.equal(first.locations_BTS2, other.locations_BTS2)
    drawn = torch.tensor(first.chosen_T)
    assert torch.equal(first.samples_BTS2[:, drawn], first.means_BTS2[:, drawn])


@every_hard_variant
def test_samples_depend_only_on_the_generator(name):
    model = make(name).eval()

    def scan_paths(seed, global_seed):
        torch.manual_seed(global_seed)
        model.generator = torch.Generator().manual_seed(seed)
        return forward(model, pixels(), rollouts=2, sample=True).samples_BTS2

    assert torch.equal(scan_paths(1, 10), scan_paths(1, 11))
    assert not torch.equal(scan_paths(1, 10), scan_paths(2, 10))
    paths = scan_paths(1, 10)
    assert not torch.equal(paths[0], paths[1]), "rollouts of a photo have different scan paths"


@every_variant
def test_replay_gives_the_same_log_probabilities_and_logits(name):
    model = make(name, std=0.8).eval()
    spread_the_policy(model)
    drawn = forward(model, pixels(), rollouts=2, sample=True)
    again = forward(model, pixels(), rollouts=2, locations_BTS2=drawn.samples_BTS2)
    for field in ("locations_BTS2", "samples_BTS2", "log_probs_BTS", "entropies_BTS", "logits_BTN"):
        same(getattr(again, field), getattr(drawn, field), 1e-5)
    assert again.chosen_T == drawn.chosen_T
    if model.config.policy == "gaussian" and name in HARD:
        assert (drawn.samples_BTS2.abs() > 1).any(), "the test needs clamped samples"
        assert drawn.locations_BTS2.abs().max() <= 1


@every_variant
def test_forced_locations_are_used(name):
    model = make(name).eval()
    generator = torch.Generator().manual_seed(5)
    free = forward(model, pixels())
    wanted = torch.rand(free.locations_BTS2.shape, generator=generator) * 2 - 1
    if "shared" in name:
        wanted = wanted[:, :, -1:].expand_as(wanted)
    if model.config.policy == "categorical":  # a policy over cells uses their centres
        height, width = model.config.regions
        cell = (wanted + 1) / 2 * torch.tensor([width, height])
        centre = (cell.floor() + 0.5) / torch.tensor([width, height]) * 2 - 1
        chosen = torch.tensor(free.chosen_T).view(1, -1, 1, 1)
        wanted = torch.where(chosen, centre, wanted)
    trace = forward(model, pixels(), locations_BTS2=wanted)
    same(trace.locations_BTS2, wanted, 1e-6)
    assert not torch.allclose(trace.logits_BTN, free.logits_BTN)


@every_variant
def test_boxes_are_those_of_the_patches(name):
    """Boxes are in pixels of the photo, centred on the location, with the sizes of the patches."""
    model = make(name).eval()
    images, sizes = batch_of(SIZES)
    trace = forward(model, images, sizes, keep_patches=True)
    middle = (trace.boxes_BTSK4[..., :2] + trace.boxes_BTSK4[..., 2:]) / 2
    side = sizes.flip(1)[:, None, None].float()
    wanted = ((trace.locations_BTS2 + 1) / 2 * side).unsqueeze(3)
    scale = 2 if name == "stack_conv_map_only" else 1  # a pixel of the map is two of the photo
    assert (middle - wanted).abs().max() <= 0.5 * scale + 1.1
    widths = trace.boxes_BTSK4[..., 2:] - trace.boxes_BTSK4[..., :2]
    ratio = widths[..., 1, :] / widths[..., 0, :]
    same(ratio, torch.full_like(ratio, model.config.glimpse_scale), 1e-4)
    if name == "fraction":
        wanted = 0.3 * sizes.min(1).values.float().view(-1, 1, 1, 1)
        same(widths[..., 0, :], wanted.expand_as(widths[..., 0, :]))
    assert trace.patches_BTSKCPP.shape[:4] == (*trace.locations_BTS2.shape[:3], 2)
    assert ((trace.read_B > 0) & (trace.read_B <= 1)).all()


def test_levels_of_an_rnn_stack_have_their_own_resolution():
    model = make("stack_rnn_own").eval()
    trace = forward(model, pixels())
    widths = trace.boxes_BTSK4[..., 2] - trace.boxes_BTSK4[..., 0]
    assert widths[0, 0].tolist() == [[4, 8], [8, 16], [16, 32]]
    spread_the_policy(model)
    trace = forward(model, pixels())
    assert not torch.allclose(trace.locations_BTS2[:, 1, 0], trace.locations_BTS2[:, 1, 1])
    shared = make("stack_rnn_shared").eval()
    trace = forward(shared, pixels(), sample=True)
    assert torch.equal(trace.locations_BTS2[:, :, 0], trace.locations_BTS2[:, :, 2])
    assert (trace.log_probs_BTS[:, 1:, -1] != 0).all()
    assert (trace.log_probs_BTS[:, :, :-1] == 0).all(), "a single decision has a single probability"


def test_start_size_sets_the_resolution_of_soft_glimpses():
    for start_size in (1, 2, 4):
        trace = forward(make("soft", start_size=start_size).eval(), pixels())
        widths = trace.boxes_BTSK4[0, 0, 0, :, 2] - trace.boxes_BTSK4[0, 0, 0, :, 0]
        same(widths, 4.0 * start_size * torch.tensor([1.0, 2.0]))


def test_controls_use_their_locations():
    model = make("dense")
    assert (forward(model, pixels(), location_source="centre").locations_BTS2 == 0).all()
    places = forward(model, pixels(), rollouts=300, location_source="random").locations_BTS2
    assert places.min() < -0.95 and places.max() > 0.95
    assert places.mean().abs() < 0.05 and abs(places.std() - 1 / math.sqrt(3)) < 0.03
    with pytest.raises(ValueError, match="location_source"):
        forward(model, pixels(), location_source="corner")


def test_first_locations():
    start = forward(make("dense", first_location="random"), pixels(64)).locations_BTS2[:, 0]
    assert start.std() > 0.4
    assert (
        forward(make("dense", first_location="centre"), pixels()).locations_BTS2[:, 0] == 0
    ).all()
    evaluated = forward(make("dense", first_location="random").eval(), pixels())
    assert (evaluated.locations_BTS2[:, 0] == 0).all()
    learned = forward(make("dense", first_location="learned"), pixels())
    assert learned.chosen_T == (True, True, True)
    assert (learned.log_probs_BTS[:, 0] != 0).all()


def test_annealing_of_the_std_is_linear():
    model = make("dense", std=0.4, std_end=0.1)
    for progress, expected in ((0, 0.4), (0.5, 0.25), (1, 0.1), (2, 0.1)):
        model.anneal(progress)
        assert model.levels[0].attention.std.item() == pytest.approx(expected)
    fixed = make("dense", std=0.4)
    fixed.anneal(0.5)
    assert fixed.levels[0].attention.std.item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    "name", ["categorical", "stack_rnn_categorical", "backbone_glance", "cells_of_the_state"]
)
def test_no_cell_is_visited_twice_while_others_are_left(name):
    model = make(name, num_glimpses=4, first_location="learned")
    trace = forward(model, pixels(), rollouts=20, sample=True)
    places = trace.locations_BTS2
    for row, level in itertools.product(range(len(places)), range(places.shape[2])):
        path = {tuple(place) for place in places[row, :, level].tolist()}
        assert len(path) == places.shape[1]


@every_variant
def test_more_glimpses_than_trained_with(name):
    trace = forward(make(name).eval(), pixels(), num_glimpses=5)
    assert trace.logits_BTN.shape == (3, 5, 3)
    assert trace.logits_BTN.isfinite().all()


@every_variant
def test_one_photo_trains(name):
    model = make(name)
    trace = forward(model, pixels(1))
    trace.logits_BTN.sum().backward()
    assert all(
        parameter.grad.isfinite().all()
        for parameter in model.parameters()
        if parameter.grad is not None
    )


@every_variant
def test_bf16_keeps_locations_and_logits_in_float32(name):
    model = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        trace = forward(model, pixels(), rollouts=2)
        boxes = forward(model.eval(), pixels()).boxes_BTSK4
    for field in ("logits_BTN", "locations_BTS2", "means_BTS2", "log_probs_BTS"):
        assert getattr(trace, field).dtype == torch.float32, field
        assert getattr(trace, field).isfinite().all(), field
    assert boxes.dtype == torch.float32 and boxes.isfinite().all()
    assert trace.boxes_BTSK4 is None and trace.read_B is None  # not computed in training


# ------------------------------------------------------------------ rollouts and rows


@every_variant
def test_rows_are_photo_major(name):
    """Row b * M + m is photo b: the same locations in a single rollout give the same rows."""
    model = make(name).eval()
    drawn = forward(model, pixels(), rollouts=4, sample=True)
    for rollout in range(4):
        single = forward(model, pixels(), locations_BTS2=drawn.samples_BTS2[rollout::4])
        same(drawn.logits_BTN[rollout::4], single.logits_BTN)
        same(drawn.boxes_BTSK4[rollout::4], single.boxes_BTSK4)


@every_variant
def test_work_per_photo_is_not_repeated_for_rollouts(name):
    model = make(name)
    batch_sizes: list[int] = []

    def count(_, inputs, __):
        batch_sizes.append(len(inputs[0].pixels_BCHW))

    per_photo = [level.retina.maps for level in model.levels if level.retina.maps is not None]
    per_photo += [model.glance] if model.glance is not None else []
    for module in per_photo:
        module.register_forward_hook(count)
    forward(model, pixels(), rollouts=4)
    assert batch_sizes == [3] * len(per_photo), "each photo is computed once for all rollouts"


def flops(model, rollouts: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(model, pixels(), rollouts=rollouts)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["stack_conv", "stack_backbone", "categorical"])
def test_four_rollouts_cost_much_less_than_four_passes(name):
    model = make(name)
    assert flops(model, 4) < 2 * flops(model, 1)


@every_variant
def test_a_part_of_the_rows_continues_as_in_the_whole_batch(name):
    """As in early exit: after a step, continue with a part of the photos."""
    model = make(name).eval()
    spread_the_policy(model)
    images, sizes = batch_of(SIZES)
    whole = forward(model, images, sizes)
    keep = torch.tensor([2, 0])
    with torch.no_grad():
        for state in model.steps(photos_of(model, images, sizes)):
            if state.step == 0:
                continue
            whole_BN = whole.logits_BTN[:, state.step - 1]
            wanted_BN = whole_BN if state.step == 1 else whole_BN[keep]
            same(model.scores(state.outputs[-1]), wanted_BN, 1e-3)
            if state.step == 1:
                state.keep(keep)


# ------------------------------------------------------------------ parts that do not fit


def test_regions_must_fit_the_glance_map():
    with pytest.raises(UserError, match="regions"):
        make("categorical", regions=(17, 3))
    with pytest.raises(UserError, match="convolutional"):
        make("backbone_glance", backbone="vit_tiny_patch16_224", regions=(1, 1))


@pytest.mark.parametrize("core", ["lstm", "rnn", "sum", "transformer"])
def test_a_dropped_glance_leaves_the_core_empty_and_still_has_its_loss(core):
    model = make("glance_core", core=core, glance_dropout=0.5).train()
    photos = photos_of(model, pixels(16))
    state = model.start(photos, rollouts=2)
    model.glance_dropout = 0.0
    full = model.start(photos, rollouts=2)
    torch.testing.assert_close(state.glance_logits_RN, full.glance_logits_RN)
    forgotten = (state.outputs[0] == 0).all(1)
    assert 0 < forgotten.sum() < 32
    assert forgotten[::2].equal(forgotten[1::2]), "all rollouts of a photo or none"
    torch.testing.assert_close(state.outputs[0][~forgotten], full.outputs[0][~forgotten])
    for part, wanted in zip(state.core_states[0], full.core_states[0], strict=True):
        assert (part[forgotten] == 0).all()
        torch.testing.assert_close(part[~forgotten], wanted[~forgotten])


def test_photos_that_are_smaller_than_the_levels_are_seen_alone_as_in_a_batch():
    model = make("stack_conv", num_levels=6).eval()
    small, large = pixels(1, 20, 3), pixels(1, 64, 70)
    both = torch.zeros(2, *large.shape[1:], dtype=small.dtype)
    both[:1, :, :20, :3], both[1:] = small, large
    sizes = torch.tensor([[20, 3], [64, 70]])
    alone = forward(model, small)
    together = forward(model, both, sizes)
    torch.testing.assert_close(alone.logits_BTN[0], together.logits_BTN[0])


@pytest.mark.parametrize("name", ["dense", "stack_rnn_own", "stack_conv", "categorical"])
@pytest.mark.parametrize("where", ["random", "centre"])
def test_locations_known_in_advance_give_the_same_as_step_by_step(name, where):
    """Read the patches of all steps at once, or (with activation checkpointing) step by step."""
    model = make(name)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # batch statistics would depend on how patches are batched
    images, sizes = batch_of(SIZES)
    found = []
    for model.activation_checkpointing in (False, True):
        model.generator = torch.Generator().manual_seed(5)
        trace = forward(model, images, sizes, location_source=where, rollouts=2, keep_patches=True)
        model.zero_grad()
        trace.logits_BTN.square().sum().backward()
        gradients = [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]
        results = [trace.logits_BTN, trace.locations_BTS2, trace.patches_BTSKCPP, *gradients]
        found.append([*results, *trace.map_patches_BTKCPP])
    for first, other in zip(*found, strict=True):
        same(first, other, 1e-3)

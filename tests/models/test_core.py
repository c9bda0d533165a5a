"""The cores: their common interface, and references for each."""

from __future__ import annotations

import math

import pytest
import torch

from stacked_ram.models.core import CORES, positions


def run(core, features_RTD):
    state = core.start(len(features_RTD), features_RTD)
    outs = []
    for step in range(features_RTD.shape[1]):
        out, state = core(features_RTD[:, step], state)
        outs.append(out)
    return torch.stack(outs, 1), state


@pytest.fixture(params=CORES)
def core(request):
    torch.manual_seed(0)
    return CORES[request.param](6, 8).eval()


def test_states_are_rows_that_can_be_selected_and_repeated(core):
    features = torch.randn(4, 5, 6)
    outs, state = run(core, features)
    assert outs.shape == (4, 5, 8)
    assert all(len(part) == 4 for part in state)
    rows = torch.tensor([3, 1, 1])
    selected = tuple(part[rows] for part in state)
    new = torch.randn(4, 6)
    whole, _ = core(new, state)
    part, _ = core(new[rows], selected)
    torch.testing.assert_close(part, whole[rows])


@pytest.mark.parametrize("name", sorted(CORES))
def test_the_order_of_glimpses_matters_except_to_the_sum(name):
    torch.manual_seed(0)
    core = CORES[name](6, 8).eval()
    features = torch.randn(2, 4, 6)
    forth, _ = run(core, features)
    back, _ = run(core, features.flip(1))
    assert torch.allclose(forth[:, -1], back[:, -1], atol=1e-4) == (name == "sum")


def test_the_sum_adds_what_each_glimpse_says_by_itself():
    torch.manual_seed(0)
    core = CORES["sum"](6, 8)
    features = torch.randn(2, 4, 6)
    outs, _ = run(core, features)
    alone = torch.stack([run(core, features[:, step, None])[0][:, 0] for step in range(4)], 1)
    torch.testing.assert_close(outs, alone.cumsum(1))


def test_every_earlier_glimpse_reaches_the_output(core):
    features = torch.randn(1, 4, 6, requires_grad=True)
    outs, _ = run(core, features)
    outs[:, -1].square().sum().backward()
    assert (features.grad.abs().sum(2) > 0).all()
    features.grad = None
    outs, _ = run(core, features)
    outs[:, 1].square().sum().backward()
    assert (features.grad[:, 2:] == 0).all(), "later glimpses have no influence"


def test_lstm_and_gru_equal_torchs_sequence_layers():
    features = torch.randn(3, 5, 6)
    for name, kind in (("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)):
        core, whole = CORES[name](6, 8), kind(6, 8, batch_first=True)
        state = {f"{key}_l0": value for key, value in core.cell.state_dict().items()}
        whole.load_state_dict(state)
        torch.testing.assert_close(run(core, features)[0], whole(features)[0])


def test_the_forget_gate_starts_open():
    cell = CORES["lstm"](6, 8).cell
    assert ((cell.bias_ih + cell.bias_hh)[8:16] == 1).all()


def test_the_rnn_core_equals_the_papers():
    """h_t = ReLU(W_h h + W_g g + b), Mnih et al. (2014), section 4."""
    core = CORES["rnn"](6, 8)
    features = torch.randn(2, 3, 6)
    w_g, w_h = core.layer.weight.double().split([6, 8], 1)
    h = torch.zeros(2, 8, dtype=torch.float64)
    outs, _ = run(core, features)
    for step in range(3):
        h = (features[:, step].double() @ w_g.T + h @ w_h.T + core.layer.bias.double()).relu()
        torch.testing.assert_close(outs[:, step].double(), h, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [8, 7])
def test_positions_are_sinusoids(width):
    found = positions(3, width, torch.zeros(1))
    for index in range(width):
        angle = 3 / 10_000 ** (2 * (index // 2) / width)
        wanted = math.sin(angle) if index % 2 == 0 else math.cos(angle)
        assert found[index].item() == pytest.approx(wanted, abs=1e-5)

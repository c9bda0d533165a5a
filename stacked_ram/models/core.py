"""The cores: recurrent networks that integrate the glimpse features over the steps.

    core.start(rows, like) -> state          core(feature_RD, state) -> (output_RD, state)

A state is a tuple of tensors with the rows first, so that early exit can select rows. The contract
is in `models/protocols.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]


class LSTMCore(nn.Module):
    """LSTM (Hochreiter & Schmidhuber, 1997). The bias of the forget gate starts at 1 (open)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.cell = nn.LSTMCell(in_features, out_features)
        with torch.no_grad():
            self.cell.get_parameter("bias_ih")[out_features : 2 * out_features].fill_(1.0)
            self.cell.get_parameter("bias_hh")[out_features : 2 * out_features].zero_()

    def start(self, rows: int, like: Tensor) -> State:
        zeros = like.new_zeros(rows, self.out_features)
        return zeros, zeros

    def forward(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        out, memory = self.cell(feature_RD, state)
        return out, (out, memory)


class GRUCore(nn.Module):
    """GRU (Cho et al., 2014)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.cell = nn.GRUCell(in_features, out_features)

    def start(self, rows: int, like: Tensor) -> State:
        return (like.new_zeros(rows, self.out_features),)

    def forward(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        out = self.cell(feature_RD, state[0])
        return out, (out,)


class RNNCore(nn.Module):
    """The paper's core for classification: h_t = ReLU(W_h h_{t-1} + W_g g_t + b).

    One layer computes both products, from the glimpse feature and the state side by side.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(in_features + out_features, out_features)

    def start(self, rows: int, like: Tensor) -> State:
        return (like.new_zeros(rows, self.out_features),)

    def forward(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        out = self.layer(torch.cat([feature_RD, state[0]], 1)).relu()
        return out, (out,)


class SumCore(nn.Module):
    """The sum of what every glimpse says by itself: h_t = h_{t-1} + ReLU(W g_t + b).

    The order of the glimpses makes no difference (Deep Sets, Zaheer et al., 2017), so it counts
    well, and has less to learn by heart than a recurrent layer has.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(in_features, out_features)

    def start(self, rows: int, like: Tensor) -> State:
        return (like.new_zeros(rows, self.out_features),)

    def forward(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        out = state[0] + self.layer(feature_RD).relu()
        return out, (out,)


class TransformerCore(nn.Module):
    """A small transformer over the glimpses so far; its last token is the output.

    The state holds the tokens of all earlier glimpses, R x t x D. Two pre-norm layers, four heads,
    sinusoidal positions for the order of the glimpses.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        heads = next(heads for heads in (4, 2, 1) if out_features % heads == 0)
        self.out_features = out_features
        self.project = nn.Linear(in_features, out_features)
        layer = nn.TransformerEncoderLayer(
            out_features,
            heads,
            2 * out_features,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(out_features)

    def start(self, rows: int, like: Tensor) -> State:
        return (like.new_zeros(rows, 0, self.out_features),)

    def forward(self, feature_RD: Tensor, state: State) -> tuple[Tensor, State]:
        feature = self.project(feature_RD)
        position = positions(state[0].shape[1], self.out_features, feature)
        tokens_RTD = torch.cat([state[0].to(feature.dtype), (feature + position).unsqueeze(1)], 1)
        return self.norm(self.layers(tokens_RTD)[:, -1]), (tokens_RTD,)


def positions(step: int, width: int, like: Tensor) -> Tensor:
    """Compute the sinusoidal position encoding of a step, D values (Vaswani et al., 2017, 3.5)."""
    even = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angle = step * torch.exp(even * (-math.log(10_000) / width))
    return torch.stack([angle.sin(), angle.cos()], 1).flatten()[:width].to(like.dtype)


CORES: dict[str, type[LSTMCore | GRUCore | RNNCore | SumCore | TransformerCore]] = {
    "lstm": LSTMCore, "gru": GRUCore, "rnn": RNNCore, "sum": SumCore,
    "transformer": TransformerCore,
}  # fmt: skip

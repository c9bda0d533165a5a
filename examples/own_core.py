"""A core of your own: python examples/own_core.py

It keeps the largest value that each feature had in any glimpse so far. In a configuration:
core: own_core:MaxCore,  core_options: {dropout: 0.1}
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.build import build_model


class MaxCore(nn.Module):
    """What it must do is written in stacked_ram/models/protocols.py."""

    def __init__(self, *, in_features: int, out_features: int, dropout: float = 0.0):
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Sequential(
            nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout)
        )

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_zeros(rows, self.out_features),)

    def forward(self, feature_RD: Tensor, state: tuple[Tensor, ...]):
        output = torch.maximum(self.layer(feature_RD), state[0])
        return output, (output,)


def drawn(count: int) -> tuple[Tensor, Tensor]:
    """Dark (0) and bright (1) photos with noise, and their classes."""
    labels = torch.randint(0, 2, (count,))
    images = torch.rand(count, 3, 24, 36) * 0.6 + 0.3 * labels.view(-1, 1, 1, 1)
    return images, labels


def main() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        core=f"{__name__}:MaxCore", core_options={"dropout": 0.1}, core_size=64, num_glimpses=4
    )
    model = build_model(config, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        images, labels = drawn(32)
        loss = functional.cross_entropy(model(images).logits_BTN[:, -1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = drawn(200)
    with torch.no_grad():
        answers = model.eval()(images).logits_BTN[:, -1].argmax(1)
    print(f"accuracy {(answers == labels).float().mean():.2f}")


if __name__ == "__main__":
    main()

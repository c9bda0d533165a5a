"""A policy of your own, trained by REINFORCE: python examples/own_attention.py

It takes one of four directions from where the last glimpse looked. In a configuration:
attention: own_attention:DirectionPolicy,  attention_options: {stride: 0.5}
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.attention.base import PolicyOutput
from stacked_ram.models.build import build_model


class DirectionPolicy(nn.Module):
    """What it must do is written in stacked_ram/models/protocols.py."""

    differentiable = False

    def __init__(self, *, state_features: int, region_features, regions, stride: float = 0.5):
        super().__init__()
        self.scores = nn.Linear(state_features, 4)
        directions_42 = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        self.register_buffer("steps_42", stride * directions_42, persistent=False)

    def forward(
        self, state_RD: Tensor, context, *, sample: bool, given_R2: Tensor | None,
        earlier: Sequence[Tensor], generator: torch.Generator | None,
    ) -> PolicyOutput:  # fmt: skip
        log_p_R4 = self.scores(state_RD).float().log_softmax(1)
        last_R2 = earlier[-1] if earlier else torch.zeros_like(log_p_R4[:, :2])
        if given_R2 is not None:
            choice_R = (given_R2 - last_R2) @ self.steps_42.T
            choice_R = choice_R.argmax(1)
        elif sample:
            choice_R = log_p_R4.exp().multinomial(1, generator=generator)[:, 0]
        else:
            choice_R = log_p_R4.argmax(1)
        draw_R2 = last_R2 + self.steps_42[choice_R]
        return PolicyOutput(
            location_B2=draw_R2.clamp(-1, 1),
            sample_B2=draw_R2,
            mean_B2=last_R2 + self.steps_42[log_p_R4.argmax(1)],
            log_prob_B=log_p_R4.gather(1, choice_R.unsqueeze(1))[:, 0],
            entropy_B=-(log_p_R4.exp() * log_p_R4).sum(1),
        )


def drawn(count: int) -> tuple[Tensor, Tensor]:
    """Photos with a red (0) or blue (1) field on the right, and their classes."""
    labels = torch.randint(0, 2, (count,))
    images = torch.randint(0, 60, (count, 3, 32, 32), dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * int(label), 12:20, 22:30] = 250
    return images, labels


def main() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        attention=f"{__name__}:DirectionPolicy", attention_options={"stride": 0.5},
        num_glimpses=2, first_location="centre", core="rnn", core_size=64, feature_size=64,
    )  # fmt: skip
    model = build_model(config, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        images, labels = drawn(64)
        trace = model(images)  # in training the policy draws
        logits = trace.logits_BTN[:, -1]
        reward = (logits.argmax(1) == labels).float().unsqueeze(1)
        baselines = trace.baselines_BT[:, trace.chosen]
        log_probs = trace.log_probs_BTS[:, trace.chosen, 0]
        loss = (
            functional.cross_entropy(logits, labels)
            + (baselines - reward).square().mean()
            - (log_probs * (reward - baselines.detach())).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = drawn(200)
    with torch.no_grad():
        trace = model.eval()(images)
    right = (trace.logits_BTN[:, -1].argmax(1) == labels).float().mean()
    print(f"accuracy {right:.2f}, last glimpse at {trace.locations_BTS2[0, -1, 0].tolist()}")


if __name__ == "__main__":
    main()

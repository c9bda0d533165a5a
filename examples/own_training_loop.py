"""A training loop of your own, in plain PyTorch: python examples/own_training_loop.py

It trains a model that looks at scikit-learn's digits (8 x 8 pixels) three times, and prints its
accuracy on digits that it was not trained on. Takes a few seconds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from stacked_ram.config.schema import ModelConfig
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.training import estimators

MODEL = ModelConfig(patch_size=4, num_patches=2, num_glimpses=3, first_location="centre")


def train(
    model: RAM,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    **settings: Any,
) -> None:
    """Train on batches of images (B x C x H x W, uint8) and classes (B).

    settings: of the training, as `estimators.losses` takes them: estimator="ppo", rollouts=4.
    """
    model.train()
    for images, classes in batches:
        for losses in estimators.losses(model, images, classes, **settings):  # several with PPO
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()


def shuffled(images: Tensor, classes: Tensor, epochs: int) -> Iterable[tuple[Tensor, Tensor]]:
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            yield images[rows], classes[rows]


def accuracy(model: RAM, images: Tensor, classes: Tensor) -> float:
    with torch.no_grad():
        trace = model.eval()(model.photos(images))
    return (trace.logits_BTN[:, -1].argmax(1) == classes).float().mean().item()


def main(**settings: Any) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).byte().unsqueeze(1)
    classes = torch.from_numpy(digits.target)
    model = build_model(MODEL, num_classes=10, channels=1, mean=[0.3], std=[0.38])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    train(model, shuffled(images[:1400], classes[:1400], epochs=15), optimizer, **settings)
    print(f"accuracy {accuracy(model, images[1400:], classes[1400:]):.3f}")


if __name__ == "__main__":
    main(estimator="leave_one_out", rollouts=2)

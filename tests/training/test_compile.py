"""torch.compile: a training step is traced, also with random locations for batches of any size, and
gives the same as without. Only Dynamo's tracer runs, without a compiler."""

from __future__ import annotations

import torch
from variants import make, photos_of, pixels

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.training import estimators


def losses_of(model, count: int) -> tuple[list[float], torch.Tensor]:
    """Return the losses and samples of a batch, and leave the gradients in the model."""
    torch.manual_seed(count)
    images, labels = pixels(count), torch.arange(count) % model.num_classes
    model.zero_grad()
    found = next(iter(estimators.losses(model, photos_of(model, images), labels, TrainingConfig())))
    found.total.backward()
    return [part.item() for part in found.parts.values()], found.trace.samples_BTS2.detach()


def test_a_compiled_model_learns_the_same_from_batches_of_any_size():
    torch._dynamo.reset()
    plain, compiled = (make("dense", core="rnn", num_glimpses=2).train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    compiled.compile(backend="eager")
    for count in (5, 3):  # from the second size on, the batch size is dynamic
        torch.testing.assert_close(losses_of(plain, count), losses_of(compiled, count))
        for (name, parameter), other in zip(
            plain.named_parameters(), compiled.parameters(), strict=True
        ):
            torch.testing.assert_close(parameter.grad, other.grad, msg=name)
    torch._dynamo.reset()

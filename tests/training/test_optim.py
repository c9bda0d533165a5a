from __future__ import annotations

import pytest
import torch
from torch import nn

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.runtime.errors import UserError
from stacked_ram.training.optim import Schedule, make_optimizer


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.backbone.parameters())


def test_groups_have_their_own_lr_and_biases_and_norms_no_weight_decay():
    model = Small()
    optimizer = make_optimizer(model, TrainingConfig(learning_rate=0.1, weight_decay=0.3))
    of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert of[id(model.head.weight)] == (0.1, 0.3)
    assert of[id(model.head.bias)] == (0.1, 0.0)
    assert of[id(model.backbone[0].weight)] == (pytest.approx(0.01), 0.3)
    assert of[id(model.backbone[1].weight)] == (pytest.approx(0.01), 0.0)
    assert id(model.frozen.weight) not in of
    own = make_optimizer(model, TrainingConfig(backbone_learning_rate=0.007))
    assert 0.007 in {group["lr"] for group in own.param_groups}


@pytest.mark.parametrize("name", ["adamw", "sgd", "adam", "lamb"])
def test_timms_optimisers_by_name(name):
    assert make_optimizer(Small(), TrainingConfig(optimizer=name)).param_groups


def test_an_unknown_optimiser_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean `adamw`"):
        make_optimizer(Small(), TrainingConfig(optimizer="adamww"))


def rates(schedule: str, epochs: int = 6, metric: float | None = None) -> list[float]:
    """Return the learning rate of each batch: four batches per epoch, two epochs of warm-up."""
    config = TrainingConfig(learning_rate=1.0, epochs=epochs, schedule=schedule, warmup_epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    plan, used = Schedule(optimizer, config, 4), []
    for _ in range(epochs):
        for _ in range(4):
            used.append(optimizer.param_groups[0]["lr"])
            plan.after_batch()
        plan.after_epoch(metric)
    return used


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant", "plateau"])
def test_every_schedule_warms_up_batch_by_batch(schedule):
    assert rates(schedule)[:8] == pytest.approx([(batch + 1) / 9 for batch in range(8)])


def test_how_schedules_decay():
    assert rates("constant")[8:] == [1.0] * 16
    cosine = rates("cosine")[8:]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[8] == pytest.approx(0.5)
    assert cosine[-1] < 0.02
    assert sorted({round(rate, 6) for rate in rates("step")[8:]}) == [0.01, 0.1, 1.0]
    still = rates("plateau", epochs=20, metric=0.5)
    assert still[-1] < 0.5 < still[20]
    assert still == sorted(still[:8]) + sorted(still[8:], reverse=True)

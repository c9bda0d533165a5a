"""The optimiser: parameter groups, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stacked_ram.config.schema import TrainingConfig
from stacked_ram.models.ram import RAM
from stacked_ram.runtime.errors import UserError, nearest

BACKBONE_FRACTION = 0.1  # of learning_rate, if backbone_learning_rate is None


def parameter_groups(model: RAM, config: TrainingConfig) -> list[dict[str, Any]]:
    """The backbone apart from the rest, and biases and norms (no weight decay) from weights."""
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    lrs = {True: config.backbone_learning_rate, False: config.learning_rate}
    if lrs[True] is None:
        lrs[True] = BACKBONE_FRACTION * config.learning_rate
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in backbone, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": groups[key],
            "lr": lrs[key[0]],
            "weight_decay": config.weight_decay if key[1] else 0.0,
        }
        for key in sorted(groups)
    ]


def make_optimizer(model: RAM, config: TrainingConfig) -> Optimizer:
    """timm's optimiser of that name over the model's groups. Raises UserError for another name."""
    from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers

    known = [str(name) for name in list_optimizers()]
    if config.optimizer.lower() not in known:
        raise UserError(
            f"optimizer: timm has no `{config.optimizer}`{nearest(config.optimizer, known)}"
        )
    groups = parameter_groups(model, config)
    if not groups:
        raise UserError("freeze_backbone: nothing is left to train")
    options = inspect.signature(get_optimizer_class(config.optimizer, bind_defaults=False))
    fused: dict[str, Any] = {"fused": True} if "fused" in options.parameters else {}
    return create_optimizer_v2(
        groups, opt=config.optimizer, lr=config.learning_rate, weight_decay=0.0, **fused
    )


def make_capturable(optimizer: Optimizer, on: bool, device: torch.device) -> None:
    """Set whether a CUDA graph may capture the optimiser's step; it then reads the learning rate
    from the device. Raises UserError for an optimiser that cannot be captured."""
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = on
        elif on:
            name = type(optimizer).__name__.lower()
            raise UserError(f"cuda_graph: optimizer {name} cannot be captured; use adamw")
        if on:
            group["lr"] = torch.tensor(group["lr"], device=device)
    for state in optimizer.state.values() if on else ():  # of a run without a graph so far
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(device)


class Schedule:
    """The learning rate after each batch (warm-up, cosine, step) or each epoch (plateau).

    The factors are written out here, because those of timm and of torch's own schedulers differ
    from them in the last digits, and runs have to be repeated exactly. (torch's LambdaLR would be
    equal; it warns of accumulated and skipped batches, and is no shorter.)

    lr: of all but the backbone, as it is now.
    """

    def __init__(
        self, optimizer: Optimizer, config: TrainingConfig, batches_per_epoch: int
    ) -> None:
        self.total = config.epochs * batches_per_epoch
        self.warmup = min(round(config.warmup_epochs * batches_per_epoch), self.total)
        self.shape = config.schedule
        self.batch = 0
        self.optimizer = optimizer
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]
        self._by_epoch = None
        if config.schedule == "plateau":
            self._by_epoch = ReduceLROnPlateau(
                optimizer, "min" if config.metric == "loss" else "max", factor=0.3, patience=4
            )
        self.put(self.factor(0))

    def factor(self, batch: int) -> float:
        """Fraction of the highest learning rate for that batch of the run."""
        if batch < self.warmup:
            return (batch + 1) / (self.warmup + 1)
        progress = (batch - self.warmup) / max(1, self.total - self.warmup)
        if self.shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        if self.shape == "step":  # a tenth after each third
            return 0.1 ** int(3 * min(progress, 0.999))
        return 1.0

    def after_batch(self) -> None:
        self.batch += 1
        # After the warm-up the plateau's own reductions must not be overwritten.
        if self._by_epoch is None or self.batch <= self.warmup:
            self.put(self.factor(self.batch))

    def after_epoch(self, metric: float | None) -> None:
        if self._by_epoch is not None and metric is not None and self.batch >= self.warmup:
            self._by_epoch.step(metric)
            self.lr = float(self.optimizer.param_groups[0]["lr"])

    def put(self, factor: float) -> None:
        """Set every group to this fraction of its highest learning rate."""
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            if isinstance(group["lr"], Tensor):  # a CUDA graph reads it there
                group["lr"].fill_(factor * highest)
            else:
                group["lr"] = factor * highest
        self.lr = factor * self.highest[0]

    def state_dict(self) -> dict[str, Any]:
        """The learning rates themselves are in the optimiser's state."""
        by_epoch = None if self._by_epoch is None else self._by_epoch.state_dict()
        return {"batch": self.batch, "by_epoch": by_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batch = state["batch"]
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        if self._by_epoch is not None and state["by_epoch"] is not None:
            self._by_epoch.load_state_dict(state["by_epoch"])

"""Find a learning rate: a short training on a rising ramp, and the loss drawn over it.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import replace_fields
from stacked_ram.runs.folder import RunFolder, write_atomically, write_rows
from stacked_ram.runtime.errors import RunFailed
from stacked_ram.training.trainer import Trainer

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 120
SMOOTHING = 0.9  # of the loss over the steps
TOO_HIGH = 3.0  # times the lowest smoothed loss: the ramp ends


def find_learning_rate(config: Config, folder: Path) -> float:
    """Walk up the ramp and write FOLDER-learning-rate/curve.png and .csv; returns a suggestion,
    where the loss falls fastest. Nothing of the training is kept."""
    out = folder.with_name(f"{folder.name}-learning-rate")
    trainer = Trainer(replace_fields(config, {"not_finite": "stop"}), RunFolder(out))
    try:
        lrs, losses = ramp(trainer)
    finally:
        trainer.loader.close()
    if len(lrs) < 10:
        raise RunFailed("the loss is not finite from the start; no learning rate can be found")
    smooth = smoothed(losses)
    best = suggestion(lrs, smooth)
    rows = [
        {"learning_rate": lr, "loss": loss, "smoothed": value}
        for lr, loss, value in zip(lrs, losses, smooth, strict=True)
    ]
    write_rows(out / "curve.csv", rows)
    write_atomically(out / "curve.png", picture(lrs, losses, smooth, best))
    print(f"the loss falls fastest at --learning-rate {best:.2g}; curve: {out / 'curve.png'}")
    return best


def ramp(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Train a step at each learning rate, until the loss runs away."""
    train_step = trainer.train_step
    highest = train_step.schedule.highest[0]
    lrs: list[float] = []
    losses: list[float] = []
    while True:
        trainer.loader.set_epoch(train_step.step // len(trainer.loader))
        for batch in trainer.loader:
            lr = LOWEST * (HIGHEST / LOWEST) ** (len(lrs) / (STEPS - 1))
            train_step.schedule.put(lr / highest)  # the backbone keeps its fraction
            train_step.averages.clear()
            train_step(batch)
            parts = train_step.averages.read()
            loss = parts["pretraining" if "pretraining" in parts else "classification"]
            if not math.isfinite(loss):
                return lrs, losses
            lrs.append(lr)
            losses.append(loss)
            smooth = smoothed(losses)
            if len(lrs) == STEPS or (len(lrs) > 10 and smooth[-1] > TOO_HIGH * min(smooth)):
                return lrs, losses


def smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average, corrected for its start."""
    average, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        result.append(average / (1 - SMOOTHING**count))
    return result


def suggestion(lrs: list[float], smooth: list[float]) -> float:
    """The learning rate where the smoothed loss falls fastest, over its logarithm and before the
    lowest point."""
    lowest = max(3, int(np.argmin(smooth)))
    slope = np.gradient(np.asarray(smooth), np.log(lrs))
    return float(lrs[int(np.argmin(slope[1:lowest])) + 1])


def picture(lrs: list[float], losses: list[float], smooth: list[float], best: float) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(lrs, losses, color="0.8", label="classification loss")
    axes.plot(lrs, smooth, label="smoothed")
    axes.axvline(best, color="C1", linestyle="--", label=f"falls fastest: {best:.2g}")
    low, high = min(smooth), smooth[0]
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_ylim(low - 0.3 * (high - low), high + 1.0 * (high - low) + 1e-3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()

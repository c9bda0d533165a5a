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
        rates, losses = ramp(trainer)
    finally:
        trainer.loader.close()
    if len(rates) < 10:
        raise RunFailed("the loss is not finite from the start; no learning rate can be found")
    smooth = smoothed(losses)
    best = suggestion(rates, smooth)
    rows = [
        {"learning_rate": rate, "loss": loss, "smoothed": value}
        for rate, loss, value in zip(rates, losses, smooth, strict=True)
    ]
    write_rows(out / "curve.csv", rows)
    write_atomically(out / "curve.png", picture(rates, losses, smooth, best))
    print(f"the loss falls fastest at --learning-rate {best:.2g}; curve: {out / 'curve.png'}")
    return best


def ramp(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Train a step at each rate, until the loss runs away."""
    learner = trainer.learner
    highest = learner.schedule.highest[0]
    rates: list[float] = []
    losses: list[float] = []
    while True:
        trainer.loader.set_epoch(learner.step // len(trainer.loader))
        for batch in trainer.loader:
            rate = LOWEST * (HIGHEST / LOWEST) ** (len(rates) / (STEPS - 1))
            learner.schedule.put(rate / highest)  # the backbone keeps its share
            learner.averages.clear()
            learner.learn(batch)
            parts = learner.averages.read()
            loss = parts["pretraining" if "pretraining" in parts else "classification"]
            if not math.isfinite(loss):
                return rates, losses
            rates.append(rate)
            losses.append(loss)
            smooth = smoothed(losses)
            if len(rates) == STEPS or (len(rates) > 10 and smooth[-1] > TOO_HIGH * min(smooth)):
                return rates, losses


def smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average, corrected for its start."""
    average, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        result.append(average / (1 - SMOOTHING**count))
    return result


def suggestion(rates: list[float], smooth: list[float]) -> float:
    """The rate where the smoothed loss falls fastest over the logarithm of the rate, before its
    lowest point."""
    lowest = max(3, int(np.argmin(smooth)))
    slope = np.gradient(np.asarray(smooth), np.log(rates))
    return float(rates[int(np.argmin(slope[1:lowest])) + 1])


def picture(rates: list[float], losses: list[float], smooth: list[float], best: float) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="0.8", label="classification loss")
    axes.plot(rates, smooth, label="smoothed")
    axes.axvline(best, color="C1", linestyle="--", label=f"falls fastest: {best:.2g}")
    low, high = min(smooth), smooth[0]
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_ylim(low - 0.3 * (high - low), high + 1.0 * (high - low) + 1e-3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()

"""The fields that say `auto`, decided for a device."""

from __future__ import annotations

import dataclasses
import sys

import torch

from stacked_ram.config.schema import Config
from stacked_ram.runtime.devices import has_fast_bf16


def resolve_auto(
    config: Config, device: torch.device, *, trained: bool = False, quiet: bool = False
) -> Config:
    """A config whose `precision` and `channels_last` are decided for this device.

    precision auto is bf16 where the device is faster with it, otherwise float32; channels_last auto
    is on for a CPU (EfficientNet-lite0 there: 1.05 to 1.45 times as fast in either precision) and
    in reduced precision. A device without fast bf16 is named in one line on stderr.

    trained: the model is trained already, so its bf16 is taken as auto. A device without fast bf16
    uses such a model in float32, which is several times faster there; answers differ by rounding.
    """
    settings = config.training
    fast = has_fast_bf16(device)
    precision = settings.precision
    if precision == "auto" or (trained and precision == "bf16"):
        precision = "bf16" if fast else "float32"
    channels_last = settings.channels_last
    if channels_last == "auto":
        channels_last = device.type == "cpu" or precision != "float32"
    note = ""
    if settings.precision == "auto" and not fast:
        note = f"precision: float32 ({device.type} has no fast bf16)"
    elif (settings.precision, precision) == ("bf16", "float32"):
        note = (
            f"precision: the model was trained in bf16 and is used in float32 ({device.type} has no"
            " fast bf16); answers differ by rounding"
        )
    elif precision == "bf16" and not fast:
        note = f"precision: {device.type} has no fast bf16; auto would take float32"
    if note and not quiet:
        print(note, file=sys.stderr)
    training = dataclasses.replace(settings, precision=precision, channels_last=channels_last)
    return dataclasses.replace(config, training=training)

"""Networks of a model as OpenVINO programs, which look 2 to 3 times as fast on a CPU.

Only what turns pixels into features is replaced: the "what" networks of the retinas and the
network of the glance. Patches, core, policy, early exit and controls stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib.util
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from stacked_ram.models.glance import Glance
from stacked_ram.models.ram import RAM
from stacked_ram.runtime.errors import UserError, brief, check

_as_networks = ContextVar("_as_networks", default=False)
_compiling = threading.Lock()  # torch traces one network at a time


@contextlib.contextmanager
def as_networks() -> Iterator[None]:
    """Have torch compute the networks inside the `with`, so that it can count their arithmetic."""
    token = _as_networks.set(True)
    try:
        yield
    finally:
        _as_networks.reset(token)


def use_programs(model: RAM, precision: str) -> None:
    """Have a model look by programs, in place; it cannot be trained then.

    precision: float32, or bf16 for products of matrices in bf16. The first batch of images of a
    size takes some seconds longer, for the program is made then.

    Raises UserError if openvino is not installed, or the model is not on the CPU.
    """
    check(
        importlib.util.find_spec("openvino") is not None,
        "fast: needs the package openvino; pip install -r requirements-fast.txt",
    )
    device = model.classifier.weight.device
    check(device.type == "cpu", f"fast: is for a CPU, and the model is on {device}; leave it out")
    model.eval().requires_grad_(False)
    for level in model.levels:
        for what in getattr(level.retina, "whats", ()):
            what.forward = Program(what, precision)
    if model.glance is not None:
        model.glance.encode = Program(GlanceNetwork(model.glance), precision)  # type: ignore[assignment, method-assign]  # the same call


class Program:
    """The forward pass of a network: the same call, for any number of rows.

    network: takes one tensor, ... x C x H x W, and returns a tensor or a tuple of them. Its program
    is made when images of a size come first, and another one for each further thread that calls it
    at the same time. precision: as for `use_programs`.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network = copy.deepcopy(network)  # of which `forward` may be replaced
        self.precision = precision
        self.idle: defaultdict[tuple[torch.Size, int], list[Callable[..., Any]]] = defaultdict(list)

    def __call__(self, images: Tensor) -> Any:
        if _as_networks.get():
            return self.network(images)
        # most images come channels last, which the program takes without a copy
        images = images.float().movedim(-3, -1).contiguous()
        idle = self.idle[images.shape[1:], torch.get_num_threads()]
        with own_signal_stack():
            try:
                program = idle.pop()
            except IndexError:
                with _compiling:
                    program = self.compile(images)
            answers = program(images.numpy(), share_inputs=True)
            idle.append(program)
        tensors = tuple(torch.from_numpy(answer) for answer in answers.values())
        return tensors if len(tensors) > 1 else tensors[0]

    def compile(self, images: Tensor) -> Callable[..., Any]:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        try:
            # not by openvino.convert_model, which reports its use to its makers over the network
            front_end = FrontEndManager().load_by_framework("pytorch")
            with torch.autocast("cpu", enabled=False), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing
                example = images[:1].repeat_interleave(2, 0)
                decoder = TorchScriptPythonDecoder(
                    ChannelsLast(self.network), example_input=example
                )
                model = front_end.convert(front_end.load(decoder))
            model.reshape([-1, *images.shape[1:]])
        except Exception as error:  # its front end raises errors of many kinds
            raise UserError(
                f"fast: OpenVINO cannot take this network ({brief(error)}); leave it out"
            ) from None
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # all programs would be pinned to the same cores
        }
        return openvino.Core().compile_model(model, "CPU", options)


class SignalStack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def own_signal_stack() -> Iterator[None]:
    """Put this thread's alternate stack for signals back after the `with`. On processors with AMX
    OpenVINO sets one, and frees it with the program: the next signal would end the process."""
    if sys.platform != "linux":
        yield
        return
    before, set_stack = SignalStack(), ctypes.CDLL(None).sigaltstack
    set_stack(None, ctypes.byref(before))
    try:
        yield
    finally:
        set_stack(ctypes.byref(before), None)


class ChannelsLast(nn.Module):
    """A network whose input has its channels last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images.movedim(-1, -3))


class GlanceNetwork(nn.Module):
    """The part of a glance that is a network: reduced photos -> regions and pooled features."""

    def __init__(self, glance: Glance) -> None:
        super().__init__()
        self.glance = glance

    def forward(self, images_BChw: Tensor) -> tuple[Tensor, Tensor]:
        return self.glance.encode(images_BChw)

"""A training step as one CUDA graph: recorded once, then replayed with a single launch.

A step of the paper's model is hundreds of kernels of a few microseconds each. Launched one by one
they wait for Python; replayed, they follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class StepGraph:
    """A function of tensors whose shapes never change, as a graph. Off CUDA it is just called.

    Args:
        step: works on its arguments and on what it holds (weights, the optimiser's state, sums),
            all of it in place. It may not make the host wait (`.item()`, a mask as index, a copy
            from the host), and a number that it took from the host stays what it was: a learning
            rate that changes has to be a tensor, the optimiser `capturable`.
        inputs: arguments as it will get them.
        warmups: real runs before the recording, in which kernels are chosen and the optimiser
            makes its state; they train.

    What it draws comes from the device's default generator, as it would without the graph, so
    that `torch.manual_seed` before a call fixes it.
    """

    def __init__(self, step: Callable[..., Any], inputs: tuple[Tensor, ...], warmups: int = 3):
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        if inputs[0].device.type != "cuda":
            for _ in range(warmups):
                step(*inputs)
            return
        self.inputs = tuple(one.clone() for one in inputs)
        stream = torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmups):
                step(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.outputs = step(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """One step. On CUDA the outputs are those of every call: the next one overwrites them."""
        if self.graph is None:
            return self.step(*inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs

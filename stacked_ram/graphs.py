"""Training steps as CUDA graphs: recorded once, then replayed with a single launch.

A step of the paper's model is hundreds of kernels of a few microseconds each. Launched one by one
they wait for Python; replayed, they follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stacked_ram.errors import RunFailed, UserError

WARM_UP = 3  # real steps before the recording
MOST_KINDS = 16  # each keeps the memory of its own step


class StepGraph:
    """A function of tensors whose shapes never change, as a graph. Off CUDA it is just called.

    The first calls run as they are, beside the default stream: kernels are chosen, the optimiser
    makes its state. The next one records, and replays from then on; all are steps alike.

    Args:
        step: works on its arguments and on what it holds (weights, the optimiser's state, sums),
            all of it in place. It may not make the host wait (`.item()`, a mask as index, a copy
            from the host), and a number that it took from the host stays what it was: a learning
            rate that changes has to be a tensor, the optimiser `capturable`.
        warm_up: calls before the recording.

    What it draws comes from the device's default generator, as it would without the graph, so
    that `torch.manual_seed` before a call fixes it.
    """

    def __init__(self, step: Callable[..., Any], warm_up: int = WARM_UP):
        self.step = step
        self.warm_up = warm_up
        self.stream: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """One step. Once it is recorded its outputs are those of every call: the next one
        overwrites them. Raises RunFailed where it cannot be recorded."""
        if inputs[0].device.type != "cuda":
            return self.step(*inputs)
        if self.stream is None:
            self.stream = torch.cuda.Stream(inputs[0].device)
        if self.warm_up:
            return self._run_beside(inputs)
        if self.graph is None:
            self._record(inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs

    def _run_beside(self, inputs: tuple[Tensor, ...]) -> Any:
        self.warm_up -= 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(one.clone() for one in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.outputs = self.step(*self.inputs)
        except RuntimeError as error:
            raise RunFailed(
                f"cuda_graph: this model's step cannot be recorded"
                f" ({str(error).splitlines()[0]}); leave cuda_graph off"
            ) from error
        self.graph = graph


class StepGraphs:
    """A graph for every kind of step of a run, and for every shape of its inputs.

    step: called with the kind, then with the inputs.
    """

    def __init__(self, step: Callable[..., Any]):
        self.step = step
        self.graphs: dict[Hashable, StepGraph] = {}

    def __call__(self, kind: Hashable, *inputs: Tensor) -> Any:
        """One step. Raises UserError for too many kinds and shapes."""
        key = kind, *((tuple(one.shape), one.dtype) for one in inputs)
        if key not in self.graphs:
            if len(self.graphs) == MOST_KINDS:
                raise UserError(
                    f"cuda_graph: batches of {MOST_KINDS} shapes so far, each of which has to be"
                    " recorded; give all photos one size (--photo-size), or leave it off"
                )
            self.graphs[key] = StepGraph(partial(self.step, kind))
        return self.graphs[key](*inputs)

"""Training steps as CUDA graphs: captured once, then replayed with a single launch.

A step of the paper's model is hundreds of kernels of a few microseconds each. Launched one by one
they wait for Python; replayed, they follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stacked_ram.runtime.errors import RunFailed, UserError

WARM_UP = 3  # eager steps before the capture
MOST_SHAPES = 16  # each holds the memory of a step


class StepGraph:
    """A function of tensors of fixed shapes as a CUDA graph. Off CUDA it is simply called.

    The first calls run eagerly on a side stream: kernels are chosen, the optimiser makes its state.
    The next call captures the graph; from then on it is replayed. Each call is a full step, on the
    same copies of the inputs.

    Args:
        step: works in place on its arguments and on what it holds (weights, the optimiser's state,
            sums). It may not make the host wait (`.item()`, a mask as index, a copy from the
            host). A number from the host is captured as a constant: a learning rate that changes
            has to be a tensor, and the optimiser `capturable`.
        warm_up: calls before the capture.

    Random numbers come from the device's default generator, as without the graph:
    `torch.manual_seed` before a call fixes them.
    """

    def __init__(self, step: Callable[..., Any], warm_up: int = WARM_UP):
        self.step = step
        self.warm_up = warm_up
        self.stream: torch.cuda.Stream
        self.inputs: tuple[Tensor, ...] = ()  # copies, none before the first call
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """One step. After the capture each call overwrites the outputs of the one before. Raises
        RunFailed if the step cannot be captured."""
        if inputs[0].device.type != "cuda":
            return self.step(*inputs)
        if not self.inputs:
            self.stream = torch.cuda.Stream(inputs[0].device)
            self.inputs = tuple(value.clone() for value in inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.warm_up:
            return self._warm_up()
        graph = self.graph or self._capture()
        graph.replay()
        return self.outputs

    def _warm_up(self) -> Any:
        self.warm_up -= 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.step(*self.inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may go on using the device (pinned memory for batches)
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.outputs = self.step(*self.inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a capture that failed fails too
            raise RunFailed(
                f"cuda_graph: this model's step cannot be captured"
                f" ({str(cause).splitlines()[0]}); leave cuda_graph off"
            ) from error
        self.graph = graph
        return graph


class StepGraphs:
    """A graph for each combination of shapes of a step's inputs.

    step: called with the kind of step, then with the inputs. A run goes from one kind to the next
    and never back, so the graphs of the kind before, and their memory, are freed.
    """

    def __init__(self, step: Callable[..., Any]):
        self.step = step
        self.kind: Hashable = None
        self.graphs: dict[Hashable, StepGraph] = {}

    def __call__(self, kind: Hashable, *inputs: Tensor) -> Any:
        """One step. Raises UserError for too many shapes."""
        if kind != self.kind:
            self.kind = kind
            self.graphs.clear()
        key = tuple((tuple(value.shape), value.dtype) for value in inputs)
        if key not in self.graphs:
            if len(self.graphs) == MOST_SHAPES:
                raise UserError(
                    f"cuda_graph: batches of {MOST_SHAPES} shapes so far, and each needs its own"
                    " graph; give all photos one size (--photo-size), or leave it off"
                )
            self.graphs[key] = StepGraph(partial(self.step, kind))
        return self.graphs[key](*inputs)

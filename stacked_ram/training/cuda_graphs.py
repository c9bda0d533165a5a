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

from stacked_ram.runtime.errors import RunFailed, UserError

WARM_UP = 3  # real steps before the recording
MOST_SHAPES = 16  # each keeps the memory of its own step


class StepGraph:
    """A function of tensors whose shapes never change, as a graph. Off CUDA it is just called.

    The first calls run as they are, beside the default stream: kernels are chosen, the optimiser
    makes its state. The next one records, and replays from then on; all are steps alike, on the
    same copies of the inputs.

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
            self.inputs = tuple(one.clone() for one in inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.warm_up:
            return self._run_beside()
        if self.graph is None:
            self._record()
        self.graph.replay()
        return self.outputs

    def _run_beside(self) -> Any:
        self.warm_up -= 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.step(*self.inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # what other threads ask of the device (pinned memory for batches) is not forbidden
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.outputs = self.step(*self.inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a recording that failed fails too
            raise RunFailed(
                f"cuda_graph: this model's step cannot be recorded"
                f" ({str(cause).splitlines()[0]}); leave cuda_graph off"
            ) from error
        self.graph = graph


class StepGraphs:
    """A graph for every shape of the inputs of a step.

    step: called with the kind, then with the inputs. A run goes from one kind to the next and never
    back: the graphs of the last kind, and the memory of their steps, are given up.
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
        key = tuple((tuple(one.shape), one.dtype) for one in inputs)
        if key not in self.graphs:
            if len(self.graphs) == MOST_SHAPES:
                raise UserError(
                    f"cuda_graph: batches of {MOST_SHAPES} shapes so far, each of which has to be"
                    " recorded; give all photos one size (--photo-size), or leave it off"
                )
            self.graphs[key] = StepGraph(partial(self.step, kind))
        return self.graphs[key](*inputs)

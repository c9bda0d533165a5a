"""An exported program as ONNX, and running it with onnxruntime."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stacked_ram.runtime.errors import RunFailed

NEEDED = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install -r requirements-export.txt (or: pip install 'stacked-ram[export]')"


def missing_packages() -> list[str]:
    """Return which of the packages for ONNX are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence all loggers for a while: those of the exporters speak about their own internals."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def write_onnx(program: torch.export.ExportedProgram, shape: list[int | str], path: Path) -> None:
    """Write a program as ONNX. shape: of its input, with names for what is free.

    Raises RunFailed if ONNX cannot express it.
    """
    names = ["beliefs", "locations", "glimpses"][: len(program.graph_signature.user_outputs)]
    try:
        with warnings.catch_warnings(), without_logs():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["pixels"], output_names=names
            )
        if written is None:  # only without dynamo
            raise RuntimeError("the exporter returned nothing")
    except Exception as error:  # the exporter raises many kinds of errors, with long texts
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(f"export: torch cannot write this model as ONNX ({first})") from None
    name_dimensions(written.model.graph, shape)
    written.save(path)


def name_dimensions(graph: Any, shape: list[int | str]) -> None:
    """Call the free dimensions of inputs and outputs by these names instead of `s7`."""
    (pixels,) = graph.inputs
    called = {str(old): new for old, new in zip(pixels.shape, shape, strict=True)}
    for value in (pixels, *graph.outputs):
        for axis, size in enumerate(value.shape or ()):
            if isinstance(called.get(str(size)), str):
                value.shape[axis] = called[str(size)]


def session(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Open an ONNX file: a function of pixels that returns its outputs."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.intra_op_num_threads = torch.get_num_threads()
    runner = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def run(pixels_BCHW: Tensor) -> list[Tensor]:
        return [
            torch.from_numpy(output) for output in runner.run(None, {"pixels": pixels_BCHW.numpy()})
        ]

    return run

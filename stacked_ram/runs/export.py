"""Export a model's deterministic pass as a program that runs without this package.

OUT/model.pt2     torch.export program: pixels -> beliefs, locations
OUT/model.json    its description: input, outputs, classes, how to prepare a photo
OUT/model.onnx    on request; otherwise the file of an earlier export is removed

program = torch.export.load("model.pt2").module()
beliefs_BTN, locations_BTS2 = program(pixels_BCHW)     # uint8, raw 0..255, of the exported size
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stacked_ram.config.yaml import to_dict
from stacked_ram.models.ram import RAM
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.folder import check_folder, write_atomically
from stacked_ram.runtime.errors import RunFailed, UserError

TOLERANCE = 1e-4  # probabilities and locations that differ by no more than this are equal
ONNX_FILES = ("model.onnx", "model.onnx.data")  # the second holds weights of more than 2 GB


class DeterministicPass(nn.Module):
    """Raw pixels -> class probabilities after each step, and locations."""

    def __init__(self, model: RAM) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        trace = self.model(pixels_BCHW, sample=False)
        return trace.logits_BTN.softmax(2), trace.locations_BTS2


def export(
    loaded: LoadedRun,
    out: Path,
    size: tuple[int, int],
    *,
    batch_size: int = 1,
    onnx: bool = False,
    gmacs: float | None = None,
) -> list[Path]:
    """Write the deterministic pass as programs into the folder `out`; return the files.

    size: (height, width) of the photos that the program takes.
    batch_size: the number of photos it takes at once.
    onnx: also write ONNX.
    gmacs: the cost of a photo, for the description.

    Raises UserError if the folder cannot be written, RunFailed if torch cannot export the model.
    """
    check_folder(out)
    shape = (batch_size, loaded.metadata.channels, *size)
    example = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    # without gradients the sliding sums are exported as evaluation computes them
    model = DeterministicPass(copy.deepcopy(loaded.model).cpu()).eval().requires_grad_(False)
    program = traced(model, example)
    check_equal(program.module(), model, example)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    torch.export.save(program, partial / "model.pt2")
    if onnx:
        write_onnx(model, example, partial / "model.onnx")
    about = describe(loaded, shape) | ({} if gmacs is None else {"gmacs": gmacs})
    write_atomically(partial / "model.json", json.dumps(about, indent=2).encode() + b"\n")
    out.mkdir(parents=True, exist_ok=True)
    for name in ONNX_FILES:  # an earlier export's would belong to another model
        (out / name).unlink(missing_ok=True)
    files = [path.replace(out / path.name) for path in sorted(partial.iterdir())]
    partial.rmdir()
    return files


@torch.no_grad()
def traced(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Trace the model. Raises RunFailed if torch cannot export it."""
    try:
        # not strict: maps.exporting() depends on it
        return torch.export.export(model, (example,), strict=False)
    except UserError:  # the model's own: photos too small for it
        raise
    except Exception as error:  # the exporter raises many kinds of errors, with long texts
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(f"export: torch cannot export this model ({first})") from None


@torch.no_grad()
def check_equal(program: nn.Module, model: nn.Module, example: Tensor) -> None:
    """Raise RunFailed unless the program's outputs equal the model's, also for other pixels."""
    for pixels in (example, 255 - example):
        for output, expected in zip(program(pixels), model(pixels), strict=True):
            difference = (output - expected).abs().max().item()
            if not difference <= TOLERANCE:
                raise RunFailed(
                    f"export: the exported program differs from the model by {difference:.2g};"
                    " nothing was written"
                )


def write_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the model as ONNX.

    Raises UserError if packages are missing, RunFailed if ONNX cannot express the model.
    """
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise UserError("--onnx: pip install onnx onnxscript") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's internals
            program = torch.onnx.export(
                model, (example,), dynamo=True, verbose=False,
                input_names=["pixels"], output_names=["beliefs", "locations"],
            )  # fmt: skip
        if program is None:  # only without dynamo
            raise RuntimeError("the exporter returned nothing")
    except Exception as error:  # the exporter raises many kinds of errors, with long texts
        first = str(error).strip().splitlines()[0]
        raise RunFailed(f"--onnx: torch cannot write this model as ONNX ({first})") from None
    program.save(path)


def describe(loaded: LoadedRun, shape: tuple[int, ...]) -> dict[str, Any]:
    """Describe the program for its callers: input, outputs, classes, preparation."""
    config = loaded.config
    return {
        "input": {
            "name": "pixels",
            "dtype": "uint8",
            "shape": list(shape),
            "is": "raw pixels, 0 to 255, RGB or grayscale; normalised inside",
        },
        "outputs": [
            {"name": "beliefs", "is": "class probabilities after each glimpse (photo, T, class)"},
            {"name": "locations", "is": "(x, y) in [-1, 1] of each glimpse (photo, T, level, 2)"},
        ],
        "prepare": {"short_side": config.data.short_side, "photo_size": config.data.photo_size},
        "classes": list(loaded.classes),
        "weights": str(loaded.path),
        "torch": torch.__version__,
        "config": to_dict(config),
    }

"""The export command: the deterministic pass as a program that needs none of this code.

RUN/export/model.pt2     torch.export program: pixels -> beliefs, locations
RUN/export/model.json    its card: input, outputs, classes, how to prepare a photo
RUN/export/model.onnx    on request; without, one that an earlier export left is removed

program = torch.export.load("model.pt2").module()
beliefs_BTN, locations_BTS2 = program(pixels_BCHW)     # uint8, raw 0..255, of the card's size
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from stacked_ram.cli.info import stored_size
from stacked_ram.cli.main import Export
from stacked_ram.config.yaml import to_dict
from stacked_ram.evaluation.cost import photo_cost
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runs.folder import check_folder, write_atomically
from stacked_ram.runtime.errors import RunFailed, UserError, check

TOLERANCE = 1e-4  # largest difference of a probability or a location that counts as equal
ONNX_FILES = ("model.onnx", "model.onnx.data")  # the second holds weights of more than 2 GB


class DeterministicPass(nn.Module):
    """Raw pixels in; class probabilities after each step and locations out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        trace = self.model(self.model.photos(pixels_BCHW), sample=False)
        return trace.logits_BTN.softmax(2), trace.locations_BTS2


def export(options: Export) -> None:
    check(options.batch_size >= 1, f"--batch-size: {options.batch_size} is below 1")
    check(min(options.size or (1,)) >= 1, f"--size: {options.size} is not above 0")
    loaded = load_run(options.run, "cpu")
    out = options.out or loaded.folder / "export"
    check_folder(out)
    size = options.size or stored_size(loaded.config)
    if size is None:
        raise UserError(
            f"no data set at {loaded.config.data.dataset}, which would say how large photos are:"
            " give --size HEIGHT WIDTH"
        )
    shape = (options.batch_size, loaded.card.channels, *size)
    example = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    # weights that want no gradient: sums of maps are exported as they are made without
    whole = DeterministicPass(loaded.model).eval().requires_grad_(False)
    program = traced(whole, example)
    check_equal(program.module(), whole, example)
    working = out.with_name(f".{out.name}.partial")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    torch.export.save(program, working / "model.pt2")
    if options.onnx:
        write_onnx(whole, example, working / "model.onnx")
    card = json.dumps(describe(loaded, shape), indent=2)
    write_atomically(working / "model.json", card.encode() + b"\n")
    out.mkdir(parents=True, exist_ok=True)
    for name in ONNX_FILES:  # an earlier export's would be another model
        (out / name).unlink(missing_ok=True)
    for path in sorted(working.iterdir()):
        path.replace(out / path.name)
        print(out / path.name)
    working.rmdir()


@torch.no_grad()
def traced(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Raises RunFailed if torch cannot export the model."""
    try:
        return torch.export.export(model, (example,), strict=False)  # maps.exporting() tells it so
    except UserError:  # the model's own: photos too small for it
        raise
    except Exception as error:  # the exporter's own errors are many, and long
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(f"export: torch cannot export this model ({first})") from None


@torch.no_grad()
def check_equal(program: nn.Module, model: nn.Module, example: Tensor) -> None:
    """Raises RunFailed unless the program answers as the model does, also on other pixels."""
    for pixels in (example, 255 - example):
        for told, expected in zip(program(pixels), model(pixels), strict=True):
            difference = (told - expected).abs().max().item()
            if not difference <= TOLERANCE:
                raise RunFailed(
                    f"export: the exported program differs from the model by {difference:.2g};"
                    " nothing was written"
                )


def write_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    """Raises UserError if the packages are missing, and RunFailed if ONNX cannot say the model."""
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise UserError("--onnx: pip install onnx onnxscript") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own insides
            program = torch.onnx.export(
                model, (example,), dynamo=True, verbose=False,
                input_names=["pixels"], output_names=["beliefs", "locations"],
            )  # fmt: skip
    except Exception as error:  # the exporter's own errors are many, and long
        first = str(error).strip().splitlines()[0]
        raise RunFailed(f"--onnx: torch cannot write this model as ONNX ({first})") from None
    program.save(path)


def describe(loaded: LoadedRun, shape: tuple[int, ...]) -> dict:
    """The card: what a program that uses the model must know."""
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
        "prepare": {
            "short_side": config.data.short_side,
            "photo_size": config.data.photo_size,
        },
        "classes": list(loaded.classes),
        "gmacs": photo_cost(loaded.model, *shape[2:]).total,
        "weights": str(loaded.path),
        "torch": torch.__version__,
        "config": to_dict(config),
    }

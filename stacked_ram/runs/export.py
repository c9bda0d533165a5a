"""Export a model's deterministic pass as programs that run without this package.

OUT/model.pt2     torch.export program: pixels -> beliefs, locations
OUT/model.onnx    the same for ONNX runtimes (needs requirements-export.txt)
OUT/model.int8-dynamic.onnx, model.int8-static.onnx    on request, with weights of 8 bits
OUT/model.json    the card: input, outputs, classes, how to prepare a photo, what int8 loses

program = torch.export.load("model.pt2").module()
beliefs_BTN, locations_BTS2 = program(pixels_BCHW)     # uint8, raw 0..255, photos of one size

Each file is run and compared with the model before it is written.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
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
# the second holds weights of more than 2 GB
ONNX_FILES = (
    "model.onnx", "model.onnx.data", "model.int8-dynamic.onnx", "model.int8-static.onnx",
)  # fmt: skip


class DeterministicPass(nn.Module):
    """Raw pixels -> class probabilities after each step, and locations.

    stop_at: look no more once a class has this probability (with several labels, once every class
    has this margin from its threshold). Then the beliefs of later steps are
    those of the last glimpse that counts, and the number of glimpses is a third output.
    """

    def __init__(self, model: RAM, stop_at: float | None = None) -> None:
        super().__init__()
        self.model, self.stop_at = model, stop_at

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        trace = self.model(pixels_BCHW, sample=False)
        beliefs_BTN = self.model.beliefs(trace.logits_BTN)
        if self.stop_at is None:
            return beliefs_BTN, trace.locations_BTS2
        glance = trace.glance_logits_BN
        if glance is not None:  # it may be enough: no glimpse at all
            beliefs_BTN = torch.cat([self.model.beliefs(glance).unsqueeze(1), beliefs_BTN], 1)
        enough_BT = self.model.sureness(beliefs_BTN[:, :-1]) >= self.stop_at
        before_B = (enough_BT.long().cumsum(1) == 0).sum(1)  # rows before the one that is enough
        rows_T = torch.arange(beliefs_BTN.shape[1], device=before_B.device)
        kept_BT = torch.minimum(rows_T, before_B.unsqueeze(1))
        beliefs_BTN = beliefs_BTN.gather(1, kept_BT.unsqueeze(2).expand_as(beliefs_BTN))
        if glance is not None:
            return beliefs_BTN[:, 1:], trace.locations_BTS2, before_B
        return beliefs_BTN, trace.locations_BTS2, before_B + 1


@dataclass(frozen=True)
class Shape:
    """The photos that a program takes."""

    channels: int
    size: tuple[int, int]
    """(height, width): the only one that it takes, or an example."""
    any_size: bool
    batch_size: int | None
    """None: any number of photos."""

    def photos(self) -> list[Tensor]:
        """Photos to try it with, B x C x H x W, uint8; the first are those it is traced with."""
        generator = torch.Generator().manual_seed(0)
        tried = []
        for turn, batch in enumerate((2, 1, 3)):
            height, width = self.size
            if self.any_size:  # not square, and of even and odd sides
                height, width = height + 7 * turn, width + width // 8 + 1 + 13 * turn
            shape = (self.batch_size or batch, self.channels, height, width)
            tried.append(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))
        return tried

    def describe(self) -> list[int | str]:
        height, width = ("height", "width") if self.any_size else self.size
        return [self.batch_size or "batch", self.channels, height, width]


def export(
    loaded: LoadedRun,
    out: Path,
    size: tuple[int, int],
    *,
    any_size: bool = False,
    batch_size: int | None = None,
    onnx: bool = False,
    stop_at: float | None = None,
    int8: Sequence[str] = (),
    gmacs: float | None = None,
) -> tuple[list[Path], str]:
    """Write the deterministic pass as programs into the folder `out`.

    Returns the files, and a note on what the model cannot have, or "".

    size: (height, width) of the photos that the program takes or, with any_size, of an example.
    any_size: photos may have any size. Where a model cannot have that, `size` is the only one.
    batch_size: the number of photos it takes at once; None: any.
    onnx: also write ONNX. int8: `dynamic`, `static` or both: also ONNX with weights of 8 bits.
    stop_at: early exit at this probability, 0 to 1.
    gmacs: the cost of a photo, for the card.

    Raises UserError if the folder cannot be written, packages are missing, or the run's data set
    is not there (int8); RunFailed if the model cannot be exported.
    """
    if int8 and loaded.metadata.multi_label:
        raise UserError(
            f"--int8: {loaded.folder} gives a photo several classes, and what 8 bits lose is"
            " measured on models that give it one; leave it out"
        )
    check_folder(out)
    # without gradients the sliding sums are exported as evaluation computes them
    model = copy.deepcopy(loaded.model).cpu()
    whole = DeterministicPass(model, stop_at).eval().requires_grad_(False)
    shape = Shape(loaded.metadata.channels, size, any_size, batch_size)
    program, shape = traced(whole, shape)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own internals
        torch.export.save(program, partial / "model.pt2")
    about = describe(loaded, shape, stop_at) | ({} if gmacs is None else {"gmacs": gmacs})
    if onnx:
        from stacked_ram.runs.onnx import session, write_onnx

        write_onnx(program, shape.describe(), partial / "model.onnx")
        check_equal(session(partial / "model.onnx"), whole, shape.photos())
    if int8:
        from stacked_ram.runs.int8 import write_int8

        about["int8"] = write_int8(partial / "model.onnx", int8, loaded)
    write_atomically(partial / "model.json", json.dumps(about, indent=2).encode() + b"\n")
    out.mkdir(parents=True, exist_ok=True)
    for name in ONNX_FILES:  # an earlier export's would belong to another model
        (out / name).unlink(missing_ok=True)
    files = [path.replace(out / path.name) for path in sorted(partial.iterdir())]
    partial.rmdir()
    height, width = size
    fixed = f"this model's program takes photos of height {height}, width {width} only"
    return files, fixed if any_size and not shape.any_size else ""


def traced(model: nn.Module, shape: Shape) -> tuple[torch.export.ExportedProgram, Shape]:
    """Trace the model with these sizes or, where it cannot have any size, with the given one, and
    compare the program with it.

    Raises RunFailed if torch cannot export it.
    """
    for tried in [shape, dataclasses.replace(shape, any_size=False)][: 1 + shape.any_size]:
        try:
            program = trace(model, tried)
            check_equal(program.module(), model, tried.photos())
            return program, tried
        except UserError:  # the model's own (photos too small for it), or the comparison's
            raise
        except Exception as error:  # the exporter raises many kinds of errors, with long texts
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise RunFailed(f"export: torch cannot export this model ({first})")


@torch.no_grad()
def trace(model: nn.Module, shape: Shape) -> torch.export.ExportedProgram:
    free = {} if shape.batch_size else {0: torch.export.Dim.DYNAMIC}
    if shape.any_size:
        free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    # not strict: ops.exported.exporting() depends on it
    return torch.export.export(
        model, (shape.photos()[0],), dynamic_shapes=(free or None,), strict=False
    )


@torch.no_grad()
def check_equal(program: Any, model: nn.Module, photos: Sequence[Tensor]) -> None:
    """Raise RunFailed unless the program's outputs equal the model's on these photos."""
    for pixels in photos:
        for output, expected in zip(program(pixels), model(pixels), strict=True):
            difference = (output - expected).abs().max().item()
            if not difference <= TOLERANCE:
                raise RunFailed(
                    f"export: the exported program differs from the model by {difference:.2g};"
                    " nothing was written"
                )


def describe(loaded: LoadedRun, shape: Shape, stop_at: float | None) -> dict[str, Any]:
    """Describe the program for its callers: input, outputs, classes, preparation."""
    config, several = loaded.config, loaded.metadata.multi_label
    outputs = {
        "beliefs": "class probabilities after each glimpse (photo, T, class); the last one is the"
        " answer",
        "locations": "(x, y) in [-1, 1] of each glimpse (photo, T, level, 2); (-1, -1) is the top"
        " left corner",
    }
    if several:
        outputs["beliefs"] = (
            "the probability of each class after each glimpse (photo, T, class), each from 0 to 1;"
            " a photo has the classes whose last one reaches their threshold"
        )
    if stop_at is not None:
        enough = "every class had a margin" if several else "a class had a probability"
        outputs["glimpses"] = (
            f"how many glimpses were needed until {enough} of {stop_at} (photo);"
            " later beliefs repeat the one at which it stopped, later locations do not count"
        )
    return {
        "input": {
            "name": "pixels",
            "dtype": "uint8",
            "shape": shape.describe(),
            "is": f"raw pixels, 0 to 255, {'RGB' if shape.channels == 3 else 'grayscale'};"
            " normalised inside. All photos of a batch have one size",
        },
        "outputs": [{"name": name, "is": text} for name, text in outputs.items()],
        "prepare": {
            "short_side": config.data.short_side,
            "photo_size": config.data.photo_size,
            "how": preparation(loaded, shape),
        },
        "classes": list(loaded.classes),
        **(
            {"multi_label": True, "thresholds": loaded.model.thresholds_N.tolist()}
            if several
            else {}
        ),
        "weights": str(loaded.path),
        "torch": torch.__version__,
        "config": to_dict(config),
    }


def preparation(loaded: LoadedRun, shape: Shape) -> str:
    """Say how a photo is prepared for the program."""
    data = loaded.config.data
    steps = ["turn the photo upright (EXIF)"]
    steps.append("convert it to RGB" if shape.channels == 3 else "convert it to grayscale")
    if data.photo_size is not None:
        height, width = data.photo_size
        steps.append(f"resize it to height {height}, width {width} (antialiased bilinear)")
    elif data.short_side is not None:
        steps.append(
            f"if its shorter side is longer than {data.short_side} pixels, reduce it to that, the"
            " shape kept (antialiased bilinear)"
        )
    if not shape.any_size and data.photo_size is None:
        height, width = shape.size
        steps.append(f"the program takes only height {height}, width {width}")
    return "; ".join(steps)

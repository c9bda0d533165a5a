"""ONNX with weights (and, if static, activations) of 8 bits, and the accuracy that it loses.

dynamic: activations get their range while the program runs. static: their ranges are measured once,
on photos of the validation split, so that it runs faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stacked_ram.config.yaml import replace_fields
from stacked_ram.data.dataset import open_dataset
from stacked_ram.data.loader import opened_loader
from stacked_ram.runs.checkpoint import LoadedRun
from stacked_ram.runs.onnx import session, without_logs
from stacked_ram.runtime.errors import UserError

KINDS = ("dynamic", "static")
CALIBRATION = 64  # photos of the validation split that give the ranges of activations
MEASURED = 500  # photos of the test split, at most, on which the accuracy is measured
QUANTISED = ["Conv", "MatMul", "Gemm"]


def write_int8(path: Path, kinds: Sequence[str], loaded: LoadedRun) -> dict[str, Any]:
    """Write MODEL.int8-KIND.onnx beside an ONNX file for each kind; return what each loses."""
    # late: these packages are an extra
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self.photos = split_photos(loaded, "valid", CALIBRATION)

        def get_next(self) -> dict[str, Any] | None:
            pixels, _ = next(self.photos, (None, None))
            return None if pixels is None else {"pixels": pixels.numpy()}

    ready = path.with_name(".ready.onnx")
    files = {kind: path.with_name(f"{path.stem}.int8-{kind}.onnx") for kind in kinds}
    with without_logs():
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        for kind, file in files.items():
            if kind == "dynamic":
                quantize_dynamic(
                    ready, file, op_types_to_quantize=QUANTISED, weight_type=QuantType.QUInt8
                )
            else:
                quantize_static(
                    ready, file, Photos(), op_types_to_quantize=QUANTISED, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                )  # fmt: skip
    ready.unlink()
    return measure({"float32": path, **files}, loaded)


def measure(files: dict[str, Path], loaded: LoadedRun) -> dict[str, Any]:
    """Measure each file's accuracy on the test split, and how often it answers as the first."""
    programs = {kind: session(file) for kind, file in files.items()}
    right = dict.fromkeys(files, 0)
    same = dict.fromkeys(files, 0)
    count = 0
    for pixels, label in split_photos(loaded, "test", MEASURED):
        answers = {kind: int(run(pixels)[0][0, -1].argmax()) for kind, run in programs.items()}
        for kind, answer in answers.items():
            right[kind] += answer == label
            same[kind] += answer == answers["float32"]
        count += 1
    return {
        "measured_on": f"{count} photos of the test split of {loaded.config.data.dataset}",
        **{
            kind: {
                "file": file.name,
                "bytes": file.stat().st_size,
                "accuracy": right[kind] / count,
                "accuracy_lost": (right["float32"] - right[kind]) / count,
                "answers_as_float32": same[kind] / count,
            }
            for kind, file in files.items()
        },
    }


def split_photos(loaded: LoadedRun, split: str, most: int) -> Iterator[tuple[Tensor, int]]:
    """Iterate over photos of a split, evenly spread over it: pixels 1 x C x H x W, and the label.

    Raises UserError if the data set is not there, or has no such split.
    """
    config = replace_fields(loaded.config, {"limit_photos": most, "workers": 0}, "--int8")
    dataset = open_dataset(config.data, split)
    loaded.check_fits(dataset)
    with opened_loader(dataset, config) as loader:
        for batch in loader:
            if not isinstance(batch.pixels_BCHW, Tensor):
                raise UserError("--int8: not for photos that are read by region")
            rows = zip(batch.pixels_BCHW, batch.sizes_B2.tolist(), batch.labels_B, strict=True)
            for pixels, (height, width), label in rows:
                yield pixels[None, :, :height, :width].contiguous(), int(label)

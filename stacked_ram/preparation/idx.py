"""Read the IDX files of the MNIST family, gzipped or not. Format: yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from stacked_ram.runtime.errors import UserError

PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
MAX_BYTES = 4 << 30  # most bytes of pixels; no file of this family comes near
_NAME = re.compile(rf"({'|'.join(PARTS)})[-.]idx[13]-ubyte(?:\.gz)?")
UNSIGNED_BYTE = 0x08  # the IDX type that the family uses


def find_idx(folder: Path) -> dict[str, Path]:
    """Find the four files of the MNIST family in `folder` or below it; return part -> file.

    Accepts `train-images-idx3-ubyte` and the like, also with a dot instead of the second dash, and
    with .gz. If there are several, the one nearest to `folder` is used.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*ubyte*"), key=lambda file: (len(file.parts), file)):
        match = _NAME.fullmatch(file.name)
        if match and file.is_file():
            found.setdefault(match[1], file)
    return found


def read_idx(path: Path) -> np.ndarray:
    """Read the array of an IDX file, uint8.

    Raises UserError if the file is damaged, truncated or of another type.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTE or not head[3]:
                raise UserError(f"{path}: not an IDX file of bytes; download it again")
            lengths = file.read(4 * head[3])
            shape = struct.unpack(f">{len(lengths) // 4}I", lengths[: len(lengths) // 4 * 4])
            expected = math.prod(shape)
            if len(shape) != head[3] or expected > MAX_BYTES:
                raise UserError(f"{path}: its header is invalid; download it again")
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from error
    if len(content) != expected:
        raise UserError(
            f"{path}: {len(content):,} bytes of pixels where its header says {expected:,}; "
            "download it again"
        )
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)

"""Small tiled pyramidal TIFFs for tests, and ways to damage them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

TAGS = {
    "width": 256, "height": 257, "vertical_resolution": 283, "tile_offsets": 324,
    "tile_sizes": 325,
}  # fmt: skip


def vips():
    """Return pyvips, or skip the test."""
    return pytest.importorskip("pyvips", reason="pip install 'pyvips[binary]' for large photos")


def smooth_pixels(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Return a texture without edges, H x W x C, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [
        sum(np.sin(rng.uniform(-0.04, 0.04) * x + rng.uniform(-0.04, 0.04) * y) for _ in range(6))
        for _ in range(channels)
    ]
    pixels_HWC = np.stack(planes, 2)
    return np.clip(128 + 30 * pixels_HWC, 0, 255).astype(np.uint8)


def write_pyramid(path: Path, pixels_HWC: np.ndarray, **options) -> Path:
    """Write a TIFF with tiles of 64 x 64, each level half the size of the last."""
    how = {"tile": True, "pyramid": True, "tile_width": 64, "tile_height": 64} | options
    vips().Image.new_from_array(pixels_HWC).tiffsave(str(path), **how)
    return path


def entries(content: bytes) -> list[dict[int, tuple[int, int, int]]]:
    """The directories of a classic little-endian TIFF: tag -> (place of its value, type, count)."""
    found = []
    place = struct.unpack_from("<I", content, 4)[0]
    while place:
        count = struct.unpack_from("<H", content, place)[0]
        directory = {}
        for number in range(count):
            at = place + 2 + 12 * number
            tag, kind, values = struct.unpack_from("<HHI", content, at)
            directory[tag] = (at + 8, kind, values)
        found.append(directory)
        place = struct.unpack_from("<I", content, place + 2 + 12 * count)[0]
    return found


def lose_tiles(path: Path, level: int = 0) -> None:
    """Move all tiles of a level behind the end of the file, as if it had been cut off."""
    content = bytearray(path.read_bytes())
    place, _, count = entries(bytes(content))[level][TAGS["tile_offsets"]]
    table = struct.unpack_from("<I", content, place)[0] if count > 1 else place
    for number in range(count):
        struct.pack_into("<I", content, table + 4 * number, len(content) + 1000)
    path.write_bytes(content)


def cut_tile(path: Path) -> None:
    """Let half of the first tile lie behind the end of the file."""
    content = bytearray(path.read_bytes())
    first = entries(bytes(content))[0]
    offset_at, size_at = (
        struct.unpack_from("<I", content, first[TAGS[name]][0])[0]
        for name in ("tile_offsets", "tile_sizes")
    )
    start = struct.unpack_from("<I", content, offset_at)[0]
    short = first[TAGS["tile_sizes"]][1] == 3
    size = struct.unpack_from("<H" if short else "<I", content, size_at)[0]
    struct.pack_into("<I", content, offset_at, len(content))
    path.write_bytes(content + content[start : start + size // 2])


def add_harmless_tag(path: Path) -> None:
    """Add a private tag to every directory, out of order and with an unterminated text. Both are
    harmless, but libtiff warns."""
    content = bytearray(path.read_bytes())
    for directory in entries(bytes(content)):
        place = directory[TAGS["vertical_resolution"]][0] - 8
        struct.pack_into("<HHI4s", content, place, 65000, 2, 4, b"abcd")
    path.write_bytes(content)


def claim_size(path: Path, side: int) -> None:
    """Claim in the header that the first picture has side x side pixels."""
    content = bytearray(path.read_bytes())
    for name in ("width", "height"):
        place = entries(bytes(content))[0][TAGS[name]][0]
        struct.pack_into("<HHII", content, place - 8, TAGS[name], 4, 1, side)
    path.write_bytes(content)

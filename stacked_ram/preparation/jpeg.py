"""Find damage in the data of a JPEG, which has no checksum.

libjpeg decodes on after an error in the data, and only warns. Pillow drops the warnings. OpenCV
has the same decoder, which prints the first warning of each photo to the standard error of the
process.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

# In compressed data 0xff is followed by 0 or a restart marker; before a marker it may repeat.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_END, _START_OF_SCAN = 0xD9, 0xDA
_SEQUENTIAL = (0xC0, 0xC1)
# The detail scans of a progressive JPEG join blocks without detail, so no coder writes that many
# zeros. In its other scans, and in other JPEGs, they may be a white page.
_ZEROS = bytes(1024)
_WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Inconsistent progression")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class JpegOutline:
    """The scans of the (first) picture of a JPEG file.

    Attributes:
        scans: their number.
        has_end: whether the picture reaches its end marker. A file whose second half is zeros
            decodes without an error, but has none.
        zeros: whether zeros were written over the data.
    """

    scans: int
    has_end: bool
    zeros: bool = False


def outline_of(content: bytes) -> JpegOutline:
    """Follow the markers of a JPEG file, without decoding it.

    Content after the end (a video, another picture) and a preview inside the header are ignored.
    """
    scans, details, start, zeros = 0, False, 0, False
    for kind, begin, end in _segments(content):
        zeros = zeros or (details and content.find(_ZEROS, start, begin) >= 0)
        details = kind == _START_OF_SCAN and content[end - 3 : end - 2] not in (b"\0", b"")
        scans += kind == _START_OF_SCAN
        start = end
        if kind == _END:
            return JpegOutline(scans, True, zeros)
    return JpegOutline(scans, False, zeros)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterate over the segments after the first marker, as (kind, begin, end)."""
    place = 2
    while place + 2 <= len(content) and (marker := _MARKER.search(content, place)) is not None:
        kind, end = marker[0][1], marker.end()
        if kind != _END:
            # Every other marker begins a segment, which starts with its length. After the segment
            # that begins a scan comes compressed data, where the search finds no marker.
            end += int.from_bytes(content[end : end + 2], "big")
        yield kind, marker.start(), end
        place = end


def decoder_warning(content: bytes) -> str:
    """Return libjpeg's first warning about the data of a JPEG; "" if it has none."""
    return _warning(_data_only(content))


@cache
def warnings_pass() -> bool:
    """Return whether this build of OpenCV passes on the warnings of libjpeg."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    whole = buffer.getvalue()
    return not decoder_warning(whole) and bool(decoder_warning(whole[:-400] + whole[-2:]))


def _data_only(content: bytes) -> bytes:
    """Return a JPEG without metadata, whose harmless oddities could hide a warning about data."""
    parts, sequential = [content[:2]], False
    for kind, begin, end in _segments(content):
        sequential = sequential or kind in _SEQUENTIAL
        if kind == _START_OF_SCAN and sequential:  # some cameras write nonsense there
            return b"".join([*parts, content[begin : end - 3], b"\0\x3f\0", content[end:]])
        if kind == _START_OF_SCAN:
            return b"".join([*parts, content[begin:]])
        if not 0xE0 <= kind <= 0xEF and kind != 0xFE:  # application data, a comment
            parts.append(content[begin:end])
    return content


def _warning(content: bytes) -> str:
    import cv2

    with _LOCK, _captured_stderr() as captured:
        # An eighth of the size in grey: all data is decoded, and little else is done.
        try:
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        except cv2.error as error:  # beyond OpenCV's own limits, which Pillow does not have
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError from error
    lines = b"".join(captured).splitlines(keepends=True)
    found = [line for line in lines if line.startswith(_WARNINGS)]
    if others := [line for line in lines if line not in found]:
        os.write(2, b"".join(others))  # from another thread
    return found[0].decode("ascii", "replace").strip() if found else ""


@contextmanager
def _captured_stderr() -> Iterator[list[bytes]]:
    """Collect what this process writes to its standard error, also in C."""
    captured: list[bytes] = []
    reader, writer = _pipe()
    before = os.dup(2)
    os.dup2(writer, 2)
    try:
        yield captured
    finally:
        os.dup2(before, 2)
        os.close(before)
        try:
            while piece := os.read(reader, 65536):
                captured.append(piece)
        except BlockingIOError:
            pass


@cache
def _pipe() -> tuple[int, int]:
    """Return a pipe that never makes a reader or a writer wait."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends

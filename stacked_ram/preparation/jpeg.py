"""Find damage in the data of a JPEG, which has no checksum.

libjpeg decodes on after an error in the data, and only warns. Pillow drops the warnings. OpenCV
has the same decoder, which prints the first warning of each photo to the standard error of the
process. Some damage without a warning can be seen in the brightness of the blocks.
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
_QUANTISATION, _SEQUENTIAL = 0xDB, (0xC0, 0xC1)
_FRAMES = (*_SEQUENTIAL, 0xC2)
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
        late_tables: whether there are quantisation tables after the first scan.
        segments: those up to its end, as (kind of marker, begin, end).
    """

    scans: int
    has_end: bool
    zeros: bool
    late_tables: bool
    segments: tuple[tuple[int, int, int], ...]


def outline_of(content: bytes) -> JpegOutline:
    """Follow the markers of a JPEG file, without decoding it.

    Content after the end (a video, another picture) and a preview inside the header are ignored.
    """
    scans, details, start, zeros, late_tables = 0, False, 0, False, False
    segments = []
    for segment in _segments(content):
        segments.append(segment)
        kind, begin, end = segment
        zeros = zeros or (details and content.find(_ZEROS, start, begin) >= 0)
        details = kind == _START_OF_SCAN and content[end - 3 : end - 2] not in (b"\0", b"")
        scans += kind == _START_OF_SCAN
        late_tables = late_tables or (scans > 0 and kind == _QUANTISATION)
        start = end
        if kind == _END:
            break
    has_end = bool(segments) and segments[-1][0] == _END
    return JpegOutline(scans, has_end, zeros, late_tables, tuple(segments))


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


def data_fault(content: bytes, outline: JpegOutline) -> str:
    """Return what is wrong with the data of a JPEG, as far as it can be seen; "" if nothing is.

    This is libjpeg's first warning. A changed bit that libjpeg does not notice often shifts the
    brightness of all blocks after it, because each is stored as its difference from the one before.
    Then some become brighter than white or darker than black, as no encoder writes them.
    """
    import cv2

    data, limits = _prepared(content, outline)
    with _LOCK, _captured_stderr() as captured:
        # An eighth of the size in grey: all data is decoded, and little else is done.
        try:
            means = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        except cv2.error as error:  # beyond OpenCV's own limits, which Pillow does not have
            if error.code == cv2.Error.StsNoMem:
                raise MemoryError from error
            means = None
    lines = b"".join(captured).splitlines(keepends=True)
    found = [line for line in lines if line.startswith(_WARNINGS)]
    if others := [line for line in lines if line not in found]:
        os.write(2, b"".join(others))  # from another thread
    if found:
        return f"the JPEG decoder warns: {found[0].decode('ascii', 'replace').strip()}"
    if means is None or limits is None or outline.late_tables:
        return ""
    if not limits[0] <= means.min() <= means.max() <= limits[1]:
        return "blocks of the JPEG are darker than black or brighter than white"
    return ""


@cache
def warnings_pass() -> bool:
    """Return whether this build of OpenCV passes on the warnings of libjpeg."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    whole = buffer.getvalue()
    broken = whole[:-400] + whole[-2:]
    outline = outline_of(whole)
    return not data_fault(whole, outline) and bool(data_fault(broken, outline))


def _prepared(content: bytes, outline: JpegOutline) -> tuple[bytes, tuple[float, float] | None]:
    """Prepare a JPEG for the check of its data.

    Metadata is removed, since warnings about its harmless oddities would hide those about data. The
    quantisation tables are changed so that pictures have a quarter of their contrast, and values
    beyond black and white can be seen.

    Returns:
        The JPEG, and the (lowest, highest) mean of a block that an encoder may have written, None
        if this is not known.
    """
    parts: list[bytes | memoryview] = [content[:2]]
    sequential, table = False, None
    steps: dict[int | None, tuple[int, int]] = {}
    for kind, begin, end in outline.segments:
        if kind == _START_OF_SCAN:
            if sequential:  # some cameras write nonsense at the end of this segment
                parts += [content[begin : end - 3], b"\0\x3f\0"]
                begin = end
            data = b"".join([*parts, memoryview(content)[begin:]])
            return data, _limits(steps[table]) if table in steps else None
        segment = content[begin:end]
        if kind == _QUANTISATION:
            segment = _with_less_contrast(segment, steps)
        elif kind in _FRAMES and len(segment) >= 13 and segment[9] in (1, 3):
            sequential = kind in _SEQUENTIAL
            table = segment[12] if segment[10] != ord("R") else None  # of the brightness
        if not 0xE0 <= kind <= 0xEF and kind != 0xFE:  # application data, a comment
            parts.append(segment)
    return content, None


def _with_less_contrast(segment: bytes, steps: dict[int | None, tuple[int, int]]) -> bytes:
    """Divide the steps of the blocks' means by 4, and remove all other detail.

    Args:
        steps: gets the step of each table before and after.
    """
    result, place = segment[:4], 4
    while place < len(segment):
        size = 2 if segment[place] >> 4 else 1
        before = int.from_bytes(segment[place + 1 : place + 1 + size], "big")
        after = max(1, before // 4)
        steps[segment[place] & 15] = before, after
        result += segment[place : place + 1] + after.to_bytes(size, "big") + bytes(63 * size)
        place += 1 + 64 * size
    return result


def _limits(step: tuple[int, int]) -> tuple[float, float]:
    before, after = step
    # One step is an eighth of this many grey levels; encoders may be off by a step or two.
    most = (127.5 + 16 + before / 4) * after / max(before, 1)
    return 127.5 - most, 127.5 + most


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

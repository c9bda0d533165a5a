"""How a file is to be checked, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NO_FAULT = frozenset({"reduced", "reencoded"})  # repairs that --strict lets pass


@dataclass(frozen=True)
class CheckPlan:
    """How to check: what decides the stored bytes, and where they go.

    Attributes:
        folder: content-addressed store, a folder of the working folder.
        short_side: pixels; 0 keeps the size.
        quality: of JPEG.
        max_pixels: more than this is refused.
        keep_large: store TIFFs of tiles that training reads by region as they are, of any
            size.
    """

    folder: Path
    short_side: int
    quality: int
    max_pixels: int
    keep_large: bool = False


@dataclass(frozen=True)
class Checked:
    """What became of one file. Where `problem` is not empty it was quarantined, and the fields
    after `preview` say nothing.

    Attributes:
        problem, detail: the word for the counts, and a line for the reader.
        source_sha256: of the file's bytes, "" where they could not be read.
        preview: small JPEG for the report, of a quarantined photo where any of it can be seen,
            and of one that is not to be decoded again.
        file: of the stored photo, relative to the plan's folder.
        stored_bytes: its size.
        raw_width, raw_height: in pixels, before rotation; orientation: of EXIF, 1 to 8.
    """

    problem: str = ""
    detail: str = ""
    source_sha256: str = ""
    preview: bytes | None = None
    file: str = ""
    stored_bytes: int = 0
    sha256: str = ""
    raw_width: int = 0
    raw_height: int = 0
    orientation: int = 1
    width: int = 0
    height: int = 0
    repairs: tuple[str, ...] = ()
    phash: int = 0
    tiny: bytes = b""
    channel_sums: tuple[int, ...] = ()
    channel_squares: tuple[int, ...] = ()


class Refused(Exception):
    """The photo goes to quarantine: the problem's word and a line for the reader."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail

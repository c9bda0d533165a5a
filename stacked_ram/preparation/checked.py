"""The settings and the result of checking a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stacked_ram.preparation.perceptual import Fingerprint

NO_FAULT = frozenset({"reduced", "reencoded"})  # repairs that --strict lets pass
MACHINE = "machine"  # the `problem` of a photo that the machine could not check
_NO_FINGERPRINT = Fingerprint(0, b"", (), ())


@dataclass(frozen=True)
class CheckPlan:
    """The settings of a check, which decide the stored bytes and their folder.

    Attributes:
        folder: where photos are stored, named by the hash of their source.
        short_side: pixels; 0 keeps the size.
        quality: of JPEG, 1 to 100.
        max_pixels: photos with more pixels are refused.
        keep_large: whether to store unchanged the tiled TIFFs that training reads by region.
        keep_damaged: whether to keep photos whose data are damaged, but can be decoded.
        white: the value of white in 16-bit photos that declare none; 0: 65535.
        seconds: of processor time that a worker process may spend on a photo.
        kept: file with the checks of an earlier data set, whose photos are not decoded again.
    """

    folder: Path
    short_side: int
    quality: int
    max_pixels: int
    keep_large: bool = False
    keep_damaged: bool = False
    white: int = 0
    seconds: float = 120.0
    kept: Path | None = None


@dataclass(frozen=True)
class Checked:
    """The result of checking a file. If `problem` is not empty, the file is quarantined, and the
    fields after `preview` are not set.

    Attributes:
        problem: the word under which it is counted (MACHINE: not checked, and never recorded);
            detail: an explanation of one line.
        source_sha256: SHA-256 of the file, "" if it could not be read.
        preview: small JPEG for the report, of a quarantined photo that can be read in part, or of
            a stored photo that is too large to decode again.
        file: of the stored photo, relative to the plan's folder.
        stored_bytes: its size.
        raw_width, raw_height: in pixels, before rotation; orientation: of EXIF, 1 to 8.
        top: the largest value of a 16-bit photo that declares no white, otherwise 0;
            white: the plan's, if `top` is not 0.
        reused: whether this is the check of an earlier data set (see `CheckPlan.kept`).
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
    fingerprint: Fingerprint = _NO_FINGERPRINT
    top: int = 0
    white: int = 0
    reused: bool = False


class MachineFault(Exception):
    """Raised if the machine fails (permission, device, missing file, memory), not the photo.

    The photo has no result, so that the next run checks it again.
    """


class Refused(Exception):
    """Raised to quarantine a photo, with the word for the problem and one line of detail."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail

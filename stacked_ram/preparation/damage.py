"""Find out from the bytes of a photo whether its end is missing, and why it cannot be decoded."""

from __future__ import annotations

from stacked_ram.images.formats import has_heif, is_heif
from stacked_ram.preparation.jpeg import outline_of

NEEDS_HEIF = "needs_pillow_heif"  # the `problem` of a HEIC photo that cannot be read yet
HEIF_INSTALL = "HEIC is read with pillow-heif: pip install -r requirements-heic.txt"


def ends_early(error: Exception, content: bytes) -> bool:
    """Return whether the decoder raised this error because the end of the photo is missing."""
    words = str(error).lower()
    if content[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in content[-16:]:
        return True
    return any(word in words for word in ("truncated", "unexpected end", "not enough", "eof"))


def unidentified(content: bytes) -> tuple[str, str]:
    """Return (problem, detail) for bytes that Pillow does not recognise as a picture."""
    starts = {
        b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"II*\x00": "TIFF",
        b"MM\x00*": "TIFF",
    }  # fmt: skip
    for start, name in starts.items():
        if content.startswith(start):
            if len(content) < 512 or (name == "JPEG" and not outline_of(content).has_end):
                return "truncated", f"begins as {name} and ends after {len(content)} bytes"
            return "unreadable", f"begins as {name}, but its header makes no sense"
    if is_heif(content):
        if not has_heif():
            return NEEDS_HEIF, HEIF_INSTALL
        if _boxes_end(content) > len(content):
            return "truncated", "the end of the HEIC is missing"
        return "unreadable", "begins as HEIC, but its header makes no sense"
    return "not_an_image", "none of the known photo formats"


def _boxes_end(content: bytes) -> int:
    """Return where the boxes of a HEIC end, by the sizes that they declare."""
    place = 0
    while place + 16 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        if size == 1:  # the size is in the next 8 bytes
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        if size < 8:  # 0: up to the end of the file
            return len(content)
        place += size
    return place

"""Find out from the bytes of a photo whether its end is missing, and why it cannot be decoded."""

from __future__ import annotations

from stacked_ram.preparation.jpeg import outline_of


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
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "not_an_image", "HEIC cannot be read here: convert it to JPEG"
    return "not_an_image", "none of the known photo formats"

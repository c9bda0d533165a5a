"""Make names that are valid on every file system."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

# Control characters, those that Windows forbids, and those that UTF-8 cannot represent.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u2028\u2029\ud800-\udfff\ufffd]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}


def safe_name(text: str, *, max_bytes: int = 150) -> str:
    """Make a valid name for a file or folder, as close to `text` as possible and never empty.

    Letters of any script and spaces are kept. The result has no separator, no control character,
    no leading dot and no trailing dot or space. It is not a device name of Windows, and has at most
    `max_bytes` bytes in UTF-8.
    """
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip().strip(".").strip()
    name = name.encode()[:max_bytes].decode(errors="ignore").rstrip(". ")
    if not name:
        return "_"
    return f"_{name}" if name.split(".")[0].strip().lower() in _RESERVED else name


def folder_names(classes: Iterable[str]) -> dict[str, str]:
    """Return class name -> folder name. All differ, even if case is ignored.

    The classes come in the order of their folders' names, which is the order in which
    torchvision's ImageFolder numbers them.
    """
    taken: set[str] = set()
    folders: dict[str, str] = {}
    for class_name in sorted(set(classes)):
        wanted = folder = safe_name(class_name)
        number = 1
        while folder.casefold() in taken:
            number += 1
            folder = f"{wanted}-{number}"
        taken.add(folder.casefold())
        folders[class_name] = folder
    return dict(sorted(folders.items(), key=lambda pair: pair[1]))


def other_spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Return name -> the commonest name that differs from it only in case or Unicode form.

    Args:
        counts: name -> how often it is used.
    """
    names: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        folded = unicodedata.normalize("NFC", name).casefold()
        names.setdefault(unicodedata.normalize("NFC", folded), []).append(name)
    return {other: same[0] for same in names.values() for other in same[1:]}


def path_text(path: str | Path) -> str:
    """Return a path as text that is valid UTF-8, whatever bytes its name consists of."""
    return printable(as_utf8(os.fspath(path)).replace(os.sep, "/"))


def as_utf8(text: str) -> str:
    """Return the text with the bytes of a file's name that are not UTF-8 spelled out (`\\xff`)."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return the text with control characters spelled out (`\\x0d`).

    They would break the lines of a table, or control the terminal that shows them.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)

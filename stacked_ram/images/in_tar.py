"""Photos inside tars, which are read without unpacking them."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from stacked_ram.images.opening import photo_endings
from stacked_ram.runtime.errors import UserError


class PhotoInTar(str):
    """The name of a photo in a tar, TAR/MEMBER, and where it lies."""

    __slots__ = ("length", "offset", "tar")
    tar: str
    offset: int
    """Where its file begins in the tar."""
    length: int
    """Bytes of its file."""

    def content(self) -> bytes:
        """Read its file. Raises UserError, which names it, if that fails."""
        try:
            with open(self.tar, "rb") as file:
                return os.pread(file.fileno(), self.length, self.offset)
        except OSError as error:
            raise UserError(f"{self}: cannot be read ({error.strerror})") from None


def photos_in_tar(path: str | Path) -> Iterator[PhotoInTar]:
    """Iterate over the photos of a tar that is not compressed, in its order.

    Raises UserError if it cannot be read.
    """
    endings = photo_endings()
    try:
        with tarfile.open(path, "r:") as opened:
            for entry in opened:
                if entry.isreg() and os.path.splitext(entry.name)[1].lower() in endings:
                    photo = PhotoInTar(f"{path}/{entry.name}")
                    photo.tar, photo.offset = str(path), entry.offset_data
                    photo.length = entry.size
                    yield photo
                opened.members.clear()  # type: ignore[attr-defined]  # else it keeps all that it has passed
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a tar ({error})") from None

"""Check a photo by what its format can tell about damage.

Decoders fill what they cannot read with grey, repeat the last row, or show noise, and say nothing.

    PNG           the CRC of every chunk
    JPEG          the warnings of libjpeg, the range of its values, misplaced zeros
    GIF           the blocks of the first picture
    TIFF          the checksums of Deflate; JPEG as above

The other formats have no checksum; their decoders check lengths.
"""

from __future__ import annotations

import zlib

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from stacked_ram.preparation.checked import Refused
from stacked_ram.preparation.jpeg import JpegOutline, data_fault, outline_of

_COMPRESSION, _STRIPS, _TILES, _JPEG_TABLES = 259, (273, 279), (324, 325), 347  # TIFF tags
_DEFLATE, _JPEG = (8, 32946), 7
_PIECE = 2**20


def check_integrity(image: Image.Image, content: bytes, outline: JpegOutline | None) -> None:
    """Check the content of a photo that was opened, and perhaps not decoded yet.

    Args:
        outline: of a JPEG.

    Raises:
        Refused: the photo is damaged or truncated.
    """
    if outline is not None:
        if not outline.has_end:
            raise Refused("truncated", "the end of the JPEG is missing")
        if outline.zeros:
            raise Refused("damaged", "zeros in the middle of the JPEG")
        if fault := data_fault(content, outline):
            raise Refused("damaged", fault)
    elif image.format == "PNG":
        _check_png(content)
    elif image.format == "GIF":
        _check_gif(content)
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, content)


def _check_png(content: bytes) -> None:
    view, place = memoryview(content), 8
    while place + 12 <= len(content):
        length = int.from_bytes(view[place : place + 4], "big")
        kind, end = bytes(view[place + 4 : place + 8]), place + 12 + length
        if end > len(content):
            break
        if zlib.crc32(view[place + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            name = kind.decode("ascii", "replace")
            raise Refused("damaged", f"wrong checksum of the chunk {name!r} at byte {place}")
        if kind == b"IEND":
            return
        place = end
    raise Refused("truncated", "the end of the PNG is missing")


def _check_gif(content: bytes) -> None:
    """Follow the blocks to the end of the first picture; later ones are not used."""

    def table(flags: int) -> int:
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    def after_data(place: int) -> int:
        while content[place]:
            place += content[place] + 1
        return place + 1

    try:
        place = 13 + table(content[10])
        while True:
            kind = content[place]
            if kind == 0x21:  # an extension
                place = after_data(place + 2)
            elif kind == 0x2C:  # a picture
                after_data(place + 10 + table(content[place + 9]) + 1)
                return
            elif kind == 0:  # some programs leave zeros between blocks
                place += 1
            else:
                raise Refused("damaged", f"no GIF block begins at byte {place}")
    except IndexError:
        raise Refused("truncated", "the first picture of the GIF has no end") from None


def _check_tiff(image: TiffImageFile, content: bytes) -> None:
    """Check each strip or tile of the first picture."""
    tags = image.tag_v2
    compression, tables = tags.get(_COMPRESSION), tags.get(_JPEG_TABLES, b"")
    if compression != _JPEG and compression not in _DEFLATE:
        return
    starts, sizes = (tags.get(tag, ()) for tag in (_TILES if _TILES[0] in tags else _STRIPS))
    for start, size in zip(starts, sizes, strict=False):
        if start + size > len(content):
            continue  # the decoder reports it
        strip = content[start : start + size]
        if compression == _JPEG:
            jpeg = tables[:-2] + strip[2:] if tables else strip
            fault = data_fault(jpeg, outline_of(jpeg))
        else:
            fault = "" if _inflates(strip) else "wrong checksum"
        if fault:
            raise Refused("damaged", f"the TIFF data at byte {start}: {fault}")


def _inflates(data: bytes) -> bool:
    """Return whether a zlib stream is whole. It may be too large to inflate at once."""
    stream = zlib.decompressobj()
    try:
        while not stream.eof and data:
            stream.decompress(data, _PIECE)
            data = stream.unconsumed_tail
        while not stream.eof and stream.decompress(b"", _PIECE):
            pass
    except zlib.error:
        return False
    return stream.eof

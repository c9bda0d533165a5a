"""Check one photo: decode it in full, repair or refuse it, store it. Runs in worker processes.

Each kind of fault is reported by one word and always treated the same way:

    repaired to 8-bit upright sRGB            quarantined
    exif_rotation  turned upright             unreadable    cannot be read or decoded
    cmyk           to RGB, by its profile     truncated     its end is missing
    palette        to RGB                     empty         no bytes
    transparency   laid on white              damaged       its data are wrong (--keep-damaged)
    grayscale      to RGB                     not_an_image  none of the known formats
    16_bit         scaled to 8 bits           too_many_pixels  refused before any pixel is made
    animated       the first picture kept     too_small     a side of fewer than 4 pixels
    colour_profile to sRGB                    too_large     a file above half a gigabyte
    colour_space   other modes to RGB         too_slow      takes too long to decode
    wrong_suffix   stored under the right one  needs_pillow_heif  HEIC, without the package

A 16-bit photo that ends up with fewer than 32 grey levels has `few_grey_levels` (see
stacked_ram.preparation.depth). `reduced` (to the short side) and `reencoded` (a format other than
JPEG and PNG) are reported too, but they are not faults. With --keep-size, a tiled TIFF that
training reads by region is stored unchanged, whatever its size (stacked_ram.preparation.large).
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from stacked_ram.images.colour import to_srgb
from stacked_ram.images.formats import SUFFIXES, formats, pixel_limit, size_in_file
from stacked_ram.preparation import large
from stacked_ram.preparation.checked import MACHINE, Checked, CheckPlan, MachineFault, Refused
from stacked_ram.preparation.damage import ends_early, unidentified
from stacked_ram.preparation.depth import FULL, depth_of, has_few_levels, is_16_bit, scaled_colour
from stacked_ram.preparation.encoding import encode_image, small_jpeg, thumbnail
from stacked_ram.preparation.integrity import check_integrity
from stacked_ram.preparation.jpeg import outline_of
from stacked_ram.preparation.perceptual import fingerprint
from stacked_ram.preparation.time_limit import limited
from stacked_ram.preparation.workdir import write_bytes
from stacked_ram.runtime.errors import UserError

MAX_FILE_BYTES = 512 * 2**20
MIN_SIDE = 4
MAX_SIDE = 65_500  # pixels of a JPEG, as which all but unchanged PNG files are stored
MAX_SCANS = 500  # of a JPEG; each takes as long as a photo to decode
_TURNS = {  # the operation that undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_photo(source: Path, plan: CheckPlan) -> Checked:
    """Decode a file in full, repair what can be repaired, and store it under `plan.folder`.

    A file that cannot be used is returned as a `Checked` with a problem; no error is raised. If the
    machine fails (no permission, too little memory), the problem is MACHINE.

    Raises:
        OSError: the photo could not be stored (for example because the disk is full).
    """
    try:
        return _check(source, plan)
    except MachineFault as fault:
        return Checked(MACHINE, f"{source}: {fault}")
    except MemoryError:
        return Checked(MACHINE, f"{source}: too little memory")


def _check(source: Path, plan: CheckPlan) -> Checked:
    try:
        if plan.keep_large and (tiled := large.tiled_header(source)) and tiled.is_large:
            if large.has_vips():
                return _store_large(source, tiled, plan)
            if tiled.pixels > plan.max_pixels:
                detail = _above(f"{tiled.width} x {tiled.height}", plan)
                raise Refused("too_many_pixels", f"{detail}; {large.NEEDS}")
        content = _read(source)
    except Refused as refusal:
        return Checked(refusal.problem, refusal.detail)
    digest = hashlib.sha256(content).hexdigest()
    if (kept := _kept_check(digest, source, plan)) is not None:
        return kept
    with limited(source, plan.seconds):
        try:
            image, header = _open_upright(source, content, plan)
        except Refused as refusal:
            seen = refusal.problem in ("truncated", "unreadable", "damaged")
            preview = _preview(content, plan) if seen else None
            return Checked(refusal.problem, refusal.detail, digest, preview)
        return _store(image, header, content, digest, plan)


def _kept_check(digest: str, source: Path, plan: CheckPlan) -> Checked | None:
    if plan.kept is None:
        return None
    from stacked_ram.preparation.kept_checks import find_check  # workers start faster without it

    return find_check(digest, source.suffix, plan.kept, plan)


@dataclass(frozen=True)
class _Header:
    format: str
    raw_width: int
    raw_height: int
    orientation: int
    repairs: tuple[str, ...]
    top: int


def _read(source: Path) -> bytes:
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unreadable", "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise Refused("too_large", f"{status.st_size / 2**20:.0f} MiB")
        content = source.read_bytes()
    except OSError as error:
        raise MachineFault(error.strerror or str(error)) from error
    if not content:
        raise Refused("empty", "the file has no bytes")
    return content


def _open_upright(source: Path, content: bytes, plan: CheckPlan) -> tuple[Image.Image, _Header]:
    """Return the photo as upright 8-bit sRGB, at full size or at the size of JPEG draft mode.

    Raises:
        Refused: the photo cannot be used.
        MachineFault: there is too little memory.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    pixels = 0
    try:
        with pixel_limit(plan.max_pixels), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats()) as image:
                pixels = image.width * image.height
                return _decode(image, source, content, plan)
    except Refused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        raise Refused("too_many_pixels", _above(found[0] if found else "?", plan)) from error
    except UnidentifiedImageError as error:
        raise Refused(*unidentified(content)) from error
    except Exception as error:  # decoders raise every kind of error on broken files
        if _out_of_memory(error) and not _has_memory(pixels):
            raise MachineFault("too little memory") from error
        problem = "truncated" if ends_early(error, content) else "unreadable"
        detail = " ".join(str(error).split()) or type(error).__name__
        raise Refused(problem, detail[:200]) from error


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _has_memory(pixels: int) -> bool:
    """Return whether there is memory for so many pixels.

    If there is, a decoder that ran out of memory was misled by a broken file.
    """
    try:
        bytearray(2**24 + 16 * pixels)
    except MemoryError:
        return False
    return True


def _decode(
    image: Image.Image, source: Path, content: bytes, plan: CheckPlan
) -> tuple[Image.Image, _Header]:
    width, height = size_in_file(image)
    if width * height > plan.max_pixels:
        raise Refused("too_many_pixels", _above(f"{width} x {height}", plan))
    if min(width, height) < MIN_SIDE:
        raise Refused("too_small", f"{width} x {height} pixels")
    image_format = image.format or ""
    reduction = min(1.0, plan.short_side / min(width, height)) if plan.short_side else 1.0
    as_png = image_format == "PNG" and reduction == 1
    if max(width, height) * reduction > MAX_SIDE and not as_png:
        raise Refused("too_many_pixels", f"{width} x {height}: a side above {MAX_SIDE:,}")
    repairs = []
    if source.suffix.lower() not in SUFFIXES[image_format]:
        repairs.append("wrong_suffix")
    if getattr(image, "is_animated", False) or image_format == "MPO":
        repairs.append("animated")
        if image_format != "HEIF":  # it opens at its main picture, which need not be the first
            image.seek(0)
    is_deep = is_16_bit(image, content)
    if is_deep:
        repairs.append("16_bit")
    outline = outline_of(content) if image_format in ("JPEG", "MPO") else None
    if outline is not None and outline.scans > MAX_SCANS:
        raise Refused("too_slow", f"a JPEG of {outline.scans} scans; photos have about 10")
    try:
        check_integrity(image, content, outline)
    except Refused as refusal:
        if refusal.problem != "damaged" or not plan.keep_damaged:
            raise
        repairs.append("damaged")
    if image_format == "PNG":
        image.load()  # its EXIF may come after the pixels, and reading it would hide their faults
    orientation = _orientation(image)
    if plan.short_side and image_format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        # The JPEG decoder reduces by 2, 4 or 8 almost for free, never below the requested size.
        # Request twice the final size, so that the Lanczos filter still does the last reduction
        # and the result is as sharp.
        scale = 2 * plan.short_side / min(width, height)
        if scale < 1:
            image.draft(image.mode, (int(width * scale) + 1, int(height * scale) + 1))
    image.load()
    depth = depth_of(image, content) if is_deep else None
    white = (depth.white or plan.white) if depth else 0
    if white and not image.mode.startswith("I"):
        icc = image.info.get("icc_profile")
        image = scaled_colour(image, content, white)
        image.info["icc_profile"] = icc
    if orientation != 1:
        repairs.append("exif_rotation")
        if image_format != "TIFF":  # Pillow's TIFF decoder has already turned it
            image = image.transpose(_TURNS[orientation])
    image, colour_repairs = to_srgb(image, white)
    repairs += colour_repairs
    if is_deep and has_few_levels(image):
        repairs.append("few_grey_levels")
    top = depth.top if depth and not depth.white else 0
    return image, _Header(image_format, width, height, orientation, tuple(repairs), top)


def _store(
    image: Image.Image, header: _Header, content: bytes, digest: str, plan: CheckPlan
) -> Checked:
    repairs = list(header.repairs)
    short = min(header.raw_width, header.raw_height)
    width, height = header.raw_width, header.raw_height
    if header.orientation in (5, 6, 7, 8):
        width, height = height, width
    upright = width, height
    if plan.short_side and short > plan.short_side:
        repairs.append("reduced")
        width, height = (max(1, round(side * plan.short_side / short)) for side in upright)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    suffix = ".png" if header.format == "PNG" and (width, height) == upright else ".jpg"
    pixels_changed = bool(set(repairs) - {"wrong_suffix"})
    if header.format not in ("JPEG", "PNG") and not pixels_changed:
        repairs.append("reencoded")
        pixels_changed = True
    stored_digest = digest
    if pixels_changed:
        content = encode_image(image, suffix, plan.quality)
        stored_digest = hashlib.sha256(content).hexdigest()
    found = fingerprint(image)
    file = Path(digest[:1]) / f"{digest}{suffix}"
    (plan.folder / file).parent.mkdir(exist_ok=True)
    write_bytes(plan.folder / file, content)
    return Checked(
        source_sha256=digest,
        file=file.as_posix(),
        stored_bytes=len(content),
        sha256=stored_digest,
        raw_width=header.raw_width,
        raw_height=header.raw_height,
        orientation=header.orientation,
        width=image.width,
        height=image.height,
        repairs=tuple(repairs),
        fingerprint=found,
        top=header.top,
        white=plan.white or FULL if header.top else 0,
    )


def _store_large(source: Path, header: large.TiledHeader, plan: CheckPlan) -> Checked:
    """Store a tiled TIFF byte for byte.

    Raises:
        Refused: the photo cannot be used.
        MachineFault: the source cannot be read.
        OSError: the photo could not be stored.
    """
    if header.pixels > large.MOST_PIXELS or header.tile_pixels > large.MOST_TILE:
        raise Refused("too_many_pixels", f"{header.width} x {header.height} pixels")
    if header.tile_bytes > 16 * large.MOST_TILE:
        raise Refused("unreadable", f"a tile of {header.tile_bytes} bytes")
    if min(header.width, header.height) < MIN_SIDE:
        raise Refused("too_small", f"{header.width} x {header.height} pixels")
    copy = None
    try:
        copy, digest, size = large.copy_with_hash(source, plan.folder)
        if (kept := _kept_check(digest, source, plan)) is not None:
            return kept
        found, preview, (width, height) = large.fingerprint_tiles(copy)
        file = Path(digest[:1]) / f"{digest}.tif"
        (plan.folder / file).parent.mkdir(exist_ok=True)
        copy.replace(plan.folder / file)
    except large.UnreadableSource as error:
        raise MachineFault(str(error)) from error
    except UserError as error:
        raise Refused("unreadable", str(error).removeprefix(f"{copy}: ")) from error
    finally:
        if copy is not None:
            copy.unlink(missing_ok=True)
    wrong = source.suffix.lower() not in SUFFIXES["TIFF"]
    return Checked(
        source_sha256=digest,
        preview=preview,
        file=file.as_posix(),
        stored_bytes=size,
        sha256=digest,
        raw_width=header.width,
        raw_height=header.height,
        orientation=header.orientation,
        width=width,
        height=height,
        repairs=("wrong_suffix",) if wrong else (),
        fingerprint=found,
    )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or invalid."""
    try:
        orientation = image.getexif().get(274, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def _preview(content: bytes, plan: CheckPlan) -> bytes | None:
    """Return a small JPEG of the readable part of a broken photo; None if nothing is readable."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=formats()) as image:
                if image.width * image.height > plan.max_pixels:
                    return None
                return small_jpeg(thumbnail(image))
    except Exception:  # expected: the photo is broken
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _above(pixels: str, plan: CheckPlan) -> str:
    return f"{pixels} pixels, above --max-megapixels {plan.max_pixels / 1e6:g}"

"""Damage small photos of many encodings, and give them to everything that reads photos.

The row `photos` of faults.py. Batches of damaged photos go through `prepare`, `predict`, reading by
region, and the app (`viz.py --app`, a server on loopback that gets each photo as an upload). Each
photo must be refused in one line that names it, or be read. A fault is: a traceback; a process that
ends; more than LIMIT seconds of processor time for a photo; more than MOST bytes of memory; a photo
that is neither in the result nor refused; a photo that `prepare` took and training cannot read.

`prepare`, `predict` and reading by region work in a process of their own for each batch, so that
the harness survives what they do not. The app shows one photo, so that it need not name it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import stacked_ram as ram
from stacked_ram.evaluation.predict import predict_stream
from stacked_ram.images.decoding import read_photo
from stacked_ram.images.lazy import LazyPhoto, LazyPhotos
from stacked_ram.images.opening import photo_endings
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.runs.checkpoint import LoadedRun, load_run
from stacked_ram.runtime.errors import UserError

if TYPE_CHECKING:
    from fault_app import App

FORK = multiprocessing.get_context("fork")
BATCH = 100  # photos
LIMIT = 20  # seconds of processor time a photo; `prepare`: a batch
SILENT = 600  # seconds without an answer and without work
MOST = 2_000_000_000  # bytes of memory of a process
SIDES = (40, 200)  # pixels
CLASSES = ("bar", "dot")
ODD = [0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]

Answer = tuple[str, str]  # a photo's name; `read`, `refused`, or what went wrong
Way = Callable[[list[Path]], Iterator[Answer]]


# ---------------------------------------------------------------------- photos


def pillow(kind: str, mode: str = "RGB", **how: Any) -> Callable[[Image.Image], bytes]:
    def encode(photo: Image.Image) -> bytes:
        file = io.BytesIO()
        photo.convert(mode).save(file, kind, **how)
        return file.getvalue()

    return encode


def deep_png(photo: Image.Image) -> bytes:
    grey, file = np.asarray(photo.convert("L")).astype(np.uint16), io.BytesIO()
    Image.fromarray(grey * 257).save(file, "PNG")
    return file.getvalue()


def vips(suffix: str, **how: Any) -> Callable[[Image.Image], bytes]:
    def encode(photo: Image.Image) -> bytes:
        import pyvips

        return pyvips.Image.new_from_array(np.asarray(photo)).write_to_buffer(suffix, **how)

    return encode


ENCODINGS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "JPEG": (".jpg", pillow("JPEG", quality=90)),
    "JPEG, progressive": (".jpg", pillow("JPEG", quality=90, progressive=True)),
    "JPEG, CMYK": (".jpg", pillow("JPEG", "CMYK")),
    "JPEG, grey": (".jpg", pillow("JPEG", "L")),
    "PNG": (".png", pillow("PNG")),
    "PNG, 16 bits": (".png", deep_png),
    "PNG, palette": (".png", pillow("PNG", "P")),
    "PNG, interlaced": (".png", vips(".png", interlace=True)),
    "GIF": (".gif", pillow("GIF", "P")),
    "BMP": (".bmp", pillow("BMP")),
    "WebP": (".webp", pillow("WEBP", quality=80)),
    "WebP, lossless": (".webp", pillow("WEBP", lossless=True)),
    "TIFF": (".tif", pillow("TIFF")),
    "TIFF, deflate": (".tif", pillow("TIFF", compression="tiff_adobe_deflate")),
    "TIFF, pyramid": (".tif", vips(".tif", tile=True, tile_width=16, tile_height=16, pyramid=True)),
    "PPM": (".ppm", pillow("PPM")),
    "JPEG 2000": (".jp2", pillow("JPEG2000")),
    "AVIF": (".avif", pillow("AVIF", speed=10)),
    "HEIF": (".heic", pillow("HEIF")),
}


def whole_photos(seed: str) -> list[tuple[str, bytes]]:
    """A photo of each encoding that can be read here: its suffix and content."""
    rng, endings, photos = random.Random(seed), photo_endings(), []
    for suffix, encode in ENCODINGS.values():
        if suffix in endings:
            noise = np.frombuffer(rng.randbytes(8 * 6 * 3), np.uint8).reshape(6, 8, 3)
            size = rng.randint(*SIDES), rng.randint(*SIDES)
            photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
            photos.append((suffix, encode(photo)))
    return photos


def damaged(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """The content of a photo with one to three changes. other: of another photo."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice([1, 8, 100, len(changed) // 4]))
        kind = rng.randrange(6)
        if kind == 0:  # flipped bits
            for _ in range(min(len(changed), rng.choice([1, 3, 30]))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif kind == 1:  # bytes cut out
            del changed[start:end]
        elif kind == 2:  # cut off
            del changed[start:]
        elif kind == 3:  # another photo's end
            changed[start:] = other[rng.randrange(len(other)) :]
        elif kind == 4:  # zeros
            changed[start:end] = bytes(end - start)
        else:  # fields of the header, of either order of bytes
            for _ in range(rng.randint(1, 3)):
                width, at = rng.choice([1, 2, 4]), rng.randrange(rng.choice([32, 128, 1024]))
                value = rng.choice(ODD) % 256**width
                if at + width <= len(changed):
                    changed[at : at + width] = value.to_bytes(width, rng.choice(["big", "little"]))
    return with_checksums(changed) if rng.random() < 0.5 else bytes(changed)


def with_checksums(content: bytearray) -> bytes:
    """The content of a damaged PNG with checksums that are right, so that what they would refuse
    reaches the decoder; other files as they are."""
    at = 8
    while content[:4] == b"\x89PNG" and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


# ---------------------------------------------------------------------- ways to read them


def judged(error: str, name: str) -> str:
    if not error:
        return "read"
    by_name = name in error and "\n" not in error.strip()
    return "refused" if by_name else f"not in one line with its name: {error}"


def prepare(files: list[Path]) -> Iterator[Answer]:
    """All photos together; those that were taken are read as for training."""
    source = files[0].parents[1]
    out = source.with_name("prepared")
    shutil.rmtree(out, ignore_errors=True)
    ram.prepare(source, out, near_duplicates=-1, workers=1, progress=False)
    with open(out / "report.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            said = "refused" if row["problem"] else f"neither taken nor refused: {row}"
            if row["path"]:
                try:
                    said = "read" if read_photo(out / row["path"]).size else "empty"
                except UserError as error:
                    said = f"taken, but {error}"
            yield Path(row["source"]).name, said


def predict(loaded: LoadedRun) -> Way:
    def way(files: list[Path]) -> Iterator[Answer]:
        for row in predict_stream(loaded, map(str, files)):
            yield Path(row.path).name, judged(row.error, row.path)

    return way


def region(files: list[Path]) -> Iterator[Answer]:
    """Patches of three sizes at three places, and the whole photo reduced."""
    geometry = GlimpseGeometry(patch_size=8, num_patches=3, glimpse_scale=2.0)
    for file in files:
        error = ""
        try:
            photos = LazyPhotos([LazyPhoto(file)])
            patches = photos.patches(torch.tensor([[-1.0, -1.0], [0.0, 0.1], [0.9, 0.9]]), geometry)
            assert patches.isfinite().all() and photos.resized((5, 7)).isfinite().all()
        except UserError as refusal:
            error = str(refusal)
        yield file.name, judged(error, str(file))


def processor_seconds(process: int | None) -> float:
    """Processor time of a process until now; 0 when it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def answers_in_process(way: Way, files: list[Path]) -> dict[str, str]:
    """Name -> what became of each photo, in a process of its own."""
    receive, send = FORK.Pipe(duplex=False)
    log = files[0].parents[2] / "stderr"
    process = FORK.Process(target=answer_all, args=(way, files, log, send))
    process.start()
    send.close()
    answers: dict[str, str] = {}
    with contextlib.suppress(EOFError):
        while True:
            before = processor_seconds(process.pid)
            if receive.poll(SILENT):
                name, said = receive.recv()
                answers[name] = said
            elif processor_seconds(process.pid) == before:  # it waits for what never comes
                process.kill()
                break
    process.join()
    late = f"more than {LIMIT} s of processor time" if process.exitcode == -signal.SIGPROF else ""
    missing = [file.name for file in files if file.name not in answers]
    if process.exitcode != 0:
        answers[missing[0] if missing else "end"] = late or f"exit code {process.exitcode}"
    elif missing:
        answers |= dict.fromkeys(missing, "neither in the result nor refused")
    if "Traceback" in (said := log.read_text(errors="replace")):
        answers["stderr"] = said[said.index("Traceback") :][:2000]
    return answers


def answer_all(way: Way, files: list[Path], log: Path, send: Connection) -> None:
    os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)  # decoders write there too
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process, whatever it is doing
    torch.set_num_threads(1)  # OpenMP's other threads did not come along with the fork
    answers = way(files)
    try:
        while True:
            signal.setitimer(signal.ITIMER_PROF, LIMIT)
            name, said = next(answers)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MOST:
                said = f"more than {MOST / 1e9:g} GB, and {said}"
            send.send((name, said))
    except StopIteration:
        return
    except Exception as error:
        send.send(("end", f"{type(error).__name__}: {error}"))


# ---------------------------------------------------------------------- counting


def damage_photos(
    cases: range, seed: int, home: Path, run: Path, app: App | None = None
) -> Counter[str]:
    """Count what becomes of these cases in each way. Faults are printed, and their photos are kept
    in a folder `faults` here. run: a trained run. app: None leaves the app out."""
    # libvips must not work in this process: a process that is forked from it would wait for ever
    with ProcessPoolExecutor(1, mp_context=FORK) as other:
        sets = [*other.map(whole_photos, ["photos", *CLASSES])]
    whole, loaded = sets[0], load_run(run, "cpu")
    ways = {"prepare": prepare, "predict": predict(loaded), "region": region}
    found: Counter[str] = Counter()
    for first in range(cases.start, cases.stop, BATCH):
        batch = home / "batch"
        shutil.rmtree(batch, ignore_errors=True)
        files = []
        for name, photos in zip(CLASSES, sets[1:], strict=True):  # enough that are whole
            (batch / "raw" / name).mkdir(parents=True)
            for number, (suffix, content) in enumerate(photos[:6]):
                files.append(batch / "raw" / name / f"whole{name}{number}{suffix}")
                files[-1].write_bytes(content)
        for case in range(first, min(first + BATCH, cases.stop)):
            rng = random.Random(f"{seed} {case}")
            suffix, content = rng.choice(whole)
            file = batch / "raw" / CLASSES[case % 2] / f"{case}{suffix}"
            file.write_bytes(damaged(content, rng.choice(whole)[1], rng))
            files.append(file)
        for name, way in ways.items():
            count(name, answers_in_process(way, files), files, found)
        if app is not None:
            count("app", dict(app(files)), files, found)
    if app is not None and app.peak > MOST:
        print(f"the app held {app.peak / 1e9:.1f} GB")
        found["faults"] += 1
    return found


def count(way: str, answers: dict[str, str], files: list[Path], found: Counter[str]) -> None:
    """Add a batch's answers. Photos that are whole must be read and are not counted."""
    names = {file.name: file for file in files}
    for name, said in answers.items():
        right = said == "read" or (said == "refused" and not name.startswith("whole"))
        if not right:
            found["faults"] += 1
            print(f"{way}, {name}: {said}", flush=True)
            if name in names:
                kept = Path("faults") / f"{way}_{name}"
                kept.parent.mkdir(exist_ok=True)
                shutil.copy(names[name], kept)
        elif not name.startswith("whole"):
            found[f"{said} by {way}"] += 1

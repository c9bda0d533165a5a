"""How fast photos are prepared, what each check costs, and how much memory a million photos take.

    python benchmarks/preparing.py ../shared/data/flowers17   # rate, and memory at 1,000,000 rows
    python benchmarks/preparing.py --quick                    # both in small, on generated photos

Rate: the whole of `prepare_data.py` (listing, checks, duplicates, splits, report, rename) against
the same number of processes that merely decode the same files and encode them again as JPEG. A
ratio of 1 means that all the rest costs nothing. Both in seconds of the clock and in seconds of
processor time, which other programs on the machine disturb less.

Checks: processor time of the steps of a check, in milliseconds a photo, for the files as they are
and for the same photos as PNG; the share is that of the whole check.

Memory: the largest resident size of a process that takes in generated rows, finds duplicates,
settles the split and writes the manifest; photos themselves are held by the workers, a bounded
number at a time. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import repository  # noqa: F401
from PIL import Image

from stacked_ram.preparation import writing
from stacked_ram.preparation.assign_splits import assign_splits, plan_splits
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.checked import Checked, CheckPlan
from stacked_ram.preparation.checks import check_photo
from stacked_ram.preparation.duplicates import find_duplicates, leave_out_conflicts
from stacked_ram.preparation.integrity import check_integrity
from stacked_ram.preparation.jpeg import outline_of, warnings_pass
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.perceptual import Fingerprint, fingerprint
from stacked_ram.preparation.pipeline import prepare
from stacked_ram.preparation.records import Record
from stacked_ram.preparation.sources import find_source
from stacked_ram.preparation.sources.common import Source
from stacked_ram.preparation.workdir import working_folder

QUALITY = 92
BATCH = 10_000
CLASSES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", nargs="?", type=Path, help="photos; generated if left out")
    parser.add_argument("--quick", action="store_true", help="few photos, few rows, one repeat")
    parser.add_argument(
        "--workers", type=int, default=PrepareOptions(Path("a"), Path("b")).worker_count
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", help="sizes of the generated manifests")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else arguments.repeats
    rows = arguments.rows or ([1_000, 10_000] if arguments.quick else [10_000, 100_000, 1_000_000])
    with tempfile.TemporaryDirectory(prefix="preparing-") as place:
        source = arguments.source or generate(
            Path(place) / "photos", 60 if arguments.quick else 400
        )
        rate(source, Path(place), arguments.workers, repeats)
        costs(source, Path(place))
        for count in rows:
            memory(count, Path(place) / f"rows{count}")


def rate(source: Path, place: Path, workers: int, repeats: int) -> None:
    """Print the two rates and their ratio."""
    options = PrepareOptions(source=source, dest=place / "x")
    files = [record.source for record in find_source(source, options).records]
    clock, processor = [], []
    for repeat in range(repeats):
        dest = place / f"prepared{repeat}"
        plain = timed(lambda: decode_and_encode(files, workers))
        with contextlib.redirect_stdout(io.StringIO()):
            whole = timed(
                lambda dest=dest: prepare(
                    PrepareOptions(source=source, dest=dest, workers=workers, quality=QUALITY)
                )
            )
        clock.append(plain[0] / whole[0])
        processor.append(plain[1] / whole[1])
        print(
            f"{len(files)} photos, {workers} processes: decode and encode "
            f"{len(files) / plain[0]:.0f}/s ({plain[1]:.2f} s of processor), prepare "
            f"{len(files) / whole[0]:.0f}/s ({whole[1]:.2f} s of processor)"
        )
    print(
        f"ratio of the rates, median of {repeats}: {statistics.median(clock):.2f} by the clock, "
        f"{statistics.median(processor):.2f} by processor time"
    )


def costs(source: Path, place: Path, most: int = 200) -> None:
    """Print what each step of the check of a photo costs, in one process."""
    options = PrepareOptions(source=source, dest=place / "x")
    files = [record.source for record in find_source(source, options).records][:most]
    pngs = place / "pngs"
    pngs.mkdir()
    for number, file in enumerate(files[: most // 4]):
        with Image.open(file) as image:
            image.convert("RGB").save(pngs / f"{number}.png", compress_level=1)
    decoded = place / "decoded"
    decoded.mkdir()
    plan = CheckPlan(decoded, 512, QUALITY, 10**8)
    warnings_pass()  # loads OpenCV
    for name, photos in (("as they are", files), ("as PNG", sorted(pngs.iterdir()))):
        contents = [photo.read_bytes() for photo in photos]
        images = [Image.open(io.BytesIO(content)) for content in contents]
        outlines = [
            outline_of(content) if image.format == "JPEG" else None
            for image, content in zip(images, contents, strict=True)
        ]
        steps = {
            "hash": [partial(hashlib.sha256, content) for content in contents],
            "outline of JPEG": [partial(outline_of, content) for content in contents],
            "decode": [image.load for image in images],  # its pixels stay for the next steps
            "integrity": [
                partial(check_integrity, *photo)
                for photo in zip(images, contents, outlines, strict=True)
            ],
            "fingerprint": [partial(fingerprint, image) for image in images],
            "whole check": [partial(check_photo, photo, plan) for photo in photos],
        }
        spent = {}
        for step, calls in steps.items():
            start = time.process_time()
            for call in calls:
                call()
            spent[step] = (time.process_time() - start) * 1000 / len(calls)
        print(
            f"check of a photo {name}, milliseconds (share), {len(photos)} photos: "
            + ", ".join(
                f"{step} {cost:.2f} ({cost / spent['whole check']:.0%})"
                for step, cost in spent.items()
            )
        )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor of this process and its children."""
    start, used = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start, processor_seconds() - used


def processor_seconds() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def decode_and_encode(files: list[Path], workers: int) -> None:
    """The least that could be done with photos: decoded in full, encoded again."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in pool.map(decode_and_encode_one, files, chunksize=8):
            pass


def decode_and_encode_one(file: Path) -> int:
    with Image.open(file) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.tell()


def generate(folder: Path, count: int) -> Path:
    """Photos of the size that cameras' pictures have on web pages, in two class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        target = folder / "ab"[number % 2] / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        blobs.resize((690, 500), Image.Resampling.BICUBIC).save(target, quality=90)
    return folder


def memory(count: int, place: Path) -> None:
    """Print the largest resident size of a process of its own that plans `count` rows."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        before, after, seconds = pool.submit(plan_rows, count, place).result()
    print(
        f"{count:>9,} rows: at most {after:.0f} MiB resident ({before:.0f} MiB before the first), "
        f"{(after - before) * 2**20 / count:.0f} bytes a row, {seconds:.0f} s of processor"
    )


def plan_rows(count: int, place: Path) -> tuple[float, float, float]:
    """Everything that happens to rows, without photos: (MiB before, MiB at most, seconds)."""
    import scipy.sparse.csgraph  # noqa: F401  loaded by the work itself; not part of the rows

    used = processor_seconds()
    before = peak_mib()
    options = PrepareOptions(source=place, dest=place / "set")
    working = working_folder(options.dest)
    working.mkdir(parents=True)
    source = Source("class_folders", records(count, place))
    catalogue = Catalogue(working, CheckPlan(working / "decoded", 512, QUALITY, 10**8))
    catalogue.list_photos(place, source.records, options.seed)
    rng = np.random.default_rng(0)
    for start in range(0, count, BATCH):
        catalogue.take(checked(rng, start, min(BATCH, count - start)))
        catalogue.save()
    found = find_duplicates(catalogue, options.near_duplicates)
    leave_out_conflicts(catalogue, found, near=False)
    plan = plan_splits(catalogue, source, options)
    assign_splits(catalogue, source, options, plan, found)
    writing.place_file = lambda source, target: None  # rows only
    classes = list(catalogue.class_counts())
    with writing.DatasetWriter(options, kind="photos", channels=3, classes=classes) as writer:
        writing.write_report = lambda tree, rows, facts: None
        for record, photo in catalogue.dataset():
            writer.add(
                photo, class_name=record.class_name, split=record.split, source=record.source,
                group=record.group,
            )  # fmt: skip
        writer.finish(rule=plan.rule, layout=source.layout)
    catalogue.close()
    with open(options.dest / "manifest.csv", encoding="utf-8") as manifest:
        listed = sum(1 for _ in manifest) - 1
    assert listed >= count * 0.95, f"{listed} rows of {count}"
    return before, peak_mib(), processor_seconds() - used


def records(count: int, place: Path) -> Iterator[Record]:
    for number in range(count):
        name = f"class {number % CLASSES:03d}"
        yield Record(place / name / f"photo_{number:07d}.jpg", name)


def checked(rng: np.random.Generator, start: int, count: int) -> Iterator[tuple[int, Checked]]:
    """Rows as checks would give them; one in a hundred is an exact copy of its neighbour."""
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64).tolist()
    tiny = rng.integers(0, 256, (count, 192), dtype=np.uint8)
    for i in range(count):
        number = start + i + 1
        digest = f"{number - CLASSES * (i >= CLASSES and i % 100 == 7):064x}"
        yield number, Checked(
            source_sha256=digest, file=f"{digest[-2:]}/{digest}.jpg", stored_bytes=90_000,
            sha256=digest, raw_width=690, raw_height=500, width=690, height=500,
            fingerprint=Fingerprint(hashes[i], tiny[i].tobytes(), (10**7,) * 3, (10**9,) * 3),
        )  # fmt: skip


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

"""What the parts of gpu.py and gpu_photos.py share: the command line, the amounts, the clock."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import repository  # noqa: F401
import torch
from torch import Tensor

Row = dict[str, Any]
Work = Callable[[str, argparse.Namespace, float], Iterator[Row]]
Parts = dict[str, tuple[Work, int]]  # each with the most seconds that it may take


class Sizes:
    """How much is done: all of it, or a touch of everything."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.batch = 16 if quick else 128
        self.large_batch = 8 * self.batch
        self.digits = 256 if quick else 60_000
        self.reference_steps = 1 if quick else 8
        self.eager_steps = 2 if quick else 40
        self.run_seconds = 0.0 if quick else 25.0  # of a long run at 28x28
        self.backbone = "test_efficientnet" if quick else "tf_efficientnet_lite0"
        self.photos = 2 if quick else 128


def repeat(work: Callable, times: int, *given: Tensor) -> None:
    for _ in range(times):
        work(*given)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds, the device's work included."""
    everywhere = [torch.device("cuda")] if torch.cuda.is_available() else []
    for device in everywhere:
        settled(device)
    begun = time.perf_counter()
    work()
    for device in everywhere:
        settled(device)
    return time.perf_counter() - begun


def settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_all(script: str, about: str | None, parts: Parts) -> None:
    """The command line of a script of parts; each part runs in a process of its own on a GPU."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a touch of everything, one process")
    parser.add_argument("--out", type=Path, help="JSON of all rows")
    parser.add_argument("--seconds", type=float, default=450, help="for all parts together")
    parser.add_argument("--parts", nargs="*", choices=list(parts), default=list(parts))
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that read photos")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if not options.inside:
        print(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    ends = time.monotonic() + options.seconds
    rows: list[Row] = []
    for part in options.parts:
        allowed = min(parts[part][1], ends - time.monotonic())
        if options.inside or options.quick or device.type != "cuda":
            run_here(part, parts[part][0], options, allowed, rows)
        else:
            run_apart(script, part, options, allowed, rows)
        if options.out:
            facts = {"device": name, "torch": torch.__version__, "rows": rows}
            options.out.write_text(json.dumps(facts, indent=1))
    failed = [row for row in rows if row.get("error")]
    if not options.inside:
        print(f"{len(rows)} rows, {len(failed)} of them failed")
    if failed:
        sys.exit(1)


def run_here(
    part: str, work: Work, options: argparse.Namespace, allowed: float, rows: list[Row]
) -> None:
    ends = time.monotonic() + allowed
    try:
        for row in work(part, options, ends):
            rows.append({"part": part, **row})
            print(line(rows[-1]), flush=True)
            if options.inside:
                options.out.write_text(json.dumps({"rows": rows}))
    except Exception as error:
        traceback.print_exc()
        rows.append({"part": part, "error": f"{type(error).__name__}: {str(error)[:300]}"})
        print(line(rows[-1]), flush=True)


def run_apart(
    script: str, part: str, options: argparse.Namespace, allowed: float, rows: list[Row]
) -> None:
    """The part in a process of its own; what it found before it failed or was ended counts."""
    if allowed < 20:
        rows.append({"part": part, "error": "no time left"})
        print(line(rows[-1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.json"
        command = [sys.executable, script, "--inside", "--parts", part, "--out", str(found),
                   "--device", options.device, "--seconds", str(allowed - 10),
                   "--workers", str(options.workers)]  # fmt: skip
        command += ["--no-compile"] if options.no_compile else []
        says = None
        try:
            process = subprocess.run(command, timeout=allowed, env=os.environ)
            says = f"ended with {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            says = f"ended after {allowed:.0f} s"
        part_rows = json.loads(found.read_text())["rows"] if found.exists() else []
        rows += part_rows
        if says and not any(row.get("error") for row in part_rows):
            rows.append({"part": part, "error": says})
            print(line(rows[-1]))


def line(row: Row) -> str:
    rest = {key: value for key, value in row.items() if key not in ("part", "what")}
    shown = [
        f"{key} {value:,.3g}" if isinstance(value, float) and value < 100
        else f"{key} {value:,.0f}" if isinstance(value, float)
        else f"{key} {value}"
        for key, value in rest.items()
    ]  # fmt: skip
    return f"{row['part']:<10}{row.get('what', ''):<31}{', '.join(shown)}"

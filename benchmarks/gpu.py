"""Everything that needs a GPU, in one run of under 8 minutes: correctness first, then speed.

    python benchmarks/gpu.py [--out gpu.json]         on a CUDA GPU
    python benchmarks/gpu.py --device cpu --quick     the same code, a few steps of each

Nothing is needed beyond torch and this package, and timm for two parts, which are left out
without it. Digits are made here. Each part (gpu_check.py, gpu_digits.py, gpu_engine.py,
gpu_backbone.py) runs in its own process with its own share of the time, so that one that fails or
takes too long costs the others nothing.

    check     patches and losses against float64 on the CPU; the graph against step by step
    digitsN   training steps of the paper's model at NxN, everything on the device: canvases
              composed or shifted, rollouts, losses, optimiser
                reference   glimpses cut in a Python loop over the photos (peers.py)
                eager       this package, kernel by kernel
                graph       the step replayed as one CUDA graph
                compiled    the step compiled first, then replayed
    engine    the trainer's own epochs at 28x28 (loader, shifts, step), `cuda_graph` off and on
    backbone  96-pixel patches through a backbone in bf16, channels-last, beside the same backbone
              trained on random tensors of as many patches

Rates by the clock: of `graph` and `compiled` whole epochs without a host synchronisation (torch
raises an error at one), of `engine` whole epochs, of the others some steps. float32 products are
TF32 where the card has it, but for `check`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from gpu_backbone import backbone
from gpu_check import check
from gpu_digits import digits
from gpu_engine import engine
from gpu_parts import Row

PARTS = {  # and the most seconds that each may take
    "check": 60,
    "digits28": 150,
    "engine": 100,
    "backbone": 100,
    "digits100": 90,
    "digits60": 90,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a touch of everything, one process")
    parser.add_argument("--out", type=Path, help="JSON of all rows")
    parser.add_argument("--seconds", type=float, default=450, help="for all parts together")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if not options.inside:
        print(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    ends = time.monotonic() + options.seconds
    rows: list[Row] = []
    for part in options.parts:
        allowed = min(PARTS[part], ends - time.monotonic())
        if options.inside or options.quick or device.type != "cuda":
            run_here(part, options, allowed, rows)
        else:
            run_apart(part, options, allowed, rows)
        if options.out:
            facts = {"device": name, "torch": torch.__version__, "rows": rows}
            options.out.write_text(json.dumps(facts, indent=1))
    failed = [row for row in rows if row.get("error")]
    if not options.inside:
        print(f"{len(rows)} rows, {len(failed)} of them failed")
    if failed:
        sys.exit(1)


def run_here(part: str, options: argparse.Namespace, allowed: float, rows: list[Row]) -> None:
    ends = time.monotonic() + allowed
    work = {"check": check, "engine": engine, "backbone": backbone}.get(part, digits)
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


def run_apart(part: str, options: argparse.Namespace, allowed: float, rows: list[Row]) -> None:
    """The part in a process of its own; what it found before it failed or was ended counts."""
    if allowed < 20:
        rows.append({"part": part, "error": "no time left"})
        print(line(rows[-1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--inside", "--parts", part, "--out", str(found),
                   "--device", options.device, "--seconds", str(allowed - 10)]  # fmt: skip
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


if __name__ == "__main__":
    main()

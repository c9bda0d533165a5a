"""What torch's waiting threads cost on a machine that does something else too.

    python benchmarks/busy_machine.py [--quick] [--others 2] [--rounds 3]

Between two parallel loops torch's OpenMP threads spin, ready for the next. Where other programs
want the processor too, a thread that spins keeps the thread it waits for from running. Training
steps of the demo's model and its predictions, on all processors, by the clock, under each setting
in turn, first with nothing else started by this script (`quiet`), then beside processes that do
nothing but compute (`busy`):

    (none)                     threads spin, as torch's builds of libgomp have it
    GOMP_SPINCOUNT=0           they sleep at once
    OMP_WAIT_POLICY=PASSIVE    they sleep at once; the standard's name for it

Ratios are to (none). What is called quiet is quiet only if nothing else runs on the machine: the
load average before each part is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import repository  # noqa: F401

SETTINGS = {
    "(none)": {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
WORKS = ("train", "predict")
# Ends when its parent does, however that ends.
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one setting, a small step of each work"
    )
    parser.add_argument("--others", type=int, default=os.cpu_count(), help="busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each work in each round")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(speeds(options.seconds, options.quick)))
        return
    names = list(SETTINGS)[: 1 if options.quick else None]
    rounds, seconds = (1, 0.1) if options.quick else (options.rounds, options.seconds)
    print(f"{'':<7}{'':<25}" + "".join(f"{work:>13}{'ratio':>8}" for work in WORKS))
    for part, others in (("quiet", 0), ("busy", options.others)):
        print(f"{part}: {others} busy processes, load average {os.getloadavg()[0]:.1f} before")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                found[name].append(measured(SETTINGS[name], others, seconds, options.quick))
        medians = {
            name: {work: statistics.median(row[work] for row in rows) for work in WORKS}
            for name, rows in found.items()
        }
        for name, rates in medians.items():
            cells = "".join(
                f"{rates[work]:13.1f}{rates[work] / medians['(none)'][work]:8.2f}" for work in WORKS
            )
            print(f"{part:<7}{name:<25}{cells}", flush=True)


def measured(
    settings: dict[str, str], others: int, seconds: float, quick: bool
) -> dict[str, float]:
    """Photos/s of each work in a process of its own, beside so many busy ones."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))
    }
    command = [sys.executable, __file__, "--measure", "--seconds", str(seconds)]
    if quick:
        command += ["--quick"]
        environment["OMP_NUM_THREADS"] = "1"  # nothing that spins
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
    try:
        done = subprocess.run(
            command, env=environment | settings, check=True, stdout=subprocess.PIPE
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return json.loads(done.stdout)


def speeds(seconds: float, quick: bool) -> dict[str, float]:
    """Photos/s of the demo's training steps and predictions on random photos in memory."""
    import torch  # before the package, which might set what is to be compared

    from stacked_ram.config.yaml import load_config
    from stacked_ram.models.build import build_model
    from stacked_ram.training import estimators
    from stacked_ram.training.optim import make_optimizer

    torch.manual_seed(0)
    config = load_config(Path(__file__).parents[1] / "configs" / "demo.yaml")
    settings = config.training
    mean = std = (0.5, 0.5, 0.5)
    model = build_model(config.model, num_classes=10, channels=3, mean=mean, std=std)
    optimizer = make_optimizer(model, settings)
    count = 8 if quick else settings.batch_size
    pixels = torch.randint(0, 256, (count, 3, 72, 96), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,))

    def train() -> None:
        model.train()
        next(estimators.losses(model, model.photos(pixels), labels, settings)).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def predict() -> None:
        model.eval()
        with torch.no_grad():
            model(model.photos(pixels))

    works = {"train": train, "predict": predict}
    return {name: len(pixels) / seconds_of(work, seconds) for name, work in works.items()}


def seconds_of(work: Callable[[], None], seconds: float) -> float:
    """Median seconds of a call, repeated for so long, but at least once after a warm-up."""
    work()
    times: list[float] = []
    while sum(times) < seconds:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    main()

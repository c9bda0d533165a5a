"""Everything that needs a GPU, in one run of under 8 minutes: correctness first, then speed.

    python benchmarks/gpu.py [--out gpu.json]         on a CUDA GPU
    python benchmarks/gpu.py --device cpu --quick     the same code, a few steps of each

Nothing beyond torch and this package, and timm for the last
part, which is left out without it. Digits are made here. Each part runs in its own process with
its own share of the time, so that one that fails or takes too long costs the others nothing.

    check     patches and losses against float64 on the CPU; the graph against step by step
    digitsN   training steps of the paper's model at NxN, everything on the device: canvases
              composed or shifted, rollouts, losses, optimiser
                reference   glimpses cut in a Python loop over the photos (peers.py)
                eager       this package, kernel by kernel
                graph       the step replayed as one CUDA graph
                compiled    the step compiled first, then replayed
    backbone  96-pixel patches through a backbone in bf16, channels-last, beside the same backbone
              trained on random tensors of as many patches

Rates are of whole epochs without a host synchronisation (torch raises an error at one), by the
clock.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import repository  # noqa: F401
import torch
from peers import PeerRAM
from torch import Tensor, nn

from stacked_ram import losses
from stacked_ram.build import build_model
from stacked_ram.config import ModelConfig, TrainingConfig
from stacked_ram.data.canvas import compose, shift
from stacked_ram.graphs import StepGraph
from stacked_ram.learning import learning_passes, total
from stacked_ram.model import RAM
from stacked_ram.retina.geometry import GlimpseGeometry
from stacked_ram.retina.patches import Photos

SETTINGS = {28: (8, 1, 6), 60: (12, 3, 8), 100: (12, 4, 8)}  # side: patch_size, patches, steps
PARTS = {  # and the most seconds that each may take
    "check": 60,
    "digits28": 190,
    "digits100": 130,
    "backbone": 80,
    "digits60": 100,
}
EPOCHS = 200
COMPILING = 60  # seconds that must be left for it
Row = dict[str, Any]


class Sizes:
    """How much is done: all of it, or a touch of everything."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.batch = 16 if quick else 128
        self.digits = 256 if quick else 60_000
        self.reference_steps = 1 if quick else 8
        self.eager_steps = 2 if quick else 40
        self.epoch_seconds = 0.0 if quick else 70.0  # of a long run at 28x28
        self.backbone = "test_efficientnet" if quick else "tf_efficientnet_lite0"
        self.photos = 2 if quick else 128


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
    work = {"check": check, "backbone": backbone}.get(part, digits)
    try:
        for row in work(part, options, ends):
            rows.append({"part": part, **row})
            print(line(rows[-1]), flush=True)
            if options.inside:
                options.out.write_text(json.dumps({"rows": rows}))
    except Exception as error:
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


# ---------------------------------------------------------------------- correctness


def check(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    """Each row has an error and the most it may be; one above it raises."""
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for side, (size, patches, steps) in SETTINGS.items():
        torch.manual_seed(side)
        pixels = torch.randint(0, 256, (32, 1, side, side), dtype=torch.uint8)
        labels = torch.randint(0, 10, (32,))
        # on a grid that float32 holds exactly, so that boxes snap alike in both precisions
        locations = (torch.randint(-64, 65, (32, steps, 1, 2)) + 0.25) / 64
        geometry = GlimpseGeometry(size, patches)
        exact = Photos(pixels.double() / 255)
        ours = Photos(pixels.to(device))
        found = ours.patches(locations[:, 0, 0].to(device), geometry)
        wanted = exact.patches(locations[:, 0, 0].double(), geometry)
        yield bounded(f"patches {side}", apart([found], [wanted]), 1e-6)

        model = paper_model(side)
        reference = paper_model(side).double()
        reference.load_state_dict(model.state_dict())
        one = given_loss(model.to(device), ours, labels.to(device), locations.to(device))
        other = given_loss(reference, exact, labels, locations.double())
        yield bounded(f"loss {side}", apart([one], [other]), 1e-5)
        gradients = [[p.grad for p in each.parameters()] for each in (model, reference)]
        yield bounded(f"gradients {side}", apart(*gradients), 1e-4)
    torch.set_float32_matmul_precision("high")
    sizes = Sizes(options.quick)
    data = made_digits(sizes.batch + 3, device)
    for side in SETTINGS:
        ways = []
        for graph in (False, True):
            work = Digits(side, data, sizes.batch, bf16=False)
            rows = torch.arange(sizes.batch, device=device)
            torch.manual_seed(1)
            step: Callable = work.step
            if graph:
                step = StepGraph(work.step, (rows,), warmups=2)
            else:
                step(rows), step(rows)
            for number in range(3):
                torch.manual_seed(10 + number)
                step(rows + number)
            ways.append(list(work.model.parameters()))
        yield bounded(f"graph to eager {side}", apart(*ways), 1e-3)


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative distance, all values as one vector."""
    one = torch.cat([each.detach().double().cpu().flatten() for each in found])
    other = torch.cat([each.detach().double().cpu().flatten() for each in wanted])
    return float((one - other).norm() / other.norm())


def bounded(what: str, error: float, most: float) -> Row:
    if not error <= most:
        raise AssertionError(f"{what}: off by {error:.2e}, at most {most:.0e} is right")
    return {"what": what, "off": f"{error:.1e}", "limit": f"{most:.0e}"}


def given_loss(model: RAM, photos: Photos, labels: Tensor, locations: Tensor) -> Tensor:
    """The whole REINFORCE loss of a scan path that is given, differentiated."""
    settings = TrainingConfig(step_losses="all")
    trace = model(photos, locations_BTS2=locations)
    returns = losses.returns(trace, labels, "drop")
    policy = losses.policy_loss(trace, returns - trace.baselines_BT.detach())
    loss = total(trace, labels, settings, None, returns, policy).total
    loss.backward()
    return loss


# ---------------------------------------------------------------------- the paper's model


def paper_model(side: int) -> RAM:
    size, patches, steps = SETTINGS[side]
    config = ModelConfig(patch_size=size, num_patches=patches, num_glimpses=steps, core="rnn")
    torch.manual_seed(0)
    return build_model(config, num_classes=10, channels=1, mean=[0.0], std=[1.0])


def made_digits(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ten smooth shapes with noise, 28x28: something that can be learned. uint8, and labels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(10, 1, 6, 6, generator=generator)
    shapes = nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")[:, 0]
    shapes = ((shapes - 0.5) * 4).clamp(0, 1).to(device)
    labels = torch.randint(0, 10, (count,), generator=generator).to(device)
    images = torch.cat([
        (shapes[some] * (180 + 75 * torch.rand_like(shapes[some]))).to(torch.uint8)
        for some in labels.split(4096)
    ])  # fmt: skip
    return images, labels


class Digits:
    """A model, its optimiser and digits on one device; `step` trains on some of them."""

    def __init__(self, side: int, data: tuple[Tensor, Tensor], batch: int, bf16: bool):
        self.side, self.batch, self.bf16 = side, batch, bf16
        self.images, self.labels = data
        self.device = self.images.device
        self.settings = TrainingConfig(step_losses="last")
        self.model = paper_model(side).to(self.device).train()
        cuda = self.device.type == "cuda"
        rate = torch.tensor(1e-3, device=self.device) if cuda else 1e-3
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, weight_decay=0.0, fused=True, capturable=cuda
        )
        self.right = torch.zeros((), device=self.device)
        self.loss: Callable = self.loss_of

    def canvases(self, rows_B: Tensor) -> Tensor:
        images = self.images[rows_B]
        if self.side == 28:
            return shift(images, 2)
        canvas = (self.side, self.side)
        return compose(images, canvas, clutter=4, pool_NHW=self.images, index_B=rows_B)[0]

    def loss_of(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        photos = self.model.photos(pixels)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = next(learning_passes(self.model, photos, labels, self.settings))
        return found.total, (found.logits_RN.argmax(1) == labels).sum()

    def step(self, rows_B: Tensor) -> None:
        labels = self.labels[rows_B]
        loss, right = self.loss(self.canvases(rows_B), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.right += right


def digits(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    side, sizes = int(part.removeprefix("digits")), Sizes(options.quick)
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    data = made_digits(sizes.digits, device)
    references = {}
    for bf16 in (False, True):
        precision = "bf16" if bf16 else "float32"
        steps, step = sizes.reference_steps, reference_step(side, data, sizes.batch, bf16)
        step()  # warm-up
        references[bf16] = sizes.batch * steps / clocked(lambda s=step, n=steps: repeat(s, n))
        yield {"what": f"reference {precision}", "photos/s": references[bf16]}

        work = Digits(side, data, sizes.batch, bf16)
        rows = order(work)
        for row in rows[:3]:
            work.step(row)
        taken = clocked(lambda w=work, r=rows: [w.step(row) for row in r[: sizes.eager_steps]])
        rate = sizes.batch * min(sizes.eager_steps, len(rows)) / taken
        yield {
            "what": f"eager {precision}",
            "photos/s": rate,
            "to reference": rate / references[bf16],
        }

    ways = [(False, False, sizes.batch), (True, False, sizes.batch)]
    if side == 28:
        ways.append((True, False, 8 * sizes.batch))
    if not (options.no_compile or options.quick):
        ways += [(True, True, sizes.batch), (False, True, sizes.batch)]
    best: tuple[float, Digits | None, StepGraph | None] = (0.0, None, None)
    for bf16, compiled, batch in ways:
        what = f"{'compiled' if compiled else 'graph'} {'bf16' if bf16 else 'float32'}"
        what += f" batch {batch}" if batch != sizes.batch else ""
        if compiled and ends - time.monotonic() < COMPILING + sizes.epoch_seconds * (side == 28):
            yield {"what": what, "left out": "no time"}
            continue
        try:
            work, graph, row = graphed(side, data, batch, bf16, compiled)
        except Exception as error:  # one way that fails is a row of its own
            yield {"what": what, "error": f"{type(error).__name__}: {str(error)[:300]}"}
            continue
        row["to reference"] = row["photos/s"] / references[bf16]
        row[f"{EPOCHS} epochs of 60,000, s"] = 60_000 * EPOCHS / row["photos/s"]
        yield {"what": what, **row}
        if batch == sizes.batch and row["photos/s"] > best[0]:
            best = (row["photos/s"], work, graph)
    if side == 28 and best[1] is not None:
        yield long_run(best[1], best[2], min(sizes.epoch_seconds, ends - time.monotonic() - 5))


def reference_step(side: int, data: tuple[Tensor, Tensor], batch: int, bf16: bool) -> Callable:
    """The per-photo loop on ready canvases: composing them is not even counted."""
    torch.manual_seed(0)
    work = Digits(side, data, batch, bf16)
    model = PeerRAM(*SETTINGS[side]).to(work.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = torch.arange(batch, device=work.device)
    photos, labels = work.canvases(rows).float() / 255, work.labels[rows]

    def step() -> None:
        with torch.autocast(work.device.type, torch.bfloat16, enabled=bf16):
            loss = model(photos, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def order(work: Digits) -> Tensor:
    """The digits of an epoch in a new order, whole batches, on the device."""
    count = len(work.labels) // work.batch
    return torch.randperm(len(work.labels), device=work.device)[: count * work.batch].view(
        count, work.batch
    )


def graphed(
    side: int, data: tuple[Tensor, Tensor], batch: int, bf16: bool, compiled: bool
) -> tuple[Digits, StepGraph, Row]:
    work = Digits(side, data, batch, bf16)
    begun = time.monotonic()
    if compiled:
        work.loss = torch.compile(work.loss_of, dynamic=False)
    graph = StepGraph(work.step, (order(work)[0],))
    made = time.monotonic() - begun
    epoch(work, graph)
    taken = clocked(lambda: epoch(work, graph))
    rate = (len(work.labels) // batch) * batch / taken
    return work, graph, {"photos/s": rate, "made in, s": made}


def epoch(work: Digits, graph: StepGraph) -> None:
    """All digits once. On CUDA a host synchronisation would raise an error."""
    rows = order(work)
    with no_waiting(work.device):
        work.right.zero_()
        for row in rows:
            graph(row)


def long_run(work: Digits, graph: StepGraph, seconds: float) -> Row:
    """As many of the 200 epochs as fit, one after the other."""
    done, begun = 0, time.monotonic()
    while done < EPOCHS and (done == 0 or time.monotonic() - begun < seconds):
        epoch(work, graph)
        done += 1
        if done % 5 == 0:
            settled(work.device)
    settled(work.device)
    taken = time.monotonic() - begun
    share = float(work.right) / (len(work.labels) // work.batch * work.batch)
    return {"what": "run for real", "epochs": done, "seconds": taken,
            "of all 200, s": taken * EPOCHS / done, "training accuracy": share}  # fmt: skip


# ---------------------------------------------------------------------- the backbone


def backbone(part: str, options: argparse.Namespace, ends: float) -> Iterator[Row]:
    if importlib.util.find_spec("timm") is None:
        yield {"what": "", "left out": "no timm"}
        return
    sizes, device = Sizes(options.quick), torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    config = ModelConfig(
        retina="backbone", backbone=sizes.backbone, patch_size=96, num_patches=2,
        num_glimpses=1 if options.quick else 4,
    )  # fmt: skip
    side = 112 if options.quick else 224
    pixels = torch.randint(0, 256, (sizes.photos, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (sizes.photos,), device=device)
    calls = config.num_glimpses
    patches = torch.randn(sizes.photos * config.num_patches, 3, 96, 96, device=device)
    patches = patches.to(memory_format=torch.channels_last)
    facts = {"num_classes": 10, "channels": 3, "mean": [0.4] * 3, "std": [0.25] * 3}
    model = build_model(config, **facts).to(device, memory_format=torch.channels_last)
    twin = build_model(config, **facts).to(device, memory_format=torch.channels_last)
    head = nn.Linear(twin.backbone.out_features, 10).to(device)
    answers = labels.repeat_interleave(config.num_patches, 0)
    settings = TrainingConfig()

    def ours(pixels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            photos = model.photos(pixels)
            loss = next(learning_passes(model, photos, labels, settings)).total
        update(loss, optimizers[0])

    def random_calls(patches: Tensor) -> None:
        """As many patches in as many calls."""
        with torch.autocast(device.type, torch.bfloat16):
            logits = [head(twin.backbone(patches)) for _ in range(calls)]
            loss = sum(nn.functional.cross_entropy(one.float(), answers) for one in logits)
        update(loss, optimizers[1])

    def random_one_call(patches: Tensor) -> None:
        """As many patches in one call."""
        with torch.autocast(device.type, torch.bfloat16):
            logits = head(twin.backbone(patches.repeat(calls, 1, 1, 1)))
            loss = nn.functional.cross_entropy(logits.float(), answers.repeat(calls))
        update(loss, optimizers[1])

    cuda = device.type == "cuda"
    trained = [list(model.parameters()), [*twin.backbone.parameters(), *head.parameters()]]
    optimizers = [torch.optim.AdamW(each, fused=True, capturable=cuda) for each in trained]
    count, rates = len(patches) * calls, {}
    for name, step, given in (
        ("random, as many calls", random_calls, patches),
        ("random, one call", random_one_call, patches),
        ("ours", ours, pixels),
    ):
        for graph in (False, True):
            run = StepGraph(step, (given,), warmups=5) if graph else step
            times = 1 if options.quick else 15
            for _ in range(1 if options.quick else 3):
                run(given)
            taken = clocked(lambda r=run, n=times, g=given: repeat(r, n, g))
            way = f"{name}{', graph' if graph else ''}"
            rates[way] = count * times / taken
            row = {"what": way, "patches/s": rates[way]}
            if name == "ours":
                row["to as many calls"] = (
                    rates[way] / rates[way.replace(name, "random, as many calls")]
                )
                row["to one call"] = rates[way] / rates[way.replace(name, "random, one call")]
            yield row


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


# ---------------------------------------------------------------------- the clock


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


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    main()

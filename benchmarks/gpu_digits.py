"""The parts `digitsN` of gpu.py: training steps of the paper's model, all of it on the device."""

from __future__ import annotations

import argparse
import contextlib
import time
import traceback
from collections.abc import Callable, Iterator

import torch
from gpu_parts import Row, Sizes, clocked, repeat, settled
from peers import PeerRAM
from torch import Tensor, nn

from stacked_ram.config.schema import ModelConfig, TrainingConfig
from stacked_ram.data.canvas import compose, shift
from stacked_ram.models.build import build_model
from stacked_ram.models.ram import RAM
from stacked_ram.training import estimators
from stacked_ram.training.cuda_graphs import WARM_UP, StepGraph

SETTINGS = {28: (8, 1, 6), 60: (12, 3, 8), 100: (12, 4, 8)}  # side: patch_size, patches, steps
EPOCHS = 200
COMPILING = 40  # seconds that must be left for it


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
            found = next(estimators.losses(self.model, photos, labels, self.settings))
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
        ways.append((True, False, sizes.large_batch))
    if not (options.no_compile or options.quick):
        ways.append((True, True, sizes.batch))
        if side == 28:
            ways.append((True, True, sizes.large_batch))
    best: tuple[float, Digits | None, StepGraph | None] = (0.0, None, None)
    for bf16, compiled, batch in ways:
        what = f"{'compiled' if compiled else 'graph'} {'bf16' if bf16 else 'float32'}"
        what += f" batch {batch}" if batch != sizes.batch else ""
        if compiled and ends - time.monotonic() < COMPILING + sizes.run_seconds * (side == 28):
            yield {"what": what, "left out": "no time"}
            continue
        try:
            work, graph, row = graphed(side, data, batch, bf16, compiled)
        except Exception as error:  # one way that fails is a row of its own
            traceback.print_exc()
            yield {"what": what, "error": f"{type(error).__name__}: {str(error)[:300]}"}
            continue
        row["to reference"] = row["photos/s"] / references[bf16]
        row[f"{EPOCHS} epochs of 60,000, s"] = 60_000 * EPOCHS / row["photos/s"]
        yield {"what": what, **row}
        if batch == sizes.batch and row["photos/s"] > best[0]:
            best = (row["photos/s"], work, graph)
    if side == 28 and best[1] is not None:
        yield long_run(best[1], best[2], min(sizes.run_seconds, ends - time.monotonic() - 5))


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
    graph = StepGraph(work.step)
    for _ in range(WARM_UP + 1):
        graph(order(work)[0])
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

"""What a run shows while it trains: a progress bar, and curves in TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from stacked_ram.config.schema import Config
    from stacked_ram.data.batch import Batch
    from stacked_ram.data.left_out import LeftOut
    from stacked_ram.models.ram import RAM
    from stacked_ram.training.meters import Row
    from stacked_ram.training.trainer import Trainer


class Callback:
    """What is done at four moments of a training; a subclass overrides those it needs."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """After an epoch was trained, validated and saved. row: its metrics."""


PICTURES = 8
REFRESH = 0.5  # seconds between readings of the device


class Progress:
    """A bar over all photos of the run, with photos/s and the time left."""

    def __init__(self, trainer: Trainer, *, shown: bool) -> None:
        from tqdm import tqdm

        per_epoch = trainer.photos_per_epoch
        self.trainer = trainer
        self.bar = tqdm(
            total=trainer.settings.epochs * per_epoch,
            initial=trainer.learner.step * per_epoch // len(trainer.loader),
            unit=" photos",
            unit_scale=True,
            mininterval=REFRESH,
            dynamic_ncols=True,
            disable=None if shown else True,  # None: only on a terminal
            file=sys.stderr,
        )
        self._read_at = time.monotonic()

    def __enter__(self) -> Progress:
        self.trainer.run.echo_through(self._print)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.trainer.run.echo_through(print)

    def after_batch(self, photos: int) -> None:
        self.bar.update(photos)
        now = time.monotonic()
        if now - self._read_at < REFRESH:
            return
        self._read_at = now
        self.trainer.learner.watch.check()
        if not self.bar.disable:
            values = self.trainer.learner.averages.read()
            self.say(
                f"epoch {self.trainer.epoch + 1}, loss {values.get('total', float('nan')):.3f},"
                f" accuracy {values.get('accuracy', float('nan')):.3f}"
            )

    def say(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)

    def _print(self, text: str) -> None:
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()


class Board:
    """TensorBoard's files of a run; without a folder, nothing."""

    def __init__(self, folder: Path | None, epoch: int) -> None:
        self.writer = None
        self.photos: tuple[tuple[str, ...], Batch] | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What an interrupted process wrote beyond its last checkpoint is not shown.
            self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, row: Row, epoch: int) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace("_", "/", 1), value, epoch)

    def draw_scan_paths(self, model: RAM, config: Config, epoch: int, left_out: LeftOut) -> None:
        """What the model looks at on the same few validation photos each time."""
        if self.writer is None:
            return
        import torch

        from stacked_ram.viz.training_pictures import draw_scan_paths

        self.photos = self.photos or a_few_photos(config)
        classes, batch = self.photos
        batch = batch.to(next(model.parameters()).device)
        model.eval()

        def draw(batch: Batch) -> Figure:
            with torch.no_grad():
                trace = model(model.photos(batch.pixels_BCHW, batch.sizes_B2))
            return draw_scan_paths(
                batch.pixels_BCHW, trace, classes, batch.labels_B.cpu(), batch.sizes_B2.cpu()
            )

        for _, figure in left_out.each([batch], draw):
            self.writer.add_image("scan paths", pixels_of(figure), epoch, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def a_few_photos(config: Config) -> tuple[tuple[str, ...], Batch]:
    """The classes, and PICTURES validation photos in one batch, as they are evaluated."""
    from stacked_ram.config.yaml import replace_fields
    from stacked_ram.data.dataset import open_dataset
    from stacked_ram.data.loader import make_loader

    few = min(PICTURES, config.data.limit_photos or PICTURES)
    fields = {"limit_photos": few, "batch_size": few, "workers": 0, "cache": "none"}
    config = replace_fields(config, fields)
    dataset = open_dataset(config.data, "valid")
    return dataset.classes, next(iter(make_loader(dataset, config, train=False)))


def pixels_of(figure: Figure) -> np.ndarray:
    """A drawn figure as uint8 RGB, HWC."""
    import numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[:, :, :3]

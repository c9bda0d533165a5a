"""What a run shows while it trains: a progress bar, and curves in TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stacked_ram.engine import Row, Trainer

REFRESH = 0.5  # seconds between readings of the device


class Progress:
    """A bar over all photos of the run, with photos/s and the time left."""

    def __init__(self, trainer: Trainer, *, shown: bool) -> None:
        from tqdm import tqdm

        per_epoch = trainer.photos_per_epoch
        self.trainer = trainer
        self.bar = tqdm(
            total=trainer.settings.epochs * per_epoch,
            initial=trainer.step * per_epoch // len(trainer.loader),
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
        self.trainer.watch.check()
        if not self.bar.disable:
            values = self.trainer.averages.read()
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
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What an interrupted process wrote beyond its last checkpoint is not shown.
            self.writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, row: Row, epoch: int) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace("_", "/", 1), value, epoch)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

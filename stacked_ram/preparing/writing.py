"""Writing a prepared data set, so that it is whole or not there at all.

    with DatasetWriter(options, kind="digits", channels=1, classes=names) as writer:
        for ...:
            encoded = encode_photo(image, ".png")  # may be done in a worker process
            writer.add(encoded, class_name="7", split="train", source="train-images:17")
        writer.finish(rule="the official split", layout="mnist")

Everything goes to the working folder beside DEST (`.NAME.partial`) and gets DEST's name when it is
complete. What was left out, and why, is told with `leave_out`; it is listed in report.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from PIL import Image

from stacked_ram.preparing.options import PrepareOptions
from stacked_ram.preparing.records import Box, EncodedPhoto


def encode_photo(image: Image.Image, suffix: str, quality: int = 92) -> EncodedPhoto:
    """Encode a picture (mode RGB or L) as ".jpg" or ".png" and describe it for the manifest.

    The same picture gives the same bytes. Safe to call in a worker process: it writes nothing.
    """
    raise NotImplementedError


class DatasetWriter:
    """Collects the photos of one data set and puts it under DEST's name when it is complete.

    Not to be shared by processes: workers encode, the parent adds. The rows live in a small
    database on disk, so memory does not grow with the number of photos.
    """

    def __init__(
        self, options: PrepareOptions, *, kind: str, channels: int, classes: Sequence[str]
    ) -> None:
        """Start (again) an empty tree in the working folder.

        Args:
            kind: "photos" or "digits".
            channels: 3 (RGB) or 1 (grayscale), of every photo that will be added.
            classes: all class names, in any order; sorted here: the index is the label.
        """
        raise NotImplementedError

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def add(
        self,
        photo: EncodedPhoto,
        *,
        class_name: str,
        split: str,
        source: str,
        name: str = "",
        group: str = "",
        box: Box | None = None,
        fold: int | None = None,
        repairs: Sequence[str] = (),
    ) -> str:
        """Store one photo and its row of the manifest; returns its path relative to DEST.

        Args:
            source: where it came from, as text for the manifest ("train-images:17").
            name: what to call the file, without suffix; made safe and unique here. The stem of
                `source` where empty.
        """
        raise NotImplementedError

    def leave_out(self, *, source: str, class_name: str, fate: str, problem: str, detail: str = ""):
        """Tell of a photo that is not in the data set.

        Args:
            fate: "quarantined" (cannot be used) or "left out" (could be, but must not).
            problem: one word for the counts ("truncated", "conflict", ...); detail: one line.
        """
        raise NotImplementedError

    def finish(
        self,
        *,
        rule: str,
        layout: str,
        notes: Sequence[str] = (),
        details: Mapping[str, object] | None = None,
    ) -> Path:
        """Write manifest.csv, dataset.yaml and the reports, and give the folder DEST's name.

        Args:
            rule: how the split was made, in words.
            layout: what the source was read as.
            notes: lines for the reader of the report and the summary.
            details: further plain values for dataset.yaml.

        Returns:
            DEST.
        """
        raise NotImplementedError

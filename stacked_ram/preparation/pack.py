"""Write a prepared data set of photos as shards: tars in WebDataset's format, and their tables.

Training photos are put in random order, so that photos near each other are not of one class; the
others stay in the manifest's. What is in the files: stacked_ram/data/shard_files.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from stacked_ram.data.dataset_info import read_dataset_info
from stacked_ram.data.manifest import (
    BOX,
    multi_hot,
    read_manifest,
    read_objects,
    split_labels,
)
from stacked_ram.data.shard_files import FILE, FORMAT, is_sharded
from stacked_ram.images.opening import LARGE, is_slide
from stacked_ram.preparation.progress import progress_bar
from stacked_ram.preparation.records import SPLITS
from stacked_ram.preparation.workdir import publish, remove_tree, sync_folder, write_info
from stacked_ram.runtime.errors import UserError

HEADER = 512  # bytes before each file of a tar
SEED = 0  # of the order of the training photos


def shards_folder(dest: Path) -> Path:
    """Return the folder of a data set's shards: NAME-shards beside it."""
    return dest.with_name(f"{dest.name}-shards")


def write_shards(dest: Path, megabytes: float) -> Path:
    """Write the shards of the data set at `dest`, unless they are there; return their folder.

    megabytes: size of a shard.

    Raises:
        UserError: the data set cannot be written as shards, or the place is taken.
        OSError: the disk is full, or a photo cannot be read.
    """
    info = read_dataset_info(dest)
    if info["kind"] != "photos":
        raise UserError(f"--shards: {dest} holds digits in arrays; only photos lie in shards")
    target = shards_folder(dest)
    made_from = {
        "manifest": hashlib.sha256((dest / "manifest.csv").read_bytes()).hexdigest(),
        "megabytes": megabytes,
    }
    if target.exists():
        if not is_sharded(target):
            raise UserError(f"--shards: {target} exists and holds no shards: move it away")
        if read_dataset_info(target).get("shards") == made_from:
            return target
    tree = target.with_name(f".{target.name}.partial")
    remove_tree(tree)  # of a run that was stopped
    tree.mkdir()
    manifest = read_manifest(dest, info)
    _check(dest, manifest)
    splits = {
        split: _write_split(
            dest, tree, split, manifest[manifest["split"] == split], info, megabytes
        )
        for split in SPLITS
        if (manifest["split"] == split).any()
    }
    content = json.dumps({"format": FORMAT, "splits": splits}, indent=1, ensure_ascii=False)
    (tree / FILE).write_text(content, encoding="utf-8")
    # scenes are taken as they are stored: new ones are made of photos in files
    write_info(tree, {key: info[key] for key in info if key != "scene"} | {"shards": made_from})
    sync_folder(tree)
    publish(tree, target)
    return target


def _check(dest: Path, manifest: Any) -> None:
    large = (manifest["width"] * manifest["height"] > LARGE) | manifest["path"].map(is_slide)
    if large.any():
        raise UserError(
            f"--shards: {dest / manifest['path'][large].iloc[0]} is read by region, from a file of"
            f" its own (slides, and photos of more than {LARGE:,} pixels): leave out --shards"
        )


def _write_split(
    dest: Path, tree: Path, split: str, part: Any, info: dict[str, Any], megabytes: float
) -> dict[str, Any]:
    """Write the shards of a split; return what shards.json says of it."""
    several = info.get("labels") == "several"
    labels = [split_labels(text) for text in part["labels"]] if several else part["class"].tolist()
    index = {name: label for label, name in enumerate(info["classes"])}
    objects_NO4 = read_objects(dest, part)
    rows = np.arange(len(part))
    if split == "train":
        rows = np.random.default_rng(SEED).permutation(rows)
    columns = {
        "label": multi_hot(part["labels"].tolist(), info["classes"])
        if several
        else np.array([index[name] for name in labels], np.int64),
        "size": part[["height", "width"]].to_numpy(np.int64),
        "box": part[BOX].to_numpy(np.float32),
        "objects": objects_NO4,
        "name": part["path"].to_numpy(str),
    }
    shards: list[dict[str, Any]] = []
    shard: _Shard | None = None
    for row in progress_bar(iterable=rows, desc=f"shards of {split}", unit=" photos"):
        photo = {name: values[row] for name, values in columns.items()}
        content = (dest / photo["name"]).read_bytes()
        if shard is not None and shard.size + len(content) > megabytes * 1e6:
            shards.append(shard.end(columns))
            shard = None
        if shard is None:
            shard = _Shard(tree / f"{split}-{len(shards):06d}.tar")
        about = {"label": labels[row], "path": str(photo["name"])}
        if not np.isnan(photo["box"]).any():
            about["box"] = photo["box"].tolist()
        shard.add(row, about, content)
    if shard is not None:
        shards.append(shard.end(columns))
    sizes = columns["size"]
    return {
        "photos": len(part),
        "classes": dict(Counter(chain(*labels) if several else labels)),
        "largest": sizes.max(axis=0).tolist(),
        "one_size": sizes[0].tolist() if (sizes == sizes[0]).all() else None,
        "objects": objects_NO4.shape[1],
        "shards": shards,
    }


class _Shard:
    """A tar that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _Hashed(open(path, "wb"))  # noqa: SIM115  closed by `end`
        self.tar = tarfile.TarFile(
            fileobj=self.file,  # type: ignore[arg-type]
            mode="w",
            format=tarfile.USTAR_FORMAT,
        )
        self.rows: list[int] = []
        self.offsets: list[int] = []
        self.lengths: list[int] = []

    @property
    def size(self) -> int:
        return self.tar.offset

    def add(self, row: int, about: dict[str, Any], photo: bytes) -> None:
        """Add a photo and what is known of it."""
        key = f"{len(self.rows):09d}"
        self._add(f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
        self.rows.append(row)
        self.offsets.append(self.tar.offset + HEADER)
        self.lengths.append(len(photo))
        self._add(key + Path(about["path"]).suffix.lower(), photo)

    def _add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)  # of no time and no owner: equal photos give equal shards
        entry.size = len(content)
        self.tar.addfile(entry, io.BytesIO(content))

    def end(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Finish the tar and write its table; return what shards.json says of it."""
        self.tar.close()
        self.file.close()
        rows = np.array(self.rows)
        table = {name: values[rows] for name, values in columns.items()}
        with open(self.path.with_suffix(".npz"), "wb") as file:
            np.savez(file, offset=np.array(self.offsets), length=np.array(self.lengths), **table)
            file.flush()
            os.fsync(file.fileno())
        return {"name": self.path.name, "photos": len(rows), "bytes": self.file.written,
                "sha256": self.file.digest.hexdigest()}  # fmt: skip


class _Hashed:
    """A file whose SHA-256 is computed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.written = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.written += len(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.written

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

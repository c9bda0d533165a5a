"""The files of a sharded data set, which `prepare_data.py --shards` writes.

    dataset.yaml         as in the folder that it was made from
    shards.json          for each split: its photos, class counts, largest size, and its shards
    train-000000.tar     photos in WebDataset's format: 000000000.json, 000000000.jpg, ...
    train-000000.npz     where each photo lies in the tar, its label, size, boxes and name

Other programs read the tars as they are. This package reads single photos out of them by the
tables (.npz), of which it holds those of the shards in use: any photo of any shard is one read of a
file. So what is read in which order is decided without reading (stream_plan.py), a stopped epoch
goes on at any photo, and workers share a shard without reading it twice. WebDataset's own pipeline
reads a tar from its start to its end: to go on in the middle of an epoch it would have to repeat
the epoch so far, and its order depends on the number of workers. That is why it is not used here.

Of a data set at a URL, a shard is copied whole when its first photo is needed, and the shards not
used for longest are removed to keep the copies below a limit.

S shards   B photos   O objects of a photo
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stacked_ram.data.remote import ADDRESS, fetch
from stacked_ram.runtime.errors import RunFailed, UserError

FILE = "shards.json"
FORMAT = 1
OPEN = 32  # tars that a process keeps open
TABLES = 256  # that a process keeps


class Table(NamedTuple):
    """The photos of one shard, in the order of the tar; or some photos of several."""

    offset: np.ndarray
    """int64, where its file begins in the tar."""
    length: np.ndarray
    """int64, bytes of its file."""
    label: np.ndarray
    """int64 (B,); or uint8 (B, C) where photos may have several of C classes."""
    size: np.ndarray
    """int64 (B, 2): height and width."""
    box: np.ndarray
    """float32 (B, 4)."""
    objects: np.ndarray
    """float32 (B, O, 4)."""
    name: np.ndarray
    """text: the path of the photo in the folder that the shards were made from."""

    def take(self, places: np.ndarray) -> Table:
        return Table(*(column[places] for column in self))


def is_sharded(folder: Path) -> bool:
    return (folder / FILE).is_file()


class Shards:
    """The shards of some splits of a data set, whose photos are numbered from 0 through all shards.

    limit: GB that the copies of shards at a URL may take.
    """

    def __init__(self, folder: Path, splits: Sequence[str], limit: float) -> None:
        self.folder, self.limit = folder, limit
        address = folder / ADDRESS
        self.url = address.read_text(encoding="utf-8") if address.is_file() else None
        try:
            about = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise UserError(f"{folder / FILE}: format {about['format']}, not {FORMAT}")
            parts = [about["splits"][split] for split in splits if split in about["splits"]]
            shards = [shard for part in parts for shard in part["shards"]]
            self.names = [str(shard["name"]) for shard in shards]
            self.digests = [str(shard["sha256"]) for shard in shards]
            self.starts_S = np.cumsum([0, *(int(shard["photos"]) for shard in shards)])
            self.counts = {
                name: sum(int(part["classes"].get(name, 0)) for part in parts)
                for name in {key for part in parts for key in part["classes"]}
            }
            self.largest = np.max([part["largest"] for part in parts], axis=0, initial=1)
            sizes = {tuple(part["one_size"] or ()) for part in parts}
            self.one_size = len(sizes) == 1 and () not in sizes
            self.objects = max((int(part["objects"]) for part in parts), default=1)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / FILE}: damaged ({type(error).__name__}); write the shards again"
            ) from None
        self._tables: OrderedDict[int, Table] = OrderedDict()
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of photos."""
        return int(self.starts_S[-1])

    def digest(self) -> str:
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    def shards_of(self, numbers_B: np.ndarray) -> np.ndarray:
        """Return the shard of each photo."""
        return np.searchsorted(self.starts_S, numbers_B, "right") - 1

    def table(self, numbers_B: np.ndarray) -> Table:
        """Return what is known of these photos."""
        shards_B = self.shards_of(numbers_B)
        shards = np.unique(shards_B)
        tables = [self._table(int(shard)) for shard in shards]
        firsts = np.cumsum([0, *(len(table.label) for table in tables)])[:-1]
        whole = Table(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))
        places_B = firsts[np.searchsorted(shards, shards_B)] + numbers_B - self.starts_S[shards_B]
        return whole.take(places_B)

    def read(self, number: int) -> bytes:
        """Return the file of a photo. Raises UserError if the tar is not whole."""
        shard = int(self.shards_of(np.array([number]))[0])
        table, place = self._table(shard), number - self.starts_S[shard]
        length = int(table.length[place])
        content = os.pread(self._file(shard), length, int(table.offset[place]))
        if len(content) < length:
            raise UserError(f"{self.folder / self.names[shard]}: cut short; copy it again")
        return content

    def name(self, number: int) -> str:
        shard = int(self.shards_of(np.array([number]))[0])
        return str(self._table(shard).name[number - self.starts_S[shard]])

    def tars(self) -> Iterator[Path]:
        """Iterate over the tars, each copied first where it is at a URL."""
        for shard in range(len(self.names)):
            yield self._path(shard, ".tar")

    def copy_ahead(self, shards: Iterable[int]) -> None:
        """Begin to copy shards that will be needed; does nothing where they lie on this machine."""
        if self.url is None:
            return
        copiers = ThreadPoolExecutor(1, "copy")
        for shard in shards:
            copiers.submit(self._path, shard, ".tar")
        copiers.shutdown(wait=False)

    def _table(self, shard: int) -> Table:
        if shard not in self._tables:
            path = self._path(shard, ".npz")
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    table = Table(**{field: arrays[field] for field in Table._fields})
            except (OSError, ValueError, KeyError, EOFError) as error:
                raise UserError(
                    f"{path}: cannot be read ({error}); write the shards again"
                ) from None
            objects = np.full((len(table.label), self.objects, 4), np.nan, np.float32)
            objects[:, : table.objects.shape[1]] = table.objects
            self._tables[shard] = table._replace(objects=objects)
            while len(self._tables) > TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            path = self._path(shard, ".tar")
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise RunFailed(f"{path}: cannot be read ({error.strerror})") from None
            while len(self._files) > OPEN:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]

    def _path(self, shard: int, ending: str) -> Path:
        """Return the path of a shard's tar or table, which is copied first if it is at a URL."""
        name = Path(self.names[shard]).stem + ending
        if self.url is None:
            return self.folder / name
        path = self.folder / f"{self.digests[shard][:12]}-{name}"
        try:
            fetch(f"{self.url}/{name}", path)
        except FileNotFoundError:
            raise RunFailed(f"{self.url}/{name}: is not there; copy the shards again") from None
        if ending == ".tar":
            os.utime(path)
            self._make_room(path)
        return path

    def _make_room(self, kept: Path) -> None:
        """Remove the copies that were not used for longest. One that is open stays readable."""
        copies = []
        for path in self.folder.glob("*.tar"):
            try:
                found = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            copies.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total > self.limit * 1e9 and path != kept:
                path.unlink(missing_ok=True)
                total -= size

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_tables": OrderedDict(), "_files": OrderedDict()}


class ShardNames(Sequence[str]):
    """The names of all photos of shards, looked up when they are needed."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: Any) -> Any:
        return self.shards.name(int(number))

    def __iter__(self) -> Iterator[str]:
        return map(self.shards.name, range(len(self)))

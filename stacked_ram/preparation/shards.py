"""Unpack shards: Parquet files and WebDataset tars, which hold photos together with their labels.

Each shard becomes a folder with its photos and a metadata.jsonl that gives their labels, which is
the layout of Hugging Face's image folders.

    Parquet       a column of images (their bytes), a column of labels; if the schema has the names
                  of the classes (ClassLabel), numbers become names
    WebDataset    KEY.jpg with KEY.cls (a number or name) or KEY.json (with `label`); classnames.txt
                  beside the tars, if there is one, has a name per line for the numbers
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from stacked_ram.images.formats import SUFFIXES, formats
from stacked_ram.images.names import safe_name
from stacked_ram.preparation.sources.common import entries, read_lines, read_text, walk
from stacked_ram.preparation.sources.tables import COLUMN_NAMES
from stacked_ram.runtime.errors import UserError

METADATA = "metadata.jsonl"
CLASS_NAMES = ("classnames.txt", "classes.txt")

_NEEDS_ARROW = "Parquet files are read with pyarrow: pip install -r requirements-parquet.txt"
_PHOTO_SUFFIXES = frozenset().union(*SUFFIXES.values())
_DEPTH, _FOLDERS = 3, 16  # how deep and wide shards may be in folders (data/, default/train/)
_PEEK = 64  # entries of a tar that tell whether it is a shard
_ROWS = 64  # read at a time


def find_shards(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the shards of a source and the lists of class names beside them; none if it has none.

    A folder with photos has no shards.
    """
    if path.is_file():
        return ([path] if _is_shard(path) else []), []
    files = []
    for file in _files(path, _DEPTH):
        if file.suffix.lower() in _PHOTO_SUFFIXES:
            return [], []
        files.append(file)
    shards = [file for file in files if file.suffix.lower() == ".parquet"]
    tars = [file for file in files if file.suffix.lower() == ".tar"]
    if not shards and tars and _is_shard(tars[0]):
        shards = tars
    lists = [file for file in files if file.name in CLASS_NAMES] if shards else []
    return shards, lists[:1]


def unpack_parquet(shard: Path, target: Path, most_bytes: int) -> None:
    """Write the photos of a Parquet file to the folder `target`, with their labels.

    Raises:
        UserError: pyarrow is missing, the file is damaged, it has no photos and labels, or its
            photos have more than `most_bytes`.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{shard}: {_NEEDS_ARROW}") from None
    written = 0
    try:
        with (
            parquet.ParquetFile(shard) as opened,
            open(target / METADATA, "w", encoding="utf-8") as metadata,
        ):
            columns = _Columns(shard, opened.schema_arrow)
            rows = itertools.chain.from_iterable(
                batch.to_pylist()
                for batch in opened.iter_batches(_ROWS, columns=[columns.image, columns.label])
            )
            for number, row in enumerate(rows):
                content, name = _image_of(row[columns.image], f"{shard}: row {number}")
                written += len(content)
                if written > most_bytes:
                    raise UserError(f"{shard}: its photos have more than {most_bytes} bytes")
                suffix = Path(name).suffix.lower()
                if suffix not in _PHOTO_SUFFIXES:
                    suffix = _suffix_of(content)
                stem = f"{number:06d}" + (f"-{safe_name(Path(name).stem)}" if name else "")
                (target / f"{stem}{suffix}").write_bytes(content)
                label = columns.label_of(row[columns.label], f"{shard}: row {number}")
                _write_line(metadata, f"{stem}{suffix}", label)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file
            raise
        reason = (str(error).splitlines() or ["cannot be decoded"])[0]
        raise UserError(f"{shard}: broken Parquet file ({reason}): download it again") from error


def list_samples(shard: Path, folder: Path, class_names: Path | None) -> None:
    """Write the labels of an unpacked WebDataset tar to its folder.

    Raises:
        UserError: a photo has no label, or its number has no name.
    """
    names = read_lines(class_names) if class_names is not None else []
    with open(folder / METADATA, "w", encoding="utf-8") as metadata:
        for (place, key), found in itertools.groupby(sorted(walk(folder)), key=_sample_key):
            files = {file.name[len(key) + 1 :].lower(): file for file in found}
            photo = next((files[end] for end in files if f".{end}" in _PHOTO_SUFFIXES), None)
            if photo is None:
                continue
            where = f"{shard}: sample {(place / key).relative_to(folder).as_posix()!r}"
            label = _sample_label(files, where)
            if names and isinstance(label, str) and label.isdecimal():
                if int(label) >= len(names):
                    raise UserError(f"{where}: label {label} has no line in {class_names}")
                label = names[int(label)].strip()
            _write_line(metadata, photo.relative_to(folder).as_posix(), label)


def _files(folder: Path, depth: int) -> Iterator[Path]:
    folders, files = entries(folder)
    yield from files
    if depth > 1 and len(folders) <= _FOLDERS:
        for inner in folders:
            yield from _files(inner, depth - 1)


def _is_shard(path: Path) -> bool:
    """Return whether a file is a Parquet file or a tar of samples."""
    if path.suffix.lower() == ".parquet":
        return True
    if not path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        return False
    photos, labelled = set(), set()
    try:
        with tarfile.open(path, "r:*") as opened:
            for entry in itertools.islice(opened, _PEEK):
                key, _, end = entry.name.rpartition("/")[2].partition(".")
                sample = (entry.name.rpartition("/")[0], key)
                if f".{end.lower()}" in _PHOTO_SUFFIXES:
                    photos.add(sample)
                elif end == "cls":
                    labelled.add(sample)
                elif end == "json" and entry.isreg() and entry.size < 2**20:
                    content = opened.extractfile(entry)
                    if content is not None and _label_in(_parsed(content.read())) is not None:
                        labelled.add(sample)
    except (tarfile.TarError, OSError, EOFError):  # reported when it is unpacked
        return False
    return bool(photos & labelled)


def _write_line(metadata: io.TextIOBase, name: str, label: str | list[str]) -> None:
    line = json.dumps({"file_name": name, "label": label}, ensure_ascii=False)
    metadata.write(line.encode("utf-8", "replace").decode() + "\n")


class _Columns:
    """The columns of a Parquet file that hold the photos and the labels."""

    def __init__(self, shard: Path, schema: Any) -> None:
        metadata = _parsed((schema.metadata or {}).get(b"huggingface", b""))
        info = metadata.get("info") if isinstance(metadata, dict) else None
        features = info.get("features") if isinstance(info, dict) else None
        self._features: dict[str, Any] = features if isinstance(features, dict) else {}
        images = [field.name for field in schema if self._is_image(field)]
        self.image = _choose(shard, "of images", images, COLUMN_NAMES["file"], schema.names)
        others = [name for name in schema.names if name not in images]
        named = [name for name in others if self._class_names(name)]
        known = (*COLUMN_NAMES["label"], "labels", "fine_label")
        labels = named or [name for name in others if name.lower() in known]
        self.label = _choose(shard, "of labels", labels, known, schema.names)
        self._names = self._class_names(self.label)

    def label_of(self, value: Any, where: str) -> str | list[str]:
        """Return the name of a label, or the names of several."""
        if isinstance(value, list):
            return [str(self.label_of(item, where)) for item in value]
        if self._names and isinstance(value, int):
            if not 0 <= value < len(self._names):
                raise UserError(
                    f"{where}: label {value} has no name: leave out a file without labels"
                )
            return self._names[value]
        if value is None:
            raise UserError(f"{where}: has no label: leave out a file without labels")
        return str(value)

    def _is_image(self, field: Any) -> bool:
        kind = self._features.get(field.name)
        if isinstance(kind, dict) and "_type" in kind:
            return kind["_type"] == "Image"
        return "binary" in str(field.type)  # bytes, or a struct with bytes

    def _class_names(self, name: str) -> list[str]:
        """Return the names of the classes that the schema gives for a column."""
        kind = self._features.get(name)
        while isinstance(kind, dict) and kind.get("_type") in ("Sequence", "List", "LargeList"):
            kind = kind.get("feature")
        if isinstance(kind, list) and len(kind) == 1:
            kind = kind[0]
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel":
            return [str(name) for name in kind.get("names") or ()]
        return []


def _choose(
    shard: Path, what: str, found: list[str], preferred: tuple[str, ...], columns: list[str]
) -> str:
    if len(found) == 1:
        return found[0]
    for name in preferred:
        if match := next((column for column in found if column.lower() == name), None):
            return match
    raise UserError(
        f"{shard}: {'several columns' if found else 'has no column'} {what} (its columns are "
        f"{', '.join(found or columns)}): call one {preferred[0]!r}"
    )


def _image_of(value: Any, where: str) -> tuple[bytes, str]:
    """Return the bytes and the name, perhaps "", of the photo in a cell; no bytes if it is empty.

    Raises:
        UserError: the cell has only the name of a file.
    """
    name = ""
    if isinstance(value, dict):
        name = Path(str(value.get("path") or "").replace("\\", "/")).name
        value = value.get("bytes")
        if value is None and name:
            raise UserError(f"{where}: has the path of its photo ({name}), not the bytes")
    return (value if isinstance(value, bytes) else b""), name


def _suffix_of(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            return sorted(SUFFIXES[image.format or ""], key=len)[0]
    except Exception:  # no photo: the checks will say so
        return ".jpg"


def _sample_key(file: Path) -> tuple[Path, str]:
    return file.parent, file.name.partition(".")[0]


def _sample_label(files: dict[str, Path], where: str) -> str | list[str]:
    if "cls" in files:
        label: Any = read_text(files["cls"]).strip()
    else:
        label = _label_in(_parsed(files["json"].read_bytes())) if "json" in files else None
    if label in (None, ""):
        raise UserError(f"{where}: has no label: it needs a .cls, or a .json with `label`")
    return [str(item) for item in label] if isinstance(label, list) else str(label)


def _label_in(content: Any) -> Any:
    """Return the label that the .json of a sample gives, or None."""
    if not isinstance(content, dict):
        return None
    known = ("label", "labels", "cls", *COLUMN_NAMES["label"])
    found = (content[name] for name in known if name in content)
    return next((label for label in found if isinstance(label, (str, int, list))), None)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None

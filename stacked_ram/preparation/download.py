"""Download official data sets: resume interrupted transfers and verify the files."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from stacked_ram.preparation.progress import progress_bar
from stacked_ram.runtime.errors import UserError

_PIECE = 2**18
_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """One file of an official data set; `md5` is "" if none is published."""

    url: str
    md5: str = ""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]


def _mnist_like(base: str, md5s: tuple[str, str, str, str]) -> tuple[RemoteFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    pairs = zip(names, md5s, strict=True)
    return tuple(RemoteFile(f"{base}/{name}-ubyte.gz", md5) for name, md5 in pairs)


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/flowers"
_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs"
OFFICIAL: dict[str, tuple[RemoteFile, ...]] = {
    "flowers17": (
        RemoteFile(f"{_OXFORD}/17/17flowers.tgz"),
        RemoteFile(f"{_OXFORD}/17/datasplits.mat"),
    ),
    "flowers102": (
        RemoteFile(f"{_OXFORD}/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        RemoteFile(f"{_OXFORD}/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        RemoteFile(f"{_OXFORD}/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
    "stanford_dogs": (
        RemoteFile(f"{_STANFORD}/images.tar"),
        RemoteFile(f"{_STANFORD}/lists.tar"),
        RemoteFile(f"{_STANFORD}/annotation.tar"),
    ),
    "cub200": (
        RemoteFile(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
        ),
    ),
    "bach": (
        RemoteFile(
            "https://zenodo.org/records/3632035/files/ICIAR2018_BACH_Challenge.zip",
            "8ae1801334aa943c44627c1eef3631b2",
        ),
    ),
    "mnist": _mnist_like(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": _mnist_like(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "kmnist": _mnist_like(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
}


def download_folder(name: str, dest: Path) -> Path:
    """Return the folder for the files of an official data set: `downloads/NAME` beside DEST."""
    return dest.parent / "downloads" / name


def download(name: str, dest: Path) -> Path:
    """Download the missing files of an official data set; return their folder.

    Raises:
        UserError: there is no network, or a file does not match its published checksum.
    """
    folder = download_folder(name, dest)
    folder.mkdir(parents=True, exist_ok=True)
    for file in OFFICIAL[name]:
        path = folder / file.name
        if path.exists():
            _verify(path, file.md5)
            continue
        part = path.with_name(f"{path.name}.part")
        try:
            fetch(file.url, part)
        except (OSError, urllib.error.URLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            by_hand = " ".join(remote.url for remote in OFFICIAL[name])
            raise UserError(
                f"--download {name}: {file.url} cannot be fetched ({reason}): try again later (it "
                f"continues where it stopped), or fetch {by_hand} by hand into {folder} and run "
                "the same command again"
            ) from error
        _verify(part, file.md5)
        part.rename(path)
    return folder


def fetch(url: str, part: Path) -> None:
    """Download `url` to `part`, continuing an earlier attempt.

    Raises:
        OSError: the transfer was interrupted; the part that arrived is kept.
    """
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the file is already complete
            return
        raise
    with answer:
        if start and answer.status != 206:  # the server sends the whole file again
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = progress_bar(
            total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024,
            desc=url.rsplit("/", 1)[-1],
        )  # fmt: skip
        with open(part, "ab" if start else "wb") as file, bar:
            while piece := answer.read(_PIECE):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"stopped after {part.stat().st_size} of {total} bytes")


def _verify(path: Path, md5: str) -> None:
    if not md5:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise UserError(
            f"{path}: MD5 {found} is not the published {md5}: remove the file and run again"
        )

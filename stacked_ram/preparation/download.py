"""Download official data sets: resume interrupted transfers and verify the files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stacked_ram.preparation.progress import progress_bar
from stacked_ram.runtime.errors import UserError

_PIECE = 2**18
_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """One file of an official data set.

    Attributes:
        url: where it is.
        md5, sha256: of its content, "" if not known.
        size: in bytes, 0 if not known.
    """

    url: str
    md5: str = ""
    size: int = 0
    sha256: str = ""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Downloaded:
    """The files of an official data set on disk.

    Attributes:
        folder: where they are.
        files: the url, size and sha256 of each, for dataset.yaml.
    """

    folder: Path
    files: list[dict[str, str | int]]


def _mnist_like(base: str, *files: tuple[str, int]) -> tuple[RemoteFile, ...]:
    """Return the four files, given the (md5, size) of each."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    pairs = zip(names, files, strict=True)
    return tuple(RemoteFile(f"{base}/{name}-ubyte.gz", md5, size) for name, (md5, size) in pairs)


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/flowers"
_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs"
OFFICIAL: dict[str, tuple[RemoteFile, ...]] = {
    "flowers17": (
        RemoteFile(f"{_OXFORD}/17/17flowers.tgz"),
        RemoteFile(f"{_OXFORD}/17/datasplits.mat"),
    ),
    "flowers102": (
        RemoteFile(f"{_OXFORD}/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", 344862509),
        RemoteFile(f"{_OXFORD}/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", 502),
        RemoteFile(f"{_OXFORD}/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", 14989),
    ),
    "stanford_dogs": (
        RemoteFile(
            f"{_STANFORD}/images.tar",
            size=793579520,
            sha256="a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        ),
        RemoteFile(
            f"{_STANFORD}/lists.tar",
            size=481280,
            sha256="34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        ),
        RemoteFile(
            f"{_STANFORD}/annotation.tar",
            size=21852160,
            sha256="662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
        ),
    ),
    "cub200": (
        RemoteFile(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            1150585339,
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
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
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28881),
        ("9fb629c4189551a2d022fa330f9573f3", 1648877),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4542),
    ),
    "fashion_mnist": _mnist_like(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880),
        ("25c81989df183df01b3e8a0aad5dffbe", 29515),
        ("bef4ecab320f06d8554ea6380940ec79", 4422102),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5148),
    ),
    "kmnist": _mnist_like(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        ("bdb82020997e1d708af4cf47b453dcf7", 18165135),
        ("e144d726b3acfaa3e44228e80efcd344", 29497),
        ("5c965bf0a639b31b8f53240b1b52f4d7", 3041136),
        ("7320c461ea6c1c855c0b718fb2a4b134", 5120),
    ),
}


def download_folder(name: str, dest: Path) -> Path:
    """Return the folder for the files of an official data set: `downloads/NAME` beside DEST."""
    return dest.parent / "downloads" / name


def download(name: str, dest: Path) -> Downloaded:
    """Download the missing files of an official data set, and check all of them.

    Raises:
        UserError: there is no network, or a file has not the known size or checksum.
    """
    found = Downloaded(download_folder(name, dest), [])
    folder = found.folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in OFFICIAL[name]:
        path = folder / file.name
        if path.exists():
            found.files.append(_verify(path, file))
            continue
        part = path.with_name(f"{path.name}.part")
        try:
            fetch(file.url, part)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            by_hand = " ".join(remote.url for remote in OFFICIAL[name])
            raise UserError(
                f"--download {name}: {file.url} cannot be fetched ({reason}): try again later (it "
                f"continues where it stopped), or fetch {by_hand} by hand into {folder} and run "
                "the same command again"
            ) from error
        found.files.append(_verify(part, file))
        part.rename(path)
    return found


def fetch(url: str, part: Path) -> None:
    """Download `url` to `part`, continuing an earlier attempt.

    Raises:
        OSError: the transfer was interrupted; the part that arrived is kept.
    """
    import urllib.error  # only here: it takes long to import
    import urllib.request

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


def _verify(path: Path, file: RemoteFile) -> dict[str, str | int]:
    """Check a file against what is known of it; return its url, size and sha256."""
    size = path.stat().st_size
    if file.size and size != file.size:
        raise _wrong(path, f"{size} bytes are not the known {file.size}")
    with open(path, "rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        opened.seek(0)
        md5 = hashlib.file_digest(opened, "md5").hexdigest() if file.md5 else ""
    for name, found, known in (("MD5", md5, file.md5), ("SHA-256", sha256, file.sha256)):
        if known and found != known:
            raise _wrong(path, f"{name} {found} is not the published {known}")
    return {"url": file.url, "size": size, "sha256": sha256}


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}: remove the file and run again")

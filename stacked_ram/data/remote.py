"""Data sets at a URL: what is needed of them is copied into a folder of this machine.

fsspec reads http, https, s3, gs and others; some need a package of their own (aiohttp, s3fs,
gcsfs). A file is copied whole, under a lock, by whichever process needs it first.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

from stacked_ram.runtime.errors import RunFailed, UserError

URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")
ADDRESS = "address"  # the file of a copy that holds its URL
TRIES = 3
PAUSE = 1.0  # seconds before the second try, and twice as many before the third


def url_of(dataset: str | Path) -> str | None:
    """Return the URL that a data set is given by; None for a folder. (A path has lost one of the
    two slashes.)"""
    match = URL.fullmatch(str(dataset).rstrip("/"))
    return None if match is None else f"{match[1]}://{match[2]}"


def dataset_folder(dataset: str | Path) -> Path:
    """Return the folder of a data set; of one at a URL, that of its copy, which begins with its
    description alone.

    Raises UserError if there is no sharded data set at the URL, and RunFailed if it cannot be
    reached.
    """
    url = url_of(dataset)
    return Path(dataset) if url is None else _copy_of(url)


@functools.cache
def _copy_of(url: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stacked_ram/shards"
    name = url.rpartition("/")[2]
    folder = home / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADDRESS).write_text(url, encoding="utf-8")
    for file in ("dataset.yaml", "shards.json"):  # they may have changed
        try:
            fetch(f"{url}/{file}", folder / file, again=True)
        except FileNotFoundError:
            raise UserError(
                f"{url}: no {file} there: give the address of a folder that prepare_data.py"
                " --shards wrote"
            ) from None
    return folder


def fetch(url: str, target: Path, again: bool = False) -> None:
    """Copy a file to `target`, whole or not at all, unless it is there. again: also then.

    Raises FileNotFoundError, UserError if a package is missing that reads such a URL, and
    RunFailed if it cannot be read after some tries.
    """
    if target.is_file() and not again:
        return
    with open(target.with_name(f".{target.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes want the same file: it is copied once
        if target.is_file() and not again:
            return
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            _download(url, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _download(url: str, target: Path) -> None:
    import fsspec

    for attempt in range(TRIES):
        try:
            files: Any
            files, path = fsspec.core.url_to_fs(url)
            files.get_file(path, str(target))
            return
        except ImportError as error:
            raise UserError(
                f"{url}: {error}; pip install -r requirements-remote.txt, for s3 and gs s3fs and"
                " gcsfs"
            ) from None
        except ValueError as error:  # a protocol that there is not
            raise UserError(f"{url}: {error}") from None
        except FileNotFoundError:
            raise
        except Exception as error:  # each protocol has errors of its own
            if getattr(error, "errno", None) is not None and target.exists():
                raise  # of this machine's disk
            if attempt == TRIES - 1:
                reason = str(error) or type(error).__name__
                raise RunFailed(f"{url}: cannot be read ({reason})") from None
            time.sleep(PAUSE * 2**attempt)

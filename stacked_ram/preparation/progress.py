"""Progress bars on standard error, which a caller can turn off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_SHOWN = ContextVar("_SHOWN", default=True)


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars made inside this context."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress_bar(**settings: Any) -> tqdm:
    """Make a tqdm progress bar; it is disabled if hidden or if there is nothing to do."""
    return tqdm(**settings, disable=not _SHOWN.get() or settings.get("total") == 0)

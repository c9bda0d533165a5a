"""The app: a local page on which a photo is dropped, and the model is watched looking at it.

Built with Gradio, an optional package. Nothing leaves the machine: no analytics, no fonts from
elsewhere, no public link; the page listens on loopback unless told otherwise. What is uploaded
lies in a folder of this process, is deleted there after a few minutes, and goes with it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stacked_ram.checkpoint import LoadedRun, load_run, weights_file
from stacked_ram.data.dataset import stratified
from stacked_ram.errors import UserError
from stacked_ram.viz.animation import photo_frame, pixels_of
from stacked_ram.viz.belief import verdict
from stacked_ram.viz.looking import as_rgb, cut, look_as_tested
from stacked_ram.viz.sources import Split, read_file, true_shape
from stacked_ram.viz.story import strip_figure

if TYPE_CHECKING:
    from stacked_ram.viz.cli import Viz

MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
EXAMPLES = 10
PAUSE = 0.35  # seconds between steps, beside the time that drawing takes


def serve(options: Viz) -> None:
    """Open the page and stay until stopped. Raises UserError when Gradio is missing."""
    from stacked_ram.runs import now

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)  # uploads go however the page is ended
    with tempfile.TemporaryDirectory(prefix="stacked_ram_app_") as folder:
        page, launch = open_page(options, Path(folder))
        try:
            _, address, _ = page.launch(**launch)
        except OSError as error:
            raise UserError(f"--port: {options.port} cannot be used ({error})") from None
        print(f"open {address} ({now()}; Ctrl-C ends it)", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)


def open_page(options: Viz, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The page, not yet served, and how it is launched. folder: for uploads."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    try:
        from stacked_ram.viz import app_page
    except ImportError:
        raise UserError(
            "--app: needs the package gradio; pip install -r requirements-app.txt"
        ) from None
    runs = known_runs(options)
    first = cached_run(str(options.run), options.device)  # what is wrong with it is said at once
    examples = example_photos(first, options, folder / "examples")
    page = app_page.build_page(runs, first, examples, options.device)
    launch = {
        "server_name": options.host,
        "server_port": options.port,
        "share": False,
        "quiet": True,
        "inbrowser": False,
        "prevent_thread_lock": True,
        "max_file_size": MOST_BYTES,
        "allowed_paths": [str(folder / "examples")],
        "ssr_mode": False,
        "footer_links": [],
        "theme": app_page.local_theme(),
        "css": app_page.CSS,
    }
    return page, launch


def known_runs(options: Viz) -> dict[str, str]:
    """Names of models and where they are: the run, --compare, and the run's neighbours."""
    chosen = weights_file(options.run).parent.resolve()
    paths = [options.run, *([options.compare] if options.compare else [])]
    for neighbour in sorted(chosen.parent.iterdir()):
        if neighbour != chosen and any(neighbour.glob("best.safetensors")):
            paths.append(neighbour)
    runs: dict[str, str] = {}
    for path in paths:
        name = weights_file(path).parent.resolve().name
        runs.setdefault(name, str(path))
    return runs


@lru_cache(maxsize=4)
def cached_run(path: str, device: str) -> LoadedRun:
    return load_run(path, device)


def example_photos(run: LoadedRun, options: Viz, folder: Path) -> list[str]:
    """A few photos of the run's test split, as files; none where the data set is not at hand."""
    try:
        split = Split(run, options.split, options.dataset)
    except UserError:
        return []
    folder.mkdir(parents=True)
    files = []
    try:
        for row in stratified(split.dataset.labels, EXAMPLES):
            photo = split.photo(int(row))
            name = f"{run.classes[photo.label]}_{row}".replace("/", "_")
            stored = split.dataset.folder / photo.name
            if stored.is_file():
                path = folder / f"{name}{stored.suffix}"
                path.write_bytes(stored.read_bytes())
            else:
                path = folder / f"{name}.png"
                Image.fromarray(as_rgb(photo.pixels_CHW)).save(path)
            files.append(str(path))
    finally:
        split.close()
    return files


def location_of(path: str, index: Any) -> tuple[float, float]:
    """The location that a click on a photo's pixel (x, y) means. Raises UserError for no photo."""
    height, width = check_upload(path)
    x, y = (float(one) for one in index)
    return (
        float(np.clip(2 * (x + 0.5) / width - 1, -1, 1)),
        float(np.clip(2 * (y + 0.5) / height - 1, -1, 1)),
    )


def watch(
    run: LoadedRun, path: str, steps: int, least: float, first: tuple[float, float] | None
) -> Iterator[tuple[str, np.ndarray, dict[str, float], np.ndarray | None]]:
    """A scan path being made: after each step some words, a picture, the belief, and at the end
    the patches. Stops at the first step whose belief is at least `least`, if that is below 1.

    Raises UserError for what is no photo, or too large a one.
    """
    check_upload(path)
    photo = read_file(run, Path(path), Path(path).name)
    photo.label = None  # an upload's folder says nothing about it
    seen = next(look_as_tested(run, [photo], num_glimpses=steps, first_location=first))
    if least < 1:
        surest = seen.belief_TN.max(1) >= least
        seen = cut(seen, int(surest.argmax()) + 1 if surest.any() else steps)
    for step in range(1, seen.steps + 1):
        started = time.monotonic()
        frame = pixels_of(photo_frame(seen, step))
        shares = {
            name: float(share)
            for name, share in zip(seen.classes, seen.belief_TN[step - 1], strict=True)
        }
        last = step == seen.steps
        says = verdict(seen)[0] if last else f"after glimpse {step} …"
        strip = pixels_of(strip_figure(seen)) if last else None
        yield f"### {says}" if last else says, frame, shares, strip
        if not last:
            time.sleep(max(0.0, PAUSE - (time.monotonic() - started)))


def check_upload(path: str) -> tuple[int, int]:
    """(height, width). Raises UserError for what is too large, before its pixels are made, and
    for what is no image."""
    if os.path.getsize(path) > MOST_BYTES:
        raise UserError(f"{path}: more than {MOST_BYTES // 1_000_000} MB; reduce it first")
    try:
        height, width = true_shape(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path}: not an image that can be read") from None
    if height * width > MOST_PIXELS:
        raise UserError(f"{path}: more than {MOST_PIXELS // 1_000_000} million pixels")
    return height, width

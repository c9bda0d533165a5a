"""The app: a local page on which a photo is dropped, and the model is watched looking at it.

Built with Gradio, an optional package. Nothing leaves the machine: no analytics, no fonts from
elsewhere, no public link; the page listens on loopback unless told otherwise. What is uploaded
lies in a folder of this process, is deleted there after a few minutes, and goes with it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from stacked_ram.data.dataset import stratified
from stacked_ram.runs.checkpoint import LoadedRun, weights_file
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.app_view import MOST_BYTES, cached_run
from stacked_ram.viz.records import as_rgb
from stacked_ram.viz.sources import Split

if TYPE_CHECKING:
    from stacked_ram.cli.viz_options import Viz

EXAMPLES = 10


def serve(options: Viz) -> None:
    """Open the page and stay until stopped. Raises UserError when Gradio is missing."""
    from stacked_ram.runs.folder import now

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

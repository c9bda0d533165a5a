"""The app: a local page on which to drop a photo and watch the model look at it.

Built with Gradio, an optional package. Nothing leaves the machine: no analytics, no fonts from
elsewhere, no public link; the page listens on loopback by default. Uploads lie in a folder of this
process, are deleted after a few minutes, and go when the process ends.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from PIL import Image

from stacked_ram.data.dataset import stratified
from stacked_ram.images.uploads import MOST_BYTES
from stacked_ram.runs.checkpoint import LoadedRun, weights_file
from stacked_ram.runtime.errors import UserError
from stacked_ram.viz.app_view import cached_run
from stacked_ram.viz.draw import SplitName
from stacked_ram.viz.photo_record import answer_name
from stacked_ram.viz.photos import Split
from stacked_ram.viz.records import as_rgb

EXAMPLES = 10


def serve(
    run: str | Path,
    others: Sequence[str | Path] = (),
    *,
    stop_at: float | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    split: SplitName = "test",
    dataset: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Open the page and stay until stopped.

    Args:
        others: more runs to choose from, besides the runs in the same folder as `run`.
        stop_at: stop at this confidence, as the page's slider says in the beginning.
        host: the default is reachable from this machine alone.
        split, dataset: where the example photos come from, as in `draw_run`.

    Raises UserError where Gradio is missing or the port cannot be used.
    """
    from stacked_ram.runs.folder import now

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)  # so that the uploads are deleted however the app ends
    with tempfile.TemporaryDirectory(prefix="stacked_ram_app_") as folder:
        uploads = Path(folder)
        app_page = import_page(uploads)
        from stacked_ram.viz.app_guards import guards  # with Gradio comes what it needs

        first = cached_run(str(run), device)
        examples = example_photos(first, uploads / "examples", split, dataset)
        page = app_page.build_page(known_runs(run, others), first, examples, device, stop_at)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                max_file_size=MOST_BYTES,
                allowed_paths=[str(uploads / "examples")],
                ssr_mode=False,
                app_kwargs={"middleware": guards(host, uploads)},
                footer_links=[],
                theme=app_page.THEME,
                css=app_page.CSS,
            )
        except OSError as error:
            raise UserError(f"--port: {port} cannot be used ({error})") from None
        print(f"open {address} ({now()}; Ctrl-C ends it)", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)


def import_page(uploads: Path) -> ModuleType:
    """Import the module that builds the page, so that Gradio keeps everything on this machine."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(uploads),
        "HF_HUB_OFFLINE": "1",
    }
    try:
        from stacked_ram.viz import app_page  # reads these settings when it imports Gradio
    except ImportError:
        raise UserError(
            "--app: needs the package gradio; pip install -r requirements-app.txt"
        ) from None
    return app_page


def known_runs(run: str | Path, others: Sequence[str | Path]) -> dict[str, str]:
    """Names and paths of the models to choose from: the run, the others, and the runs in the same
    folder."""
    chosen = weights_file(run).parent.resolve()
    paths = [run, *others]
    for neighbour in sorted(chosen.parent.iterdir()):
        if neighbour != chosen and any(neighbour.glob("best.safetensors")):
            paths.append(neighbour)
    runs: dict[str, str] = {}
    for path in paths:
        name = weights_file(path).parent.resolve().name
        runs.setdefault(name, str(path))
    return runs


def example_photos(
    run: LoadedRun, folder: Path, split: SplitName, dataset: str | Path | None
) -> list[str]:
    """A few photos of a split, as files; none where the data set cannot be opened."""
    try:
        opened = Split(run, split, dataset)
    except UserError:
        return []
    folder.mkdir(parents=True)
    files = []
    with opened:
        for row in stratified(opened.dataset.labels, EXAMPLES):
            try:
                photo = opened.photo(int(row))
            except UserError:  # it cannot be read; `test` reports it
                continue
            known = photo.labels if photo.label is None else (photo.label,)
            name = f"{answer_name(known or (), run.classes)}_{row}".replace("/", "_")
            stored = opened.dataset.folder / photo.name
            if stored.is_file():
                path = folder / f"{name}{stored.suffix}"
                path.write_bytes(stored.read_bytes())
            else:
                path = folder / f"{name}.png"
                Image.fromarray(as_rgb(photo.pixels_CHW)).save(path)
            files.append(str(path))
    return files
